"""Runs a command: parses flags with absl, prints errors in one line, sets the exit status."""

from __future__ import annotations

import errno
import logging as standard
import os
import re
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from absl import app, flags, logging

from jax_vlffd.errors import UserError, printable
from launch.cli import flag_errors, interrupts, outputs, streams
from launch.cli.recipes import recipe_fault

#: Letters of an error; what a file says may be longer than a terminal.
_MAX_MESSAGE: Final = 4000
#: Errors of storage that is full or cannot be written.
_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
#: Status of a program whose reader has gone: 128 and the number of SIGPIPE.
_NO_READER = 141

#: A recipe as the documents name it, and the folder of our packages, which is a checkout or `site-packages`.
_RECIPE = re.compile(r"(--?config=)?(configs/\w+\.py)((?::.*)?)", re.DOTALL)
_PACKAGES = Path(__file__).resolve().parents[2]


def run(
    main: Callable[[Sequence[str]], None],
    positional: bool = False,
    *,
    writes: Mapping[str, str] = types.MappingProxyType({}),
    reads: Sequence[str] = (),
) -> None:
    """Runs a command's `main(argv)` and ends the process.

    Args:
      main: the command.
      positional: whether it takes arguments besides flags.
      writes: flags that name outputs, each with its kind (see `launch.cli.outputs`).
      reads: flags that name inputs, which no output may be or hold.

    Exit status: 0 success; 1 a user error, in one line; 2 a wrong flag; 130 by Ctrl-C, 143 by SIGTERM; 141
    where nobody reads what it prints and it writes no file. An error of the program itself keeps its traceback.
    """
    streams.guard()
    app.run(
        lambda argv: _guarded(partial(_checked, main, writes, reads), argv),
        flags_parser=partial(_parse, positional),
    )


def use_compilation_cache() -> None:
    """Caches compiled programs in the user's cache folder, so that a second start need not compile."""
    import jax

    # By default only programs that take a second to compile are cached, but a start compiles many small ones.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jax_vlffd", "xla"))


def _parse(positional: bool, argv: Sequence[str]) -> list[str]:
    flags.FLAGS.set_gnu_getopt()  # flags may follow other arguments
    try:
        if "config" in flags.FLAGS:
            _accept_none()
        rest: list[str] = flags.FLAGS(_with_packaged_recipe(argv))
        if "config" in flags.FLAGS:
            # A missing config file is only reported when the config is read.
            hasattr(flags.FLAGS["config"].value, "keys")
            _check_config()
        flag_errors.check_numbers(
            {
                name: flags.FLAGS[name].value
                for name in flags.FLAGS
                if flags.FLAGS[name].present
                and "." not in name  # keys of configs have checks of their own
            }
        )
    except UserError as error:
        _print_error(str(error))
        sys.exit(1)
    except SystemExit as error:  # absl exits with status 1 after --help
        if (message := recipe_fault(error)) is None:
            sys.exit(0)
        _print_error(message)
        sys.exit(2)
    except Exception as error:
        message = recipe_fault(error) or flag_errors.message(error)
        if message is None:
            raise
        _print_error(message)
        sys.exit(2)
    if len(rest) > 1 and not positional:
        _print_error(
            f"{rest[1]!r} is not a flag: write --name=value, lists with commas; see --help"
        )
        sys.exit(2)
    return rest


def _with_packaged_recipe(argv: Sequence[str]) -> list[str]:
    """Replaces `configs/NAME.py`, where it is not in the working directory, by the installed recipe."""
    result = list(argv)
    for number, argument in enumerate(argv if "config" in flags.FLAGS else ()):
        match = _RECIPE.fullmatch(argument)
        if match and (match[1] or argv[number - 1] in ("--config", "-config")):
            installed = _PACKAGES / match[2]
            if installed.is_file() and not os.path.exists(match[2]):
                result[number] = f"{match[1] or ''}{installed}{match[3]}"
    return result


def _accept_none() -> None:
    """Lets a key be set to None, by that word: the settings then say whether it may be."""
    from ml_collections import config_flags

    class Parser(flags.FloatParser):
        def parse(self, argument: Any) -> Any:
            return None if argument == "None" else super().parse(argument)

    config_flags.register_flag_parser_for_type(float, Parser())


