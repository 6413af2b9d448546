"""How the processes of one run keep in touch, beside the devices' own collectives.

Every process holds one TCP connection to process 0. Over it they see at the start that they run the same,
hand small values around, settle where all of them stop, and notice at once when one of them ends. JAX's own
service notices that as well, but only after a time-out, or by an abort that names nobody.

All of it is ours; the connection is opened by whoever knows the token, and carries JSON lines only.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax_vlffd.errors import UserError

_LONGEST = 64 << 20  # bytes of a line; a tokenizer is the largest thing that is handed around
#: Seconds until the kernel finds that the other end's machine no longer answers.
_SILENT = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

Fault = Callable[[int, Any, Any], str | None]


class Alone:
    """A run of one process: what `Peers` does for many."""

    index, count = 0, 1

    def __init__(self) -> None:
        #: Why the run is to stop; empty while it is not.
        self.reason = ""

    def exchange(self, value: Any) -> list[Any]:
        """Every process's JSON-able value, by process; all of them call it in the same order."""
        return [value]

    def request_stop(self, reason: str) -> None:
        """Asks all processes to stop at a place that they agree on."""
        self.reason = self.reason or reason

    def reached(self) -> bool:
        """Whether to stop here; asked equally often by every process, and answered alike."""
        return bool(self.reason)

    def name(self, number: int) -> str:
        """What a process is called in messages."""
        return f"process {number}"


class Peers(Alone):
    """The other processes; made by `meet`."""

    def __init__(self, index: int, names: list[str], links: Mapping[int, _Link]):
        super().__init__()
        self.index, self.count, self.names = index, len(names), names
        self._links = links
        self._results: queue.Queue[list[Any]] = queue.Queue()
        self._values: dict[int, collections.deque[Any]] = collections.defaultdict(collections.deque)
        self._lock = threading.Lock()  # of what several threads change
        # Held while a stopping place is being found, so that nobody walks past it meanwhile.
        self._gate = threading.Lock()
        self._asked, self._stop_at, self._places = 0, 0, dict[int, int]()
        self._left: set[int] = set()
        self._all_left = threading.Event()
        for other, link in links.items():
            threading.Thread(target=self._listen, args=(other, link), daemon=True).start()

    def exchange(self, value: Any) -> list[Any]:
        """See `Alone.exchange`; blocks until every process has come here."""
        if self.index == 0:
            self._collect(0, value)
        else:
            self._links[0].send({"value": value})
        return self._results.get()

    def request_stop(self, reason: str) -> None:
        """See `Alone.request_stop`; returns at once."""
        reason = f"process {self.index} ({self.names[self.index]}) got {reason}"
        if self.index == 0:
            self._ask(reason)
        else:
            self._links[0].send({"stop": reason})

    def reached(self) -> bool:
        """See `Alone.reached`; the first place that no process has passed yet when one asks to stop."""
        with self._gate:
            self._asked += 1
            return 0 < self._stop_at <= self._asked

    def name(self, number: int) -> str:
        """See `Alone.name`; with its host and pid."""
        return f"process {number} ({self.names[number]})"

    def tell(self, message: str) -> None:
        """Last words: the others end with this message."""
        if self.index == 0:
            self._broadcast({"end": f"process 0 ({self.names[0]}) stopped: {message}"})
        else:
            self._links[0].send({"error": message})

    def leave(self) -> None:
        """Ends in peace: returns when every process has come here, so that no end goes unseen before."""
        if self.index == 0:
            self._note_left(0)
        else:
            self._links[0].send({"bye": True})
        self._all_left.wait()

    # --- what comes in ---

    def _listen(self, other: int, link: _Link) -> None:
        for message in link.lines():
            [(kind, value)] = message.items()
            match kind:
                case "value":
                    self._collect(other, value)
                case "values":
                    self._results.put(value)
                case "stop":
                    self._ask(value)
                case "ask":
                    self._gate.acquire()
                    self.reason = value
                    link.send({"place": self._asked})
                case "place":
                    self._place(other, value)
                case "stop_at":
                    self._stop_at = value
                    self._gate.release()
                case "bye":
                    self._note_left(other)
                case "error":
                    self._end_all(f"process {other} ({self.names[other]}) stopped: {value}")
                case "end":
                    end(value)
        if other not in self._left:
            self._end_all(
                f"process {other} ({self.names[other]}) ended without a word: killed, out of memory, or "
                "its machine is down; all processes stop: start them again, and they go on from the last "
                "checkpoint"
            )

    def _end_all(self, message: str) -> None:
        self._broadcast({"end": message})
        end(message)

    # --- process 0 ---

    def _broadcast(self, message: dict[str, Any]) -> None:
        for other, link in self._links.items():
            if self.index == 0 and other not in self._left:
                link.send(message)

    def _collect(self, other: int, value: Any) -> None:
        with self._lock:
            self._values[other].append(value)
            if len(self._values) < self.count or not all(self._values.values()):
                return
            values = [self._values[number].popleft() for number in range(self.count)]
            self._broadcast({"values": values})
        self._results.put(values)

    def _ask(self, reason: str) -> None:
        with self._lock:
            if self.reason or self._left:
                return  # they stop already
            self.reason = reason
        self._gate.acquire()
        self._broadcast({"ask": reason})
        self._place(0, self._asked)

    def _place(self, other: int, asked: int) -> None:
        with self._lock:
            self._places[other] = asked
            if len(self._places) < self.count:
                return
            self._stop_at = max(self._places.values()) + 1
            self._broadcast({"stop_at": self._stop_at})
        self._gate.release()

    def _note_left(self, other: int) -> None:
        with self._lock:
            if self.index == 0:
                self._left.add(other)
                if len(self._left) < self.count:
                    return
                for link in self._links.values():
                    link.send({"bye": True})
            else:
                self._left.add(other)
        self._all_left.set()


