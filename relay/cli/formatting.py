"""Format a migration for the terminal: a line in a list, a line of progress, a table.

Decided here: the texts, and the exit code of a migration. Never here: where the values come from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.flags import in_flags
from relay.cli.terminal import plain, resent_note, size
from relay.engine.retries import WHOLE
from relay.ledger.states import (
    FAULTY,
    PENDING,
    PRESENT,
    ListingState,
    MigrationState,
    Phase,
    TransferState,
)
from relay.views import migrations

NAMED: Final = 10
"""Maximum number of failed objects that the table names."""
REASONS: Final = 10
"""Maximum number of reasons of failures that `relay status` names."""
HINTS: Final = 3
"""Maximum number of different hints for them."""

Members = Mapping[str, Any]


def objects_in(migration: Members, *states: str) -> int:
    """Return the number of objects in some states; without states, of all objects."""
    counts: Mapping[str, int] = migration["objects"]
    return sum(count for state, count in counts.items() if not states or state in states)


def bytes_in(migration: Members, *states: str) -> int:
    """Return the size of the objects in some states, in bytes; without states, of all objects."""
    counts: Mapping[str, int] = migration["bytes"]
    return sum(count for state, count in counts.items() if not states or state in states)


def bytes_at_destination(migration: Members) -> int:
    """Return how many bytes the destination has, in whole objects and in unfinished uploads."""
    return bytes_in(migration, *PRESENT) + in_parts(migration)


def bytes_done(migration: Members) -> int:
    """Return how many bytes are done: those at the destination, and those of failed objects."""
    return bytes_at_destination(migration) + bytes_in(migration, TransferState.FAILED)


def bytes_moved(migration: Members) -> int:
    """Return how many bytes were moved, without those of skipped and failed objects."""
    whole = bytes_in(migration, TransferState.VERIFIED, TransferState.UNVERIFIED)
    return whole + in_parts(migration)


def in_parts(migration: Members) -> int:
    """Return how many bytes are in unfinished uploads at the destination."""
    count: int = migration.get("bytes_in_parts", 0)  # an older server does not have it
    return count


def under_way(migration: Members) -> int:
    """Return how many transfers workers are running or helping with."""
    # An older server does not have the member.
    count: int = migration.get("under_way", objects_in(migration, TransferState.RUNNING))
    return count


def shown_number(migration: Members) -> str:
    """Return the number by which commands find a migration, as a terminal can show it."""
    return plain(migrations.shown_number(migration))


def summary_line(migration: Members) -> str:
    """Return the line of a migration in a list."""
    done = objects_in(migration, *PRESENT)
    failed = objects_in(migration, TransferState.FAILED)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(migration["created"]))
    text = f"{shown_number(migration):>4}  {plain(migration['state']):<10} {when}  "
    text += (
        f"{done:,} of {objects_in(migration):,} objects, {decimal(bytes_at_destination(migration))}"
    )
    text += f", {failed:,} failed" if failed else ""
    if "waits_for" in migration and migration["state"] == MigrationState.RUNNING:
        text += ", no process moves it"
    return f"{text}  {plain(migration['source'])} -> {plain(migration['destination'])}"


def waiting_line(migration: Members) -> str:
    """Return what resumes a migration that no process moves now."""
    if migration["waits_for"] in ("relay migrate", "relay follow"):
        return f"no process moves it now: the same `{migration['waits_for']}` command resumes it"
    # A running server may be busy with other migrations, which a look at this one does not show.
    return "no process moves it now: `relay serve` resumes it once it has a free slot"


def headline(migration: Members, rate: float, here: int = 0) -> str:
    """Return the progress of a migration as one line; as `progress_lines`."""
    return "; ".join(progress_lines(migration, rate, here))


def progress_lines(migration: Members, rate: float, here: int = 0) -> tuple[str, ...]:
    """Return the progress of a migration, then what is being retried. `rate` is in bytes per
    second; `here` are bytes of this process that the ledger does not count yet."""
    done = objects_in(migration, *PRESENT, TransferState.FAILED)
    more = "+" if _is_listing(migration) else ""
    moved = bytes_done(migration) + here
    text = (
        f"{done:,} of {objects_in(migration):,}{more} objects, {decimal(moved)} of"
        f" {decimal(bytes_in(migration))}{more}, {decimal(round(rate))}/s,"
        f" {_eta(migration, rate, here)}"
    ).rstrip(", ")
    failed = objects_in(migration, TransferState.FAILED)
    state = "" if migration["state"] == MigrationState.RUNNING else f", {plain(migration['state'])}"
    stopping = under_way(migration)
    if state and stopping:
        state += f" ({stopping:,} still stopping)"
    elif not state and "waits_for" in migration:
        state = ", no process moves it"
    trouble = migration.get("trouble")
    if trouble:
        state += f", waiting for the ledger: {plain(trouble['detail'])}"
    if failed:
        text += f", {failed:,} failed"
    slots = migration.get("slots")  # an older server does not have it
    if slots is not None:
        text += f", {slots:,} slots"
    return (text + state, *retry_lines(migration))


def retry_lines(migration: Members) -> Iterator[str]:
    """Yield a line for the first failure that is being retried, and one with the number of others.
    An older server reports none."""
    found: Sequence[Members] = migration.get("retried", ())
    for one in found[:1]:
        yield retry_line(one, str(one["name"]))
    if len(found) > 1:
        yield f"{len(found) - 1} more like it"


def retry_line(trouble: Members, name: str = "") -> str:
    """Return one line about a retry: its operation, its time and its reason. `name` is the object's
    name in a migration of several."""
    what = str(trouble["what"])
    if name:
        what = name if what == WHOLE else f"{name} ({what})"
    left = trouble["again"] - time.time()
    when = f"in {left:.0f} s" if left >= 1 else "now"
    whose = f"{trouble['side']}: " if trouble["side"] in ("source", "destination") else ""
    return f"{plain(what)} is retried {when}: {whose}{plain(trouble['detail'])}"


def _is_listing(migration: Members) -> bool:
    return migration["listing"] in (ListingState.DUE, ListingState.RUNNING)


def _eta(migration: Members, rate: float, here: int) -> str:
    if rate <= 0 or migration["listing"] not in (ListingState.DONE, ListingState.NONE):
        return "still listing" if _is_listing(migration) else ""
    left = bytes_in(migration, *PENDING) - in_parts(migration) - here
    seconds = round(max(left, 0) / rate)
    hours, minutes = divmod(seconds // 60, 60)
    if hours:
        return f"about {hours}:{minutes:02}:{seconds % 60:02} left"
    return f"about {minutes}:{seconds % 60:02} left"


def table(migration: Members, failed: Sequence[Members], took: str) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table of a migration's end; `failed` are its first failed objects."""
    yield "migration", f"{shown_number(migration)}  {migration['id']}"
    yield "state", migration["state"]
    yield "source", migration["source"]
    yield "destination", migration["destination"]
    objects = (f"{count:,} {state}" for state, count in migration["objects"].items())
    yield "objects", " · ".join(objects) or "none"
    yield from _exclusion(migration)
    yield "bytes", size(bytes_in(migration, *PRESENT))
    yield "time", took
    if migration["levels"]:
        levels = sorted(migration["levels"].items())
        yield "proved", " · ".join(f"{count:,} by {level}" for level, count in levels)
    if migration["retries"] or migration["bytes_resent"]:
        attempts = count_of(migration["retries"], "attempt")
        yield "again", attempts + resent_note(migration["bytes_resent"])
    yield from _what_next(migration)
    yield from _failed_objects(migration, failed)


