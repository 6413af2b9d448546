"""The commands: `python -m launch.NAME --help`."""
