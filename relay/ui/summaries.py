"""A migration in the words of the page: the texts that change while it runs, and those that do not.

A template shows the texts when it renders the page, and the live stream sends the same texts later:
both come from `live_texts`, so that a page and its updates never disagree. `shape` names everything
that a text alone can't show, such as the buttons: when it changes, the page is loaded again.

Decided here: which texts a migration has. Never here: HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from relay.errors import ConfigError
from relay.filters.filter_set import Filters
from relay.ledger.acceptance import WITHDRAWN
from relay.ledger.migration_values import Migration
from relay.ledger.plan_values import StoredPlan
from relay.ledger.states import (
    ENDED,
    FAULTY,
    PRESENT,
    TRANSFER,
    UNLISTED,
    ListingState,
    MigrationState,
    TransferState,
    TransferVerb,
)
from relay.ui import words
from relay.ui.figures import count, duration, per_second, percent, rate, share, size, sizes
from relay.views.migrations import shown_filters
from relay.views.time_left import TimeLeft

LEVELS: Final = ("read_back", "whole_digest", "part_digests", "size")
"""The levels of proof, the strongest first."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a migration moves. None: not known yet."""

    bytes_per_second: float | None = None
    objects_per_second: float | None = None
    read_back_per_second: float = 0.0
    """Bytes per second that are read again from the destination, as a proof."""
    left: TimeLeft | None = None
    still_seconds: float = 0.0
    """Seconds since a byte moved or an object ended."""


UNKNOWN_PACE: Final = Pace()
_NOT_ALL_NAMED: Final = UNLISTED | {ListingState.FAILED}
STALL_SECONDS: Final = 60.0
"""Seconds without a byte after which the page says so."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """The texts of a migration that change, and its bar."""

    texts: Mapping[str, str]
    value: int | None
    """The bar's value in per cent; None while the number of all objects is unknown."""
    spoken: str
    """The bar's value for a screen reader."""
    shape: str

    def to_json(self, prefix: str = "") -> dict[str, Any]:
        """Return the members of one update; `prefix` comes before each name."""
        return {
            "texts": {f"{prefix}{name}": text for name, text in self.texts.items()},
            "bars": {f"{prefix}bar": [self.value, self.spoken]},
        }


@dataclass(frozen=True, kw_only=True)
class MigrationRow:
    """A migration in the list."""

    migration: Migration
    live: Live
    buttons: tuple[str, ...] = ()
    retried: int = 0
    """What `count_retried` returns."""
    can_acknowledge: bool = False
    needs_credentials: bool = False
    note: str = ""
    detail: str = ""
    """The text of a store behind the note."""
    extra: Mapping[str, Any] = field(default_factory=dict)


def live_texts(migration: Migration, pace: Pace = UNKNOWN_PACE) -> Live:
    """Return the texts of a migration at one moment."""
    done, every = objects_done(migration), migration.count_in().objects
    moved, total = bytes_done(migration), migration.count_in().bytes
    is_listing = words.is_listing(migration.listing) and migration.state not in ENDED
    value = None if is_listing else _bar_value(migration, (moved, total), (done, every))
    left, estimate = _time_left(migration, pace)
    texts = {
        "state": words.STATES[migration.state],
        "percent": "" if value is None else percent(value, 100),
        "objects": words.listing_so_far(every, migration.state)
        if is_listing
        else f"{count(done)} of {count(every)} {'object' if every == 1 else 'objects'}",
        "bytes": sizes(moved, total) if total else "",
        "speed": _rate_text(migration, pace),
        "left": left,
        "estimate": estimate,
        "activity": activity(migration, pace),
        "failed": count(migration.count_in(TransferState.FAILED).objects),
    }
    spoken = "still listing" if value is None else words.spoken_progress(value, left)
    return Live(texts=texts, value=value, spoken=spoken, shape=_shape(migration))


def state_texts(migration: Migration) -> dict[str, str]:
    """Return the number of objects in each state, and their size."""
    numbers = {f"in.{state}": count(one.objects) for state, one in migration.tally.items()}
    return numbers | {f"size.{state}": size(one.bytes) for state, one in migration.tally.items()}