def _what_next(migration: Members) -> Iterator[tuple[str, str]]:
    """Yield the rows that say why a migration stands where it does, and what to do about it."""
    id = shown_number(migration)
    is_cancelled = migration["state"] == MigrationState.CANCELLED
    if (is_cancelled or migration["state"] in FAULTY) and in_parts(migration):
        parts = f"{size(in_parts(migration))} in uploads at the destination"
        use = "" if is_cancelled else ", for a retry"
        yield "unfinished", f"{parts}{use}; `relay cancel {id}` removes them"
    if migration["listing"] == ListingState.DONE and not objects_in(migration):
        yield "empty", _NOTHING[bool(migration.get("excluded"))]
    if migration["error"]:
        yield "error", f"{migration['error']['side']}: {migration['error']['detail']}"
        yield "hint", in_flags(migration["error"]["hint"], migration["error"]["side"])
    elif migration["state"] == MigrationState.PAUSED:
        yield "hint", f"`relay resume {id}`, or the same command, resumes it"
    elif "waits_for" in migration:
        yield "hint", waiting_line(migration)


def _failed_objects(migration: Members, failed: Sequence[Members]) -> Iterator[tuple[str, str]]:
    """Yield a row of each failed object, their first hints, and how to list all of them."""
    for row in failed:
        yield "failed", f"{row['name'] or migration['source']}: {row['detail']}"
    # A server's rows have no hints.
    hints = dict.fromkeys(in_flags(row["hint"], row["side"]) for row in failed if row.get("hint"))
    yield from (("hint", hint) for hint in list(hints)[:HINTS])
    more = objects_in(migration, TransferState.FAILED) - len(failed)
    rest = f"{more:,} more; " if more > 0 else ""
    if failed:
        id = shown_number(migration)
        yield "hint", f"{rest}`relay report {id} --state failed` lists them; {AGAIN}"


