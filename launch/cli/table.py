"""Tables on stdout: drawn by rich on a terminal, otherwise plain aligned text without line breaks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from jax_vlffd.errors import printable

#: A width in columns that no table reaches.
_UNBOUNDED: Final = 1_000_000


def show(rows: Iterable[Sequence[str]], header: Sequence[str] = (), title: str = "") -> None:
    """Prints a table. Markup and escape codes in cells are shown as text.

    Args:
      rows: the cells, the same number in each row.
      header: of the columns; empty for none.
      title: a line above the table; empty for none.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    # Do not let rich decide: FORCE_COLOR would write escape codes to a file.
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
