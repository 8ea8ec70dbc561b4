"""Progress bars in a terminal: lines of text that wrap, and rows of bars below them.

Decided here: that a name is shown as it is (no markup, no emoji), and what is left out where the
terminal is narrow. Never here: what is shown. rich's console takes some hundredths of a second, so
this is imported by what shows bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from relay.cli.terminal import plain

NARROW = 70
"""A terminal of fewer columns gets shorter bars."""


class Bars(Progress):
    """Rows of bars. `head` are the lines above them; who sets them calls `refresh`."""

    head: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn: the text wraps, the rows are cut."""
        yield from (Text(plain(line), overflow="fold") for line in self.head)
        yield self.make_tasks_table(self.tasks)

    def tell(self, line: str) -> None:
        """Print a line above, that stays."""
        self.console.print(Text(plain(line), style="red", overflow="fold"))


@contextmanager
def bars(
    *after: type[ProgressColumn], wide: tuple[type[ProgressColumn], ...] = ()
) -> Iterator[Bars]:
    """Show bars on stderr: a description, the bar, and what comes `after`; `wide` where there is
    room for it."""
    console = Console(stderr=True, emoji=False)
    narrow = console.width < NARROW
    length = 10 if narrow else 24
    columns = (
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
        BarColumn(bar_width=length, table_column=Column(width=length, no_wrap=True)),
        *(
            kind(table_column=Column(no_wrap=True))
            for kind in (after if narrow else (*after, *wide))
        ),
    )
    with Bars(*columns, console=console, auto_refresh=False, transient=True) as shown:
        yield shown
