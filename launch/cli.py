"""What every command shares: flags parsed by absl, errors in one line, honest exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from data_pipeline.errors import UserError as DataError
from jax_vlffd.errors import UserError as ModelError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a command's `main(argv)` and ends the process.

    Exit status: 0 success; 1 a user's mistake, told in one line; 2 a wrong flag; 130 interrupted.
    A fault of the program itself keeps its traceback: it is ours to mend, not the user's.
    """
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest: list[str] = flags.FLAGS(argv)
    except flags.Error as error:
        _say(f"{error}; see --help")
        sys.exit(2)
    except SystemExit:  # absl ends --help with status 1, yet to be shown the help is a success
        sys.exit(0)
    return rest


def _guarded(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    try:
        main(argv)
    except (DataError, ModelError) as error:
        _say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)


def _say(message: str) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
