"""The commands: `python -m launch.NAME --help`."""

import sys

if sys.argv[:1] == ["-m"]:  # a command, whose own imports come next
    import signal

    from launch.cli import streams

    streams.open_closed()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `command.run`: without a traceback
