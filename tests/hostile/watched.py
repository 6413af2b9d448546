"""Runs a command and writes down what its interpreter opens, imports, connects to and starts.

python tests/hostile/watched.py LOG MODULE ARGUMENT...
"""

from __future__ import annotations

import os
import runpy
import sys

_EVENTS = (
    "open",
    "import",
    "os.listdir",
    "os.scandir",
    "exec",
    "os.exec",
    "subprocess.Popen",
    "socket.",
)


def _watch(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event != "exec" and event.startswith(_EVENTS):
            os.write(file, f"{event} {arguments!r}\n".encode(errors="backslashreplace"))

    sys.addaudithook(hook)


if __name__ == "__main__":
    _watch(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
