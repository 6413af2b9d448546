"""Coordination between the processes of a multi-host run.

Values, the place where all stop, and the last words of a process that fails go through the key-value store of
`jax.distributed`, which lives in process 0. JAX notices only after a time-out that a process died, and that
process 0 did by an abort that names nobody. So each process also holds a connection to process 0 that carries
nothing but a token at its start: it breaks off as soon as one of its ends dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from typing import Any, cast

from jax_vlffd.errors import UserError

_DAY = 86_400.0  # seconds
#: Seconds that process 0, and the store with it, outlives a failure at most, for the others to read of it.
_LINGER = 5.0
#: Seconds in which JAX has written what it has to say when the store is gone; our line comes last.
_AFTER_JAX = 0.5
#: Seconds until the kernel finds that the other end's machine no longer answers.
_SILENT = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

Fault = Callable[[int, Any, Any], str | None]


class SingleProcess:
    """A run of one process: what `ProcessGroup` does for many."""

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

    def should_stop(self) -> bool:
        """Whether to stop here; asked equally often by every process, and answered alike."""
        return bool(self.reason)

    def name(self, number: int) -> str:
        """What a process is called in messages."""
        return f"process {number}"


class ProcessGroup(SingleProcess):
    """The processes of a multi-host run; made by `connect`."""

    def __init__(
        self, index: int, names: list[str], store: _Store, connections: Mapping[int, socket.socket]
    ):
        super().__init__()
        self.index, self.count, self.names = index, len(names), names
        self._store, self._connections = store, connections
        self._exchanges, self._asked, self._stop_at = 0, 0, 0
        # Held while a stopping place is agreed on, so that nobody walks past it meanwhile.
        self._gate = threading.Lock()
        self._leaving, self._others_gone = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._watch, self._agree_on_stop, self._hear_failure)
        ]
        self._in_store = threads[1:]
        for thread in threads:
            thread.start()

    def exchange(self, value: Any) -> list[Any]:
        """See `SingleProcess.exchange`; blocks until every process has come here."""
        key, before = f"values/{self._exchanges}", f"values/{self._exchanges - 1}"
        self._exchanges += 1
        if self.index:
            self._store.put(f"{key}/{self.index}", value)
            return cast(list[Any], self._store.get(f"{key}/all"))
        values = [value, *(self._store.get(f"{key}/{n}") for n in range(1, self.count))]
        self._store.put(f"{key}/all", values)
        self._store.delete(before)  # whoever has come here has read it
        return values

    def request_stop(self, reason: str) -> None:
        """See `SingleProcess.request_stop`; returns at once."""
        with contextlib.suppress(RuntimeError):  # the store is gone: all end
            self._store.put("stop", f"{self.name(self.index)} got {reason}")

    def should_stop(self) -> bool:
        """See `SingleProcess.should_stop`; from the first place on that none had passed when one asked."""
        with self._gate:
            self._asked += 1
            return 0 < self._stop_at <= self._asked

    def name(self, number: int) -> str:
        """See `SingleProcess.name`; with its host and pid."""
        return f"process {number} ({self.names[number]})"

    def broadcast_failure(self, message: str) -> None:
        """Last words: the others end with this message."""
        self._fail(self.index, f"{self.name(self.index)} stopped: {message}")
        if self.index == 0:
            self._others_gone.wait(_LINGER)

    def leave(self) -> None:
        """Ends in peace: returns when every process has come here, so that no end goes unseen before."""
        self.exchange(None)
        self._leaving.set()
        if self.index == 0:
            self._store.put("stop", "")
            self._store.put("failure", None)
        for thread in self._in_store:  # Python must not end while one waits in JAX's code
            thread.join()
        self.exchange(None)  # the others' threads may have needed this process until here

    # --- threads ---

    def _agree_on_stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            reason = self._store.get("stop", patience=_DAY)
            if not reason:
                return
            with self._gate:
                self.reason = reason
                self._store.put(f"place/{self.index}", self._asked)
                if self.index == 0:
                    places = [self._store.get(f"place/{n}") for n in range(self.count)]
                    self._store.put("stop_at", max(places) + 1)
                self._stop_at = self._store.get("stop_at")

    def _hear_failure(self) -> None:
        with contextlib.suppress(RuntimeError):
            failure = self._store.get("failure", patience=_DAY)
            if failure and failure["process"] != self.index:
                if self.index == 0:
                    self._others_gone.wait(_LINGER)
                end(failure["message"])

    def _watch(self) -> None:
        """Notices that a process at the other end of a connection has ended."""
        left = {connection: number for number, connection in self._connections.items()}
        while left:
            for connection in wait(list(left)):  # nothing is ever sent: it has broken off
                self._lost(left.pop(cast(socket.socket, connection)))
        self._others_gone.set()

    def _lost(self, number: int) -> None:
        message = (
            f"{self.name(number)} ended without a word: killed, out of memory, or its machine is down; all "
            "processes stop: start them again, and they go on from the last checkpoint"
        )
        if self._leaving.is_set():
            return
        if self.index == 0:
            self._fail(number, message)
        else:
            time.sleep(_AFTER_JAX)
            end(message)

    def _fail(self, number: int, message: str) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.put("failure", {"process": number, "message": message})


class _Store:
    """JSON values in the store of `jax.distributed`; what is written first under a key stays.

    Its methods raise JAX's RuntimeError when process 0 is gone.
    """

    def __init__(self, client: Any):
        self._client = client

    def put(self, key: str, value: Any) -> None:
        """Writes a value, unless there is one."""
        try:
            self._client.key_value_set(f"jax_vlffd/{key}", json.dumps(value))
        except RuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def get(self, key: str, timeout: float = math.inf, patience: float = 1.0) -> Any:
        """Waits for a value; TimeoutError after `timeout` seconds.

        Within `patience` seconds Python hears no signal; after them it asks anew, which process 0 remembers.
        """
        until = time.monotonic() + timeout
        wait_ms = int(1000 * min(patience, max(timeout, 0.01)))
        while True:
            try:
                return json.loads(self._client.blocking_key_value_get(f"jax_vlffd/{key}", wait_ms))
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            if time.monotonic() > until:
                raise TimeoutError(f"{key} was not written within {timeout:g} s")

    def delete(self, key: str) -> None:
        """Removes all values below a key."""
        self._client.key_value_delete(f"jax_vlffd/{key}")


# --- how they connect ---


def coordination() -> Any:
    """The state of `jax.distributed`: client, process_id, num_processes and coordinator_address."""
    from jax._src import distributed  # the store has no public name; Orbax uses it likewise

    return distributed.global_state


def connect(identity: Any, fault: Fault, timeout: float = 300.0) -> SingleProcess:
    """Connects the processes that `jax.distributed` has started, and sees that they run the same.

    Args:
      identity: JSON-able: what must agree.
      fault: (number, its identity, that of process 0) -> what differs, None when nothing does.
      timeout: seconds to wait for the others.

    Raises:
      UserError: processes disagree, or one does not come.
    """
    state = coordination()
    index, count, store = state.process_id, state.num_processes, _Store(state.client)
    if state.client is None or count == 1:
        return SingleProcess()
    # An abort sleeps 6 s, the number of its signal, in which `_watch` names process 0; no Python runs in it.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.sleep)
    name, token = f"{socket.gethostname()}, pid {os.getpid()}", secrets.token_hex(16)
    store.put(f"hello/{index}", {"name": name, "token": token, "identity": identity})
    try:
        if index == 0:
            connections, met = _gather(store, count, fault, timeout)
        else:
            host = state.coordinator_address.rpartition(":")[0].strip("[]")
            connections = {0: _reach(index, host, store.get("port", timeout), token)}
            met = store.get("met", 2 * timeout)  # process 0 knows better who is missing
    except (RuntimeError, TimeoutError) as error:
        raise UserError("process 0 ended while the processes met; see its log") from error
    for connection in connections.values():
        connection.settimeout(_LINGER)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _SILENT.items():
            if hasattr(socket, option):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if met["wrong"] and index == 0:
            with contextlib.suppress(OSError):
                connection.recv(1)  # the others are gone when they have read why
    if met["wrong"]:
        raise UserError(met["wrong"])
    return ProcessGroup(index, met["names"], store, connections)


def _gather(
    store: _Store, count: int, fault: Fault, timeout: float
) -> tuple[dict[int, socket.socket], dict[str, Any]]:
    """In process 0: the connections of the others, and what all of them are to know."""
    until, both = time.monotonic() + timeout, socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    hellos: dict[int, dict[str, Any]] = {}
    connections: dict[int, socket.socket] = {}
    with socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=both) as server:
        store.put("port", server.getsockname()[1])
        for number in range(count):
            with contextlib.suppress(TimeoutError):
                hellos[number] = store.get(f"hello/{number}", until - time.monotonic())
        tokens = {hello["token"].encode(): n for n, hello in hellos.items() if n}
        with contextlib.suppress(TimeoutError):
            while tokens:
                server.settimeout(max(0.01, until - time.monotonic()))
                connection, _ = server.accept()
                connection.settimeout(5.0)
                shown = b""
                with contextlib.suppress(OSError):
                    shown = connection.recv(64)  # sent at once, so that it comes whole
                if shown in tokens:
                    connections[tokens.pop(shown)] = connection
                else:
                    connection.close()  # someone else's
    if missing := [str(n) for n in range(1, count) if n not in connections]:
        wrong = f"processes {', '.join(missing)} of {count} did not come within {timeout:g} s; see their logs"
    else:
        identities = [hellos[n]["identity"] for n in range(count)]
        faults = [fault(n, identities[n], identities[0]) for n in range(1, count)]
        wrong = "; ".join([text for text in faults if text][:3])
        if wrong:
            wrong += "; start all processes with the same code and the same flags"
    met = {"names": [hello["name"] for hello in hellos.values()], "wrong": wrong}
    store.put("met", met)
    return connections, met


def _reach(index: int, host: str, port: int, token: str) -> socket.socket:
    try:
        connection = socket.create_connection((host, port), 60.0)
        connection.sendall(token.encode())
    except OSError as error:
        raise UserError(
            f"process {index} cannot reach process 0 at {host}:{port} ({error}); let the hosts of a run "
            "connect to each other on every port"
        ) from error
    return connection


_ending = threading.Lock()


def end(message: str, status: int = 1) -> None:
    """Ends this process at once, whatever its other threads wait for."""
    _ending.acquire()  # for good: the first message is the one that counts
    sys.stdout.flush()
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.stderr.flush()
    os._exit(status)
