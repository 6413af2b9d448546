"""Coordination between the processes of a multi-host run.

Values, the point at which all stop, and the error of a process that fails go through the key-value store of
`jax.distributed`, which is in process 0. JAX notices a dead process only after a time-out, and a dead process 0
by an abort that does not name it. So each process also holds a connection to process 0 that carries only a
token at its start: it breaks as soon as either end dies.
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

from jax_vlffd.errors import UserError, printable

_DAY = 86_400.0  # seconds
#: Seconds for which process 0, and with it the store, stays up after a failure, so that the others read of it.
_LINGER = 5.0
#: Seconds until JAX has logged its errors about the lost store, so that our line comes last.
_AFTER_JAX = 0.5
#: TCP keep-alive, in seconds: when the kernel gives up on a machine that no longer answers.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

Fault = Callable[[int, Any, Any], str | None]


class SingleProcess:
    """A run of one process, with the interface of `ProcessGroup`."""

    index, count = 0, 1

    def __init__(self) -> None:
        #: Why the run should stop; empty as long as it should not.
        self.reason = ""

    def exchange(self, value: Any) -> list[Any]:
        """All processes' JSON-able values, by index; every process makes the same calls in the same order."""
        return [value]

    def request_stop(self, reason: str) -> None:
        """Asks all processes to stop at the same point."""
        self.reason = self.reason or reason

    def should_stop(self) -> bool:
        """Whether to stop here: the same on every process, which all call it equally often."""
        return bool(self.reason)

    def name(self, number: int) -> str:
        """A process's name in messages."""
        return f"process {number}"