def _check_config() -> None:
    """Checks what the recipe returns, and refuses a whole group given on the command line.

    Such a group would drop the recipe's other values.

    Raises:
      UserError: names the type, or the group.
    """
    from ml_collections import ConfigDict, config_flags

    flag = flags.FLAGS["config"]
    if flag.value is None or not hasattr(flag, "override_values"):  # a bench takes it or not
        return
    if not isinstance(flag.value, ConfigDict):
        kind = type(flag.value).__name__
        raise UserError(
            f"{config_flags.get_config_filename(flag)}: get_config() returns a {kind}; return a ConfigDict, as "
            "configs/demo.py does"
        )
    chosen = config_flags.get_override_values(flag)
    for name, value in chosen.items():
        if hasattr(value, "keys"):
            key = next(iter(value.keys()), "KEY")
            raise UserError(
                f"--config.{name} would drop the recipe's other values of {name}; give each key by itself, as "
                f"--config.{name}.{key}=VALUE"
            )


def _guarded(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax logs a dozen lines per save
        # and a traceback of a failed one, before it raises the same error.
        logging.get_absl_logger().addFilter(
            lambda record: not (record.exc_info and "orbax" in record.pathname)
        )
        _silence_late_writes()
    with interrupts.ends_on_signals():
        try:
            main(argv)
            sys.stdout.flush()
        except BaseException as error:
            if interrupts.is_interrupted() or isinstance(error, KeyboardInterrupt):
                interrupts.end()
            if isinstance(error, BrokenPipeError) and error.filename == streams.STDOUT:
                sys.exit(_NO_READER)
            if not _is_users(error):
                raise
            sys.exit(report(error))


def _checked(
    main: Callable[[Sequence[str]], None],
    writes: Mapping[str, str],
    reads: Sequence[str],
    argv: Sequence[str],
) -> None:
    """Runs `main` once its outputs are sure not to lie in the way of anything."""
    outputs.check(
        {name: (kind, _given(name)) for name, kind in writes.items()},
        {f"--{name}": flags.FLAGS[name].value for name in reads} | {"this command": argv[1:]},
    )
    if not any(flags.FLAGS[name].value for name in writes):
        streams.end_without_reader()
    main(argv)


def _given(name: str) -> Any:
    """The value of a flag; None where it is empty and need not be given."""
    flag = flags.FLAGS[name]
    return flag.value if flag.value or flag.default is None else None


def _is_users(error: BaseException) -> bool:
    """Whether one line reports an error: an OSError that names its file says as much as its traceback."""
    storage = isinstance(error, OSError) and (error.errno in _STORAGE_ERRNOS or error.filename)
    return bool(storage) or isinstance(error, (UserError, MemoryError))


def check_unused(names: Iterable[str], reason: str) -> None:
    """Refuses flags that have no effect.

    Args:
      names: of the flags.
      reason: why they have none, as 'without --html'.

    Raises:
      UserError: one of them is set on the command line.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} has no effect {reason}; leave it out")


def report(error: BaseException) -> int:
    """Prints the error that ended a command, a user error in one line; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        _print_error(interrupts.message())
        return interrupts.status()
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        where = f"{error.filename}: " if error.filename else ""
        _print_error(
            f"{where}{error.strerror}; free space there, or allow this user to write there, and start again"
        )
    elif isinstance(error, OSError) and error.filename:
        _print_error(f"{error.filename}: {error.strerror}")
    elif isinstance(error, MemoryError):
        _print_error(f"out of memory ({error}); give smaller batches, pictures or fewer --workers")
    elif isinstance(error, UserError):
        _print_error(str(error))
    else:
        traceback.print_exception(error)
    return 1


def _silence_late_writes() -> None:
    """Silences the tracebacks of late writes: Orbax raises the first error of a failed save, but Python would
    print those of later writes too, which find the event loop closed.
    """

    def late(error: BaseException | None) -> bool:
        closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if isinstance(
            error, KeyboardInterrupt
        ):  # raised where Python cannot: the command ends all the same
            return True
        # In the main thread it would be an error of this program.
        return closed and threading.current_thread() is not threading.main_thread()

    # Of some of them the message says nothing of Orbax, but its traceback does.
    formatted = standard.Formatter().format
    standard.getLogger("asyncio").addFilter(lambda record: "orbax" not in formatted(record))
    uncaught, unraisable = sys.excepthook, sys.unraisablehook
    sys.excepthook = lambda kind, error, trace: (
        None if late(error) else uncaught(kind, error, trace)
    )
    sys.unraisablehook = lambda info: None if late(info.exc_value) else unraisable(info)


def _print_error(message: str) -> None:
    text = printable(" ".join(message.split()))
    sys.stderr.write(f"error: {text[:_MAX_MESSAGE]}{' ...' * (len(text) > _MAX_MESSAGE)}\n")