def meet(
    index: int,
    count: int,
    host: str,
    publish: Callable[[str], None],
    lookup: Callable[[], str],
    identity: Any,
    fault: Fault,
    timeout: float = 300.0,
) -> Peers:
    """Connects the processes of a run, and sees that they run the same.

    Args:
      index: of this process.
      count: of all.
      host: where process 0 is reached.
      publish: puts a text where all processes find it; called by process 0.
      lookup: waits for that text.
      identity: JSON-able: what must agree.
      fault: (number, its identity, that of process 0) -> what differs, None when nothing does.
      timeout: seconds to wait for the others.

    Raises:
      UserError: processes disagree, or one does not come.
    """
    hello: dict[str, Any] = {
        "index": index,
        "name": f"{socket.gethostname()}, pid {os.getpid()}",
        "identity": identity,
    }
    if index:
        port, token = json.loads(lookup())
        try:
            connection = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise UserError(
                f"process {index} cannot reach process 0 at {host}:{port} ({error}); let the hosts of a run "
                "connect to each other on every port"
            ) from error
        link = _Link(connection)
        link.send({**hello, "token": token})
        answer: dict[str, Any] = next(
            link.lines(), {"refused": "process 0 ended while the processes met"}
        )
        if "refused" in answer:
            raise UserError(answer["refused"])
        return Peers(index, answer["names"], {0: link})
    with socket.create_server(("", 0), backlog=count) as server:
        token = secrets.token_hex(16)
        server.settimeout(timeout)
        publish(json.dumps([server.getsockname()[1], token]))
        found = {0: (hello, None)} | dict(_arrivals(server, token, count, timeout))
    names = [found[number][0]["name"] for number in range(count)]
    links = {number: link for number, (_, link) in found.items() if link is not None}
    wrong = [
        text
        for number in range(1, count)
        if (text := fault(number, found[number][0]["identity"], identity))
    ]
    message = f"{'; '.join(wrong[:3])}; start all processes with the same code and the same flags"
    for link in links.values():
        link.send({"refused": message} if wrong else {"names": names})
    if wrong:
        raise UserError(message)
    return Peers(0, names, links)


def _arrivals(
    server: socket.socket, token: str, count: int, timeout: float
) -> Iterator[tuple[int, tuple[dict[str, Any], _Link]]]:
    missing = set(range(1, count))
    while missing:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            raise UserError(
                f"processes {', '.join(map(str, sorted(missing)))} of {count} did not come within "
                f"{timeout:.0f} s; see their logs"
            ) from None
        link = _Link(connection)
        connection.settimeout(10.0)
        hello = next(link.lines(), None)
        connection.settimeout(None)
        known = isinstance(hello, dict) and hello.get("token") == token
        if hello is not None and known and hello.get("index") in missing:
            missing.remove(hello["index"])
            yield hello["index"], (hello, link)
        else:
            connection.close()  # someone else's


class _Link:
    """JSON lines over a connection."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _SILENT.items():
            if hasattr(socket, name):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._connection, self._file = connection, connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends; that the other end is gone is found by listening."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """What comes in, until the other end closes or breaks off."""
        with contextlib.suppress(OSError, ValueError):
            while (line := self._file.readline(_LONGEST)).endswith(b"\n"):
                yield json.loads(line)


_ending = threading.Lock()


def end(message: str, status: int = 1) -> None:
    """Ends this process at once, whatever its other threads wait for."""
    _ending.acquire()  # for good: the first message is the one that counts
    sys.stdout.flush()
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.stderr.flush()
    os._exit(status)
