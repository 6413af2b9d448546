"""On the path of spawned workers: watches them; see tests/support/watched.py."""

from tests.support import watched

watched.watch_if_asked()