def row_of(migration: Migration, pace: Pace = UNKNOWN_PACE) -> MigrationRow:
    """Return a migration as a row of the list."""
    note, detail = note_of(migration)
    return MigrationRow(
        migration=migration,
        live=live_texts(migration, pace),
        buttons=(words.OFFERED[migration.state][:1]),
        retried=count_retried(migration),
        can_acknowledge=can_acknowledge(migration),
        needs_credentials=needs_credentials(migration),
        note=note,
        detail=detail,
    )


def order_facts(order: Migration | StoredPlan) -> list[tuple[str, str]]:
    """Return the options and limits of a migration, or of a planned one: a name and a text each,
    without those that are as usual."""
    options, bounds = order.options, order.bounds
    exists, verify = str(options["if_exists"]), str(options["verify"])
    filters = Filters.from_json(options.get("filters", {}))
    usual = (
        ("Filters", shown_filters(options.get("filters", {}))),
        ("Note", "; ".join(filters.warnings())),
        ("Compare", str(options.get("compare", ""))),
        ("Plan", str(options.get("plan", {}).get("path", ""))),
        ("Copies", "" if options.get("server_copy", True) else words.NO_SERVER_COPY),
        ("Metadata", words.STRICT if options.get("metadata") == "strict" else ""),
        ("Empty source", "a failure" if options.get("fail_on_empty") else ""),
        ("Slots", "" if bounds.slots is None else count(bounds.slots)),
        ("Bandwidth", "" if bounds.bytes_per_second is None else rate(bounds.bytes_per_second)),
        ("Connections", "" if bounds.connections is None else count(bounds.connections)),
        ("Priority", str(order.priority) if order.priority else ""),
    )
    first = (("If it exists", words.IF_EXISTS.get(exists, exists)), ("Proof", verify))
    return [*first, *((name, text) for name, text in usual if text)]


def count_retried(migration: Migration) -> int:
    """Return the number of objects that a retry queues again; 0 if it lists others first."""
    if migration.listing in _NOT_ALL_NAMED:
        return 0
    return migration.count_in(*TRANSFER[TransferVerb.RETRY].origins).objects


def can_acknowledge(migration: Migration) -> bool:
    """Return whether a migration has ended with failures that no person has acknowledged."""
    return migration.needs_attention and migration.state in FAULTY


def needs_credentials(migration: Migration) -> bool:
    """Return whether a migration is paused until a person gives other credentials."""
    code = (migration.error or {}).get("code")
    return migration.state == MigrationState.PAUSED and code in {*WITHDRAWN, ConfigError.code}


def row_shape(migration: Migration) -> str:
    """Return what decides which elements a row has. It has no part that only the page of one
    migration reads, such as retries: the list and its stream read different ones."""
    running = bool(migration.count_in(TransferState.RUNNING).objects)
    failed = bool(migration.count_in(TransferState.FAILED).objects)
    is_stopping = running and migration.state != MigrationState.RUNNING
    needs_you = int(migration.needs_attention)
    error = _error_shape(migration)
    return f"{migration.state}.{int(is_stopping)}.{int(failed)}.{error}.{needs_you}"


def _error_shape(migration: Migration) -> str:
    """Return what decides the words and the buttons that belong to an error."""
    error = migration.error or {}
    return f"{error.get('code', '')}-{error.get('side', '')}"


def note_of(migration: Migration) -> tuple[str, str]:
    """Return the second line of a migration in the list, and a store's own text behind it."""
    error = migration.error or {}
    reason = words.needs_you(error) if error else ""
    detail = str(error.get("detail", ""))
    if reason and migration.state in (MigrationState.PAUSED, MigrationState.FAILED):
        return f"Needs you: {reason}" if migration.needs_attention else reason, detail
    if migration.state in (MigrationState.PARTIAL, MigrationState.FAILED):
        tallies = {state: counted.objects for state, counted in migration.tally.items()}
        lost = words.outcome(tallies)
        note = f"{words.STATES[migration.state]}: {lost}" if lost else ""
        return (f"{note}. {reason}", detail) if reason else (note, "")
    if migration.state in (MigrationState.PAUSED, MigrationState.CANCELLED):
        return words.pausing(migration.state, migration.under_way), ""
    return "", ""


