"""Writes down what an interpreter opens, imports, connects to and starts, and says what is not allowed.

python tests/support/watched.py LOG MODULE ARGUMENT... runs a command so. Forked commands, and the workers that
they spawn, watch themselves where $VLFFD_WATCH names the log; see `environment`.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_EVENTS = (
    "open",
    "import",
    "os.",
    "shutil.",
    "exec",
    "subprocess.Popen",
    "socket.",
)
#: Events that change or start nothing and name no place.
_PASSED = ("os.putenv", "os.unsetenv", "os.fork", "os.walk", "os.fwalk")
#: Beside the interpreter's, the repository, and the folders of the test.
SYSTEM = (
    "/proc/", "/dev/", "/sys/", "/etc/", "/usr/", "/lib", "/bin/", "/opt/", "/var/cache/fontconfig/",
)  # fmt: skip
#: By which charts ask for the system's fonts.
_FONTS = "fc-list"
_WATCH = "VLFFD_WATCH"
_WORKERS = Path(__file__).with_name("watch_workers")
_TEXT = r"""b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*\""""
#: Places are the first arguments of these, and the second where there is one.
_PLACES = re.compile(rf"^(open|os\.\w+|shutil\.\w+) \(({_TEXT})(?:, ({_TEXT}))?")


def watch(log: str) -> None:
    """Adds a hook to this interpreter; it stays to the end."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event != "exec" and event.startswith(_EVENTS) and not event.startswith(_PASSED):
            os.write(file, f"{event} {arguments!r}\n".encode(errors="backslashreplace"))

    sys.addaudithook(hook)


def environment(log: Path, usual: dict[str, str]) -> dict[str, str]:
    """The environment of a command that writes to `log`, its spawned workers too."""
    return usual | {_WATCH: str(log), "PYTHONPATH": f"{_WORKERS}{os.pathsep}{usual['PYTHONPATH']}"}


def watch_if_asked() -> None:
    """Watches where the environment asks for it."""
    if log := os.environ.get(_WATCH):
        watch(log)


def faults(log: Path, allowed: Iterable[Path], cwd: Path) -> Iterator[str]:
    """The events outside the allowed folders, and all of the network and of other programs.

    Args:
      log: of the hook.
      allowed: folders, beside the system's, Python's and the repository.
      cwd: of the command.
    """
    homes = [*allowed, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent,
             Path(__file__).parents[2]]  # fmt: skip
    starts = tuple(f"{os.path.abspath(home)}/" for home in homes) + SYSTEM
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith(("socket.connect", "socket.getaddrinfo", "os.exec", "os.system")):
            if "AF_UNIX" not in line:
                yield line
        elif line.startswith(("subprocess.Popen", "os.posix_spawn")):
            if sys.executable not in line and _FONTS not in line:
                yield line
        elif match := _PLACES.match(line):
            # The second argument of `open` is its mode.
            for text in match.groups()[1 : 2 if match[1] == "open" else 3]:
                if text is None:
                    continue
                place = os.path.join(cwd, os.fsdecode(ast.literal_eval(text)))
                if not f"{os.path.normpath(place)}/".startswith(starts):
                    yield line


if __name__ == "__main__":
    watch(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
