"""Progress bars in a terminal: lines of text that wrap, and rows of bars below them.

Decided here: a name is shown without markup and emoji, and a narrow terminal gets fewer columns.
Never here: the content. rich's console takes some hundredths of a second, so only code that shows
bars imports this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from relay.cli.terminal import Screen, plain

NARROW = 70
"""A terminal of fewer columns gets shorter bars."""


class Bars(Progress):
    """Rows of bars. `head` are the lines above them; after setting it, call `refresh`."""

    head: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the drawn lines: the text wraps, the rows are cut."""
        yield from (Text(plain(line), overflow="fold") for line in self.head)
        yield self.make_tasks_table(self.tasks)

    def tell(self, line: str) -> None:
        """Print a line above the bars, which stays."""
        self.console.print(Text(plain(line), style="red", overflow="fold"))


@contextmanager
def bars(
    *after: type[ProgressColumn], wide: tuple[type[ProgressColumn], ...] = ()
) -> Iterator[Bars]:
    """Show bars on stderr: a description, the bar, the columns `after`, and those of `wide` if the
    terminal has room."""
    console = Console(file=cast(TextIO, Screen()), emoji=False)
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
    # rich would redraw from a thread of its own; here the callers refresh, at each look.
    with Bars(*columns, console=console, auto_refresh=False, transient=True) as shown:
        yield shown
