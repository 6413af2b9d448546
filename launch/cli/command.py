"""Runs a command: flags parsed by absl, errors in one line, exit statuses."""

from __future__ import annotations

import errno
import logging as standard
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from absl import app, flags, logging

from jax_vlffd.errors import UserError, printable

#: What storage says when it cannot take more, or may not be written.
OF_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


def run(main: Callable[[Sequence[str]], None], positional: bool = False) -> None:
    """Runs a command's `main(argv)` and ends the process.

    Args:
      main: of the command.
      positional: whether it takes arguments besides flags; others refuse them.

    Exit status: 0 success; 1 a user's mistake, in one line; 2 a wrong flag; 130 interrupted.
    A fault of the program itself keeps its traceback: it is ours to mend, not the user's.
    """
    app.run(lambda argv: _guarded(main, argv), flags_parser=partial(_parse, positional))


def use_compilation_cache() -> None:
    """Keeps compiled programs in a folder of the user's, so that a second start need not compile."""
    import jax

    # By default only programs of a second and more are kept, yet a start compiles dozens of small ones.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jax_vlffd", "xla"))


def _parse(positional: bool, argv: Sequence[str]) -> list[str]:
    flags.FLAGS.set_gnu_getopt()  # flags may follow other arguments
    try:
        rest: list[str] = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            # A config flag misses its file only when its config is read.
            hasattr(flags.FLAGS["config"].value, "keys")
    except flags.Error as error:
        _say(f"{error}; see --help")
        sys.exit(2)
    except (AttributeError, KeyError, OSError, ImportError) as error:
        _say(f"{_plain(error)}; see --help")
        sys.exit(2)
    except UserError as error:
        _say(str(error))
        sys.exit(1)
    except SystemExit:  # absl ends --help with status 1, yet to be shown the help is a success
        sys.exit(0)
    if len(rest) > 1 and not positional:
        _say(f"{rest[1]!r} is not a flag: write --name=value, lists with commas; see --help")
        sys.exit(2)
    return rest


def _guarded(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax logs each save in a dozen lines
        # and a failed one by a traceback, before it raises the same error.
        logging.get_absl_logger().addFilter(
            lambda record: not (record.exc_info and "orbax" in record.pathname)
        )
        _leave_out_late_writes()
    try:
        main(argv)
    except (UserError, KeyboardInterrupt) as error:
        sys.exit(report(error))
    except OSError as error:
        if error.errno not in OF_STORAGE:
            raise
        sys.exit(report(error))


def report(error: BaseException) -> int:
    """Says what ended a command, a user's mistake in one line; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted")
        return 130
    if isinstance(error, OSError) and error.errno in OF_STORAGE:
        where = f"{error.filename}: " if error.filename else ""
        _say(
            f"{where}{error.strerror}; make room there, or let this user write there, and start again"
        )
    elif isinstance(error, UserError):
        _say(str(error))
    else:
        traceback.print_exception(error)
    return 1


def _leave_out_late_writes() -> None:
    """Of a failed save Orbax raises the first write's error. Those that fail after it are asked by nobody, or
    find its event loop closed, and Python would print a traceback for each.
    """

    def late(error: BaseException | None) -> bool:
        closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        # In the command's own thread it would be a fault of ours.
        return closed and threading.current_thread() is not threading.main_thread()

    standard.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    uncaught, unraisable = sys.excepthook, sys.unraisablehook
    sys.excepthook = lambda kind, error, trace: (
        None if late(error) else uncaught(kind, error, trace)
    )
    sys.unraisablehook = lambda said: None if late(said.exc_value) else unraisable(said)


def _plain(error: Exception) -> str:
    """What a config flag says of an unknown key, which comes twice quoted, or of a missing file."""
    if found := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', str(error)):
        return f"the config has no key {found[2]!r}; did you mean {found[1]!r}?"
    text = str(error).rpartition("earlier failure to load: ")[2]
    if found := re.fullmatch(r"[\"'\\]*(\w+)[\"'\\]*", text):
        return f"the config has no key {found[1]!r}"
    return text


def _say(message: str) -> None:
    sys.stderr.write("error: " + printable(" ".join(message.split())) + "\n")
