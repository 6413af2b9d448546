"""The one exception that is meant for the user's eyes."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input: the message names the file or record and what to do."""
