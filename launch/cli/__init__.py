"""Shared by the commands: running them, flags, progress, tables."""
