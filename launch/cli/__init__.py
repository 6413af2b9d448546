"""Shared code of the commands: error handling, flags, progress, tables."""
