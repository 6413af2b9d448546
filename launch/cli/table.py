"""Tables on stdout: drawn by rich on a terminal, elsewhere plain aligned text whose lines are not broken."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from jax_vlffd.errors import printable

#: Columns of a page that no table fills.
_UNBOUNDED: Final = 1_000_000


def show(rows: Iterable[Sequence[str]], header: Sequence[str] = (), title: str = "") -> None:
    """Prints a table. What could command a terminal, markup and escapes, is shown as it is written.

    Args:
      rows: the cells, of the same number in each row.
      header: over the columns; none is shown unless given.
      title: over the table, as a line of its own.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    # Not rich's own guess: FORCE_COLOR would put escapes into a file.
    console = Console(force_terminal=terminal, width=None if terminal else _UNBOUNDED)
    table = Table(
        box=box.SIMPLE_HEAD if terminal and header else None,
        show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0),
    )  # fmt: skip
    rows = list(rows)
    for name in header or [""] * len(rows[0] if rows else ()):
        table.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    lines = [printable(title)] * bool(title) + capture.get().splitlines()
    print("\n".join(line.rstrip() for line in lines), flush=True)