class ProcessGroup(SingleProcess):
    """The processes of a multi-host run; made by `connect`."""

    def __init__(
        self, index: int, names: list[str], store: _Store, connections: Mapping[int, socket.socket]
    ):
        super().__init__()
        self.index, self.count, self.names = index, len(names), names
        self._store, self._connections = store, connections
        self._exchanges, self._stop_checks, self._stop_at = 0, 0, 0
        # Held while the processes agree on a stop, so that none passes it meanwhile.
        self._stop_lock = threading.Lock()
        self._leaving, self._others_gone = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._watch, self._agree_on_stop, self._end_on_failure)
        ]
        self._store_threads = threads[1:]
        for thread in threads:
            thread.start()

    def exchange(self, value: Any) -> list[Any]:
        """See `SingleProcess.exchange`; blocks until every process has called it."""
        key, before = f"values/{self._exchanges}", f"values/{self._exchanges - 1}"
        self._exchanges += 1
        if self.index:
            self._store.put(f"{key}/{self.index}", value)
            return cast(list[Any], self._store.get(f"{key}/all"))
        values = [value, *(self._store.get(f"{key}/{n}") for n in range(1, self.count))]
        self._store.put(f"{key}/all", values)
        self._store.delete(before)  # every process has read it
        return values

    def request_stop(self, reason: str) -> None:
        """See `SingleProcess.request_stop`; returns at once."""
        with contextlib.suppress(RuntimeError):  # the store is gone: all processes end
            self._store.put("stop", f"{self.name(self.index)} got {reason}")

    def should_stop(self) -> bool:
        """See `SingleProcess.should_stop`; True from a call on that no process has passed."""
        with self._stop_lock:
            self._stop_checks += 1
            return 0 < self._stop_at <= self._stop_checks

    def name(self, number: int) -> str:
        """See `SingleProcess.name`; with its host and pid."""
        return f"process {number} ({self.names[number]})"

    def broadcast_failure(self, message: str) -> None:
        """Ends the other processes with this message."""
        self._fail(self.index, f"{self.name(self.index)} stopped: {message}")
        if self.index == 0:
            self._others_gone.wait(_LINGER)

    def leave(self) -> None:
        """Leaves a successful run; returns when every process has called it, so that no failure is missed."""
        self.exchange(None)
        self._leaving.set()
        if self.index == 0:
            self._store.put("stop", "")
            self._store.put("failure", None)
        for thread in self._store_threads:  # Python must not exit while one waits in JAX's code
            thread.join()
        self.exchange(None)  # the others' threads may have needed this process until here

    # --- threads ---

    def _agree_on_stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            reason = self._store.get("stop", patience=_DAY)
            if not reason:
                return
            with self._stop_lock:
                self.reason = reason
                self._store.put(f"stop_checks/{self.index}", self._stop_checks)
                if self.index == 0:
                    checks = [self._store.get(f"stop_checks/{n}") for n in range(self.count)]
                    self._store.put("stop_at", max(checks) + 1)
                self._stop_at = self._store.get("stop_at")

    def _end_on_failure(self) -> None:
        with contextlib.suppress(RuntimeError):
            failure = self._store.get("failure", patience=_DAY)
            if failure and failure["process"] != self.index:
                if self.index == 0:
                    self._others_gone.wait(_LINGER)
                end(failure["message"])

    def _watch(self) -> None:
        """Notices when the process at the other end of a connection ends."""
        numbers = {connection: number for number, connection in self._connections.items()}
        while numbers:
            for connection in wait(list(numbers)):  # readable means broken: nothing is ever sent
                self._lost(numbers.pop(cast(socket.socket, connection)))
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
    """JSON values in the store of `jax.distributed`; the first value of a key stays.

    The methods raise JAX's RuntimeError when process 0 is gone.
    """

    def __init__(self, client: Any):
        self._client = client

    def put(self, key: str, value: Any) -> None:
        """Writes a value, unless the key has one."""
        try:
            self._client.key_value_set(f"jax_vlffd/{key}", json.dumps(value))
        except RuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def get(self, key: str, timeout: float = math.inf, patience: float = 1.0) -> Any:
        """Waits for a value; TimeoutError after `timeout` seconds.

        Each request blocks Python's signal handlers for `patience` seconds, and costs process 0 some memory.
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
        """Deletes all values below a key."""
        self._client.key_value_delete(f"jax_vlffd/{key}")


# --- connecting ---


def coordination() -> Any:
    """The state of `jax.distributed`: client, process_id, num_processes and coordinator_address."""
    from jax._src import distributed  # the store has no public name; Orbax uses it likewise

    return distributed.global_state


def connect(identity: Any, fault: Fault, timeout: float = 300.0) -> SingleProcess:
    """Connects the processes that `jax.distributed` has started, and checks that they run the same.

    Args:
      identity: JSON-able; what must agree, such as the code's version and the config.
      fault: (process, its identity, that of process 0) -> what differs, None if nothing does.
      timeout: seconds to wait for the others.

    Raises:
      UserError: processes disagree, or one does not connect.
    """
    state = coordination()
    index, count, store = state.process_id, state.num_processes, _Store(state.client)
    if state.client is None or count == 1:
        return SingleProcess()
    # JAX's abort then sleeps for 6 s (its signal's number), in which `_watch` names process 0; a handler in
    # Python would not run.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.sleep)
    name, token = f"{socket.gethostname()}, pid {os.getpid()}", secrets.token_hex(16)
    store.put(f"hello/{index}", {"name": name, "token": token, "identity": identity})
    try:
        if index == 0:
            connections, roster = _gather(store, count, fault, timeout)
        else:
            host = state.coordinator_address.rpartition(":")[0].strip("[]")
            connections = {0: _connect_to_first(index, host, store.get("port", timeout), token)}
            roster = store.get("roster", 2 * timeout)  # process 0 reports who is missing
    except (RuntimeError, TimeoutError) as error:
        raise UserError("process 0 ended while the processes connected; see its log") from error
    for connection in connections.values():
        connection.settimeout(_LINGER)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if roster["wrong"] and index == 0:
            with contextlib.suppress(OSError):
                connection.recv(1)  # closed when the other process has read why
    if roster["wrong"]:
        raise UserError(roster["wrong"])
    return ProcessGroup(index, roster["names"], store, connections)


def _gather(
    store: _Store, count: int, fault: Fault, timeout: float
) -> tuple[dict[int, socket.socket], dict[str, Any]]:
    """In process 0: the connections of the others, and the names and the fault that all of them read."""
    until, dual_stack = time.monotonic() + timeout, socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual_stack else socket.AF_INET
    hellos: dict[int, dict[str, Any]] = {}
    connections: dict[int, socket.socket] = {}
    with socket.create_server(
        ("", 0), family=family, backlog=count, dualstack_ipv6=dual_stack
    ) as server:
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
                received = b""
                with contextlib.suppress(OSError):
                    received = connection.recv(64)  # one small packet, so that it arrives complete
                if received in tokens:
                    connections[tokens.pop(received)] = connection
                else:
                    connection.close()  # not one of this run
    if missing := [str(n) for n in range(1, count) if n not in connections]:
        wrong = f"processes {', '.join(missing)} of {count} did not come within {timeout:g} s; see their logs"
    else:
        identities = [hellos[n]["identity"] for n in range(count)]
        faults = [fault(n, identities[n], identities[0]) for n in range(1, count)]
        wrong = "; ".join([text for text in faults if text][:3])
        if wrong:
            wrong += "; start all processes with the same code and the same flags"
    roster = {"names": [hello["name"] for hello in hellos.values()], "wrong": wrong}
    store.put("roster", roster)
    return connections, roster


def _connect_to_first(index: int, host: str, port: int, token: str) -> socket.socket:
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
    """Ends this process at once, whatever its threads wait for."""
    _ending.acquire()  # never released: only the first message is written
    sys.stdout.flush()
    sys.stderr.write("error: " + printable(" ".join(message.split())) + "\n")
    sys.stderr.flush()
    os._exit(status)
