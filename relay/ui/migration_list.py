"""The list of migrations: its groups, its search, fifty rows by cursor, and their live values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from flask import Response, request

from relay.errors import InvalidType
from relay.ledger.migration_values import Migration
from relay.ledger.overview import Group, MigrationSearch
from relay.ledger.sample_values import Moving
from relay.ledger.states import MigrationState
from relay.ui import words
from relay.ui.figures import count
from relay.ui.frame import NOTHING, PageFrame
from relay.ui.queries import link_query, number_in_query
from relay.ui.summaries import MigrationRow, Pace, live_texts, row_of, row_shape

ROWS: Final = 50
"""Number of rows on a page."""


def list_page(frame: PageFrame) -> Response:
    """Return one page of the list. Raises LedgerFailed, and a RequestError for a wrong query."""
    wanted = _search()
    # One row more than is shown says whether an older page exists.
    found = frame.ledger.overview.find_migrations(wanted, frame.viewer)
    groups = frame.ledger.overview.group_counts(frame.viewer)
    frame.estimates.read(frame.ledger.live, found[:ROWS])
    rows = [row_of(one, frame.pace(one)) for one in found[:ROWS]]
    has_older = len(found) > ROWS
    return frame.page(
        "list.html",
        here="migrations",
        wanted=wanted,
        groups=groups,
        rows=rows,
        empty="" if rows else words.nothing_found(wanted.group, wanted.text, groups[Group.ALL]),
        older=rows[-1].migration.cursor_for(frame.viewer) if has_older else None,
        query=_query,
        live_query=_live_query(rows),
        shape=list_shape(rows),
    )


def list_update(
    frame: PageFrame, shown: Sequence[Migration], groups: Mapping[Group, int]
) -> dict[str, Any]:
    """Return the live values of some migrations of the list. Raises LedgerFailed."""
    return ListValues(frame, lambda: groups)(shown)


@dataclass(eq=False)
class ListValues:
    """The live values of one list, for all its streams; `groups` counts the migrations. Most
    migrations of a list rest: what they show is kept while they stay as they are."""

    frame: PageFrame
    groups: Callable[[], Mapping[Group, int]]
    _: KW_ONLY
    _rows: dict[str, _LiveRow] = field(default_factory=dict)
    """The last ones, by the ids of the migrations."""

    def __call__(self, shown: Sequence[Migration], moving: Moving = NOTHING) -> dict[str, Any]:
        """Return the values now. Raises LedgerFailed."""
        self.frame.estimates.read(self.frame.ledger.live, shown)
        self._rows = {one.id: self._row(one) for one in shown}
        texts: dict[str, str] = {}
        bars: dict[str, Any] = {}
        for row in self._rows.values():
            texts |= row.texts
            bars |= row.bars
        texts |= {f"group.{group}": count(number) for group, number in self.groups().items()}
        shape = ",".join(row.shape for row in self._rows.values())
        return {"texts": texts, "bars": bars, "shape": shape}

    def _row(self, migration: Migration) -> _LiveRow:
        known = self._rows.get(migration.id)
        rests = migration.state != MigrationState.RUNNING
        if known is not None and rests and known.migration == migration:
            return known
        return _LiveRow.of(migration, self.frame.pace(migration))


@dataclass(frozen=True)
class _LiveRow:
    """The live values of one row."""

    migration: Migration
    texts: Mapping[str, str]
    bars: Mapping[str, Any]
    shape: str

    @classmethod
    def of(cls, migration: Migration, pace: Pace) -> _LiveRow:
        """Return the values of a migration at one moment."""
        members = live_texts(migration, pace).to_json(f"{migration.name}.")
        return cls(migration, members["texts"], members["bars"], _named_shape(migration))


def list_shape(rows: list[MigrationRow]) -> str:
    """Return what decides which elements the list has."""
    return ",".join(_named_shape(row.migration) for row in rows)


def _named_shape(migration: Migration) -> str:
    return f"{migration.name}:{row_shape(migration)}"


def _search() -> MigrationSearch:
    group = request.args.get("group", Group.ALL)
    if group not in list(Group):
        raise InvalidType(f"{group[:40]!a} is not a group", hint=f"Use one of {', '.join(Group)}.")
    return MigrationSearch(
        group=Group(group),
        text=request.args.get("q", "").strip()[:200],
        before=number_in_query("before"),
        limit=ROWS + 1,
    )


def _query(**given: Any) -> str:
    """Return the query of a link to the list; members with their default are left out."""
    kept = {name: value for name, value in given.items() if value and value != Group.ALL}
    return link_query(kept)


def _live_query(rows: list[MigrationRow]) -> str:
    names = ",".join(row.migration.name for row in rows)
    return f"?list={names}" if names else ""