def activity(migration: Migration, pace: Pace = UNKNOWN_PACE) -> str:
    """Return one sentence about what happens right now; '' if the numbers say it all."""
    if migration.state in (MigrationState.PAUSED, MigrationState.CANCELLED):
        return words.pausing(migration.state, migration.under_way)
    if migration.state != MigrationState.RUNNING:
        return ""
    if pace.still_seconds >= STALL_SECONDS:
        return words.no_byte_moved(pace.still_seconds)
    running = migration.count_in(TransferState.RUNNING).objects
    queued = migration.count_in(TransferState.QUEUED).objects
    slots = "" if migration.slots is None else f" in {count(migration.slots)} slots"
    if running:
        return f"{count(running)} moving{slots}, {count(queued)} queued"
    if queued:
        return f"{count(queued)} queued, waiting for a free slot"
    return ""


def objects_done(migration: Migration) -> int:
    """Return the number of objects that need no more work unless they are retried; of an ended
    migration, the number of those that have arrived."""
    return migration.count_in(*_done_states(migration)).objects


def bytes_done(migration: Migration) -> int:
    """Return the bytes of those objects, and those in unfinished uploads."""
    return migration.count_in(*_done_states(migration)).bytes + migration.in_parts


def _done_states(migration: Migration) -> tuple[str, ...]:
    return (*PRESENT,) if migration.state in ENDED else (*PRESENT, TransferState.FAILED)


def proofs(migration: Migration) -> tuple[tuple[str, int], ...]:
    """Return the number of objects at each level of proof, the strongest first."""
    found = migration.efforts.levels
    return tuple((level, found[level]) for level in LEVELS if found.get(level))


def seconds_taken(migration: Migration, now: float) -> float:
    """Return how long a migration took, or has taken so far."""
    return (migration.ended or now) - migration.created


def _bar_value(migration: Migration, sizes: tuple[int, int], objects: tuple[int, int]) -> int:
    """Return the bar's value: by bytes, or by objects where no size is known."""
    if migration.state == MigrationState.SUCCEEDED:
        return 100
    done, total = sizes if sizes[1] else objects
    found = share(done, total) if total else 0
    # 100 means that nothing is left: no object that is listed, and none that is not listed yet.
    is_all = objects[0] >= objects[1] and migration.listing not in _NOT_ALL_NAMED
    return found if is_all else min(found, 99)


def _rate_text(migration: Migration, pace: Pace) -> str:
    if migration.state != MigrationState.RUNNING or pace.bytes_per_second is None:
        return ""
    parts = [rate(pace.bytes_per_second)]
    if pace.read_back_per_second:
        parts.append(words.read_back_at(rate(pace.read_back_per_second)))
    objects = pace.objects_per_second or 0.0
    if objects >= 0.05:  # else it would be printed as 0.0
        parts.append(per_second(objects, "objects"))
    return ", ".join(parts)


def _time_left(migration: Migration, pace: Pace) -> tuple[str, str]:
    """Return the time left in few words and in full; of an ended migration, the time it took."""
    if migration.state in ENDED and migration.ended is not None:
        return f"took {duration(migration.ended - migration.created)}", ""
    is_stalled = pace.still_seconds >= STALL_SECONDS
    # The end of a migration may take longer than its last objects: "0 s left" would be wrong.
    if pace.left is None or is_stalled or pace.left.seconds < 1:
        return "", ""
    return words.time_left(pace.left.seconds), words.time_left_within(pace.left)


def _shape(migration: Migration) -> str:
    """Return what decides which elements a page has."""
    is_idle = migration.state != MigrationState.RUNNING and not migration.under_way
    listing = "listing" if words.is_listing(migration.listing) else migration.listing
    has_failed = bool(migration.count_in(TransferState.FAILED).objects)
    has_retries = bool(migration.retried)
    states = "".join(state[:2] for state in sorted(migration.tally))
    return (
        f"{migration.state}.{listing}.{int(is_idle)}.{int(has_failed)}.{int(has_retries)}"
        f".{_error_shape(migration)}.{int(migration.needs_attention)}.{states}"
    )