def _standing(migration: Members) -> Iterator[tuple[str, str]]:
    """Yield the rows of a standing migration. An older server does not have the member."""
    standing = migration.get("standing")
    if not standing:
        return
    due = standing["due"]
    when = "; a pass is under way"
    if standing["phase"] == Phase.FINISHED:
        when = ""
    elif due is not None:  # in the other phases a person begins the next one
        when = f"; the next pass is due {_clock(due)}" if standing["phase"] == Phase.STEADY else ""
    yield "phase", f"{standing['phase']}{when}"
    hours = f", {standing['window']}" if standing["window"] else ""
    yield "passes", f"every {duration(standing['every'])}{hours}"


def _exclusion(migration: Members) -> Iterator[tuple[str, str]]:
    """Yield the row of the entries that the filters left out, if there are any. An older server
    does not have the member."""
    excluded = migration.get("excluded")
    if excluded:
        yield "excluded", f"{excluded:,} by the filters"


def details(migration: Members, reasons: Sequence[Members] = ()) -> Iterator[tuple[str, str]]:
    """Yield the rows of `relay status ID`, with times in the local time zone; `reasons` are those
    for which objects have failed."""
    ended = migration["ended"]
    took = time.time() - migration["created"] if ended is None else ended - migration["created"]
    so_far = " so far" if ended is None else ""
    yield from table(migration, (), f"{_clock(migration['created'])}, {duration(took)}{so_far}")
    yield from _failures(migration, reasons)
    if ended is None:
        yield (
            "under way",
            f"{count_of(under_way(migration), 'transfer')},"
            f" {decimal(bytes_at_destination(migration))} at the destination",
        )
    yield from _standing(migration)
    if migration.get("slots") is not None:  # an older server does not have it
        yield "slots", f"{migration['slots']:,}"
    if _is_listing(migration):
        is_moving = ended is None and "waits_for" not in migration
        yield "listing", "the source is still being listed" if is_moving else "not complete yet"
    for text in retry_lines(migration):
        yield "retry", text
    trouble = migration.get("trouble")
    if trouble:
        yield "ledger", f"waiting: {trouble['detail']}"
    options = ", ".join(
        _option(name, value) for name, value in migration["options"].items() if value
    )
    yield "options", options or "none"
    limits = [
        f"{name.replace('_', ' ')} {most:,}"
        for name, most in migration["limits"].items()
        if most is not None
    ]
    yield "limits", ", ".join(limits) or "none"
    if migration["priority"]:
        yield "priority", str(migration["priority"])


def _failures(migration: Members, reasons: Sequence[Members]) -> Iterator[tuple[str, str]]:
    for reason in reasons[:REASONS]:
        example = reason["sample"] or migration["source"]
        yield "failed", f"{reason['objects']:,} for {reason['reason']}, e.g. {example}"
    number, failed = shown_number(migration), objects_in(migration, TransferState.FAILED)
    if failed:
        yield "hint", f"`relay report {number} --state failed` lists {failed:,}; {AGAIN}"
    if len(reasons) > 1:
        yield "hint", f"`relay retry {number} --reason REASON` queues only those of one reason"
    # An older server does not say whether a person has seen the failures.
    if migration.get("needs_attention") and migration["state"] in FAULTY:
        yield "hint", f"`relay acknowledge {number}` notes that you have seen them"


def count_of(count: int, noun: str) -> str:
    """Return a number with its noun: 1 object, 2 objects."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


_NOTHING: Final = (
    "nothing was found in the source: is its name correct?",
    "the filters exclude everything: `relay ls -r` shows what they choose",
)
"""The reason why a migration has no objects: without and with entries that were excluded."""


def _option(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if isinstance(value, Mapping):
        return migrations.shown_filters(value)
    return words if value is True else f"{words} {value}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def duration(seconds: float) -> str:
    """Return a number of seconds as text: 0.6 s, 12 min 3 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def failed_line(name: str, side: str | None, detail: str) -> str:
    """Return a line about a failed object: its name and the reason."""
    whose = f"{side}: " if side in ("source", "destination") else ""
    return f"relay: {plain(name) or 'the object'} failed: {whose}{plain(detail)}"


AGAIN: Final = "`relay retry`, or the same command, retries them"


def exit_of(migration: Members) -> Exit:
    """Return the exit code of a migration: 0 if it succeeded, 3 if objects are unverified and
    nothing failed, else 1."""
    if migration["state"] == MigrationState.SUCCEEDED:
        return Exit.VERIFIED
    is_unverified = (
        migration["state"] == MigrationState.PARTIAL
        and not objects_in(migration, TransferState.FAILED, TransferState.CANCELLED)
        and migration["listing"] != ListingState.FAILED
        and migration["error"] is None
    )
    return Exit.UNVERIFIED if is_unverified else Exit.FAILED
