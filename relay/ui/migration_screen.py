"""One migration: its progress, failures by reason, proofs and buttons; its objects, their receipts,
and the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from flask import Response, request

from relay.api.object_reports import html_page, json_lines, sheet
from relay.engine.refresh import Refresh, apply_refresh
from relay.errors import InvalidType, MigrationUnknown, RelayError
from relay.ledger.migration_values import Migration
from relay.ledger.object_lists import ObjectSearch
from relay.ledger.pages import TransferRow
from relay.ledger.sample_values import Moving, Sample
from relay.ledger.states import MigrationState, MigrationVerb, TransferState
from relay.ui import words
from relay.ui.figures import count, duration, size
from relay.ui.form_fields import read_form
from relay.ui.frame import PageFrame
from relay.ui.moving_rows import chart_points, moving_rows, moving_title
from relay.ui.queries import link_query, number_in_query
from relay.ui.rendering import redirect
from relay.ui.summaries import (
    can_acknowledge,
    count_retried,
    live_texts,
    order_facts,
    proofs,
    state_texts,
)
from relay.views.problems import problem

_REASON: Final = re.compile(r"[A-Za-z0-9_:-]{1,128}")
OBJECTS: Final = 100
"""Number of objects on a page."""
REPORTS: Final[Mapping[str, str]] = {
    "html": "text/html",
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
}
"""The media types of a report, by the end of its name."""


def migration_page(frame: PageFrame, id: str, error: RelayError | None = None) -> Response:
    """Return the page of one migration; `error` is that of an action that failed. Raises
    MigrationUnknown, LedgerFailed."""
    migration = frame.migration(id)
    failed = migration.count_in(TransferState.FAILED).objects
    buttons = words.OFFERED[migration.state]
    frame.estimates.read(frame.ledger.live, [migration])
    return frame.page(
        "migration.html",
        here="migrations",
        status=200 if error is None else error.status,
        migration=migration,
        live=live_texts(migration, frame.pace(migration)),
        live_query=f"?m={migration.name}",
        problem=None if error is None else problem(error),
        buttons=buttons,
        can_acknowledge=can_acknowledge(migration),
        may_retry_reason=_may_retry_reason(migration),
        failed=failed,
        retried=count_retried(migration),
        reasons=frame.ledger.reasons(migration.id) if failed else (),
        proofs=proofs(migration),
        order=order_facts(migration),
    )


def migration_update(
    frame: PageFrame, migration: Migration, moving: Moving, samples: Sequence[Sample]
) -> dict[str, Any]:
    """Return the live values of one migration, its moving objects, and a point of its chart for
    each sample. Raises LedgerFailed."""
    frame.estimates.read(frame.ledger.live, [migration])
    live = live_texts(migration, frame.pace(migration, moving))
    members = live.to_json()
    members["texts"] |= {"moving": moving_title(moving), **state_texts(migration)}
    rows = moving_rows(moving)
    return {**members, "shape": live.shape, "rows": rows, "points": chart_points(samples)}


def act(frame: PageFrame, id: str, verb: str) -> Response:
    """Carry out a verb, and lead back to the migration; an error is shown there. Raises
    MigrationUnknown, LedgerFailed."""
    fields = read_form(frame.engine.settings, ("reason",) if verb == MigrationVerb.RETRY else ())

    def apply(migration: Migration) -> None:
        reason = _reason(fields["reason"]) if fields.get("reason") else None
        apply_refresh(frame.ledger, frame.engine, migration, verb, Refresh(reason=reason))
        frame.works().worker.wake()

    return _change(frame, id, apply)


def acknowledge(frame: PageFrame, id: str) -> Response:
    """Note that a person has seen the failures of a migration, and lead back to it; an error is
    shown there. Raises MigrationUnknown, LedgerFailed."""
    read_form(frame.engine.settings, ())
    return _change(frame, id, lambda migration: frame.ledger.acknowledge(migration.id))


def _change(frame: PageFrame, id: str, change: Callable[[Migration], object]) -> Response:
    migration = frame.migration(id)
    try:
        change(migration)
    except RelayError as error:
        if error.status >= 500:
            raise
        return migration_page(frame, id, error)
    return redirect(f"migrations/{migration.name}")


def cancel_page(frame: PageFrame, id: str) -> Response:
    """Return the question before a cancel. Raises MigrationUnknown, LedgerFailed."""
    migration = frame.migration(id)
    uploads = frame.ledger.overview.unfinished_uploads(migration.id)
    return frame.page(
        "cancel.html",
        here="migrations",
        migration=migration,
        question=words.confirm_cancel(migration.name, uploads),
    )


# -- objects


def objects_page(frame: PageFrame, id: str) -> Response:
    """Return one page of the objects. Raises MigrationUnknown, LedgerFailed, and a RequestError for
    a wrong query."""
    migration = frame.migration(id)
    wanted = _wanted_objects()
    found = frame.ledger.overview.find_objects(migration.id, wanted)
    return frame.page(
        "objects.html",
        here="migrations",
        migration=migration,
        wanted=wanted,
        found=found,
        reasons=[(one.reason, words.reason_of(one)) for one in frame.ledger.reasons(migration.id)],
        is_cut=found.next is not None and len(found.rows) < wanted.limit,
        empty=_empty(migration, wanted, is_cut=found.next is not None),
        query=_object_query,
        report_query=_report_query(wanted),
    )


def object_page(frame: PageFrame, id: str, transfer: str) -> Response:
    """Return the page of one object, with its receipt. Raises MigrationUnknown, LedgerFailed."""
    migration = frame.migration(id)
    is_number = transfer.isascii() and transfer.isdigit() and len(transfer) < 16
    row = frame.ledger.overview.one_object(migration.id, int(transfer)) if is_number else None
    if row is None:
        raise MigrationUnknown(
            f"migration {migration.name} has no object {transfer[:40]!a}",
            hint="The objects of the migration are listed on its page.",
        )
    return frame.page(
        "object.html",
        here="migrations",
        migration=migration,
        row=row,
        facts=_facts(row),
        sides=_sides(row.receipt or {}),
    )


def report(frame: PageFrame, id: str, kind: str) -> Response:
    """Return the report of a migration as a file, which streams. Raises MigrationUnknown,
    LedgerFailed."""
    migration = frame.migration(id)
    state = _choice("state", list(TransferState))
    states, reason = (state,) if state else (), _wanted_reason()
    lines: Iterator[str]
    if kind == "csv":
        lines = sheet(frame.ledger, migration.id, states, reason)
    elif kind == "html":
        lines = html_page(frame.ledger, migration, states, reason)
    else:
        lines = json_lines(frame.ledger, migration.id, states, reason)
    name = f"relay-{migration.name.replace(':', '-')}{f'-{state}' if state else ''}.{kind}"
    return Response(
        lines,
        mimetype=REPORTS[kind],
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )


def _may_retry_reason(migration: Migration) -> bool:
    """Return whether the objects that failed for one reason may be queued again: those of a running
    migration, too. A migration that was cancelled before its source was listed is retried whole."""
    if migration.state == MigrationState.CANCELLED and words.is_listing(migration.listing):
        return False
    is_offered = MigrationVerb.RETRY in words.OFFERED[migration.state]
    return is_offered or migration.state == MigrationState.RUNNING


def _wanted_objects() -> ObjectSearch:
    return ObjectSearch(
        state=_choice("state", list(TransferState)),
        reason=_wanted_reason(),
        level=_choice("level", list(words.LEVELS)),
        prefix=request.args.get("prefix", "")[:1024],
        after=number_in_query("after") or 0,
        limit=OBJECTS,
    )


def _choice(name: str, choices: list[str]) -> str | None:
    value = request.args.get(name, "")
    if value and value not in choices:
        raise InvalidType(
            f"{value[:40]!a} is not a {name}", hint=f"Use one of {', '.join(sorted(choices))}."
        )
    return value or None


def _wanted_reason() -> str | None:
    return _reason(request.args["reason"]) if request.args.get("reason") else None


def _reason(text: str) -> str:
    if _REASON.fullmatch(text) is None:
        raise InvalidType("the reason is not one of a failure", hint="Follow a link of the page.")
    return text


def _object_query(**more: Any) -> str:
    names = ("state", "reason", "level", "prefix")
    kept = {name: request.args[name] for name in names if request.args.get(name)} | more
    return link_query(kept)


def _report_query(wanted: ObjectSearch) -> str:
    members = {"state": wanted.state, "reason": wanted.reason}
    return link_query({name: value for name, value in members.items() if value})


def _empty(migration: Migration, wanted: ObjectSearch, *, is_cut: bool) -> str:
    if is_cut:
        return "None so far; the search goes on behind the objects it has looked at."
    every = migration.count_in().objects
    if not every:
        return (
            "No objects yet: the source is still listed."
            if words.is_listing(migration.listing)
            else "Nothing was found in the source."
        )
    return f"None of {count(every)} objects matches."


def _facts(row: TransferRow) -> list[tuple[str, str]]:
    receipt = row.receipt or {}
    if not receipt:
        return []
    facts = [("Proof", str(receipt.get("level", row.level or "")))]
    if receipt.get("bytes") is not None:
        facts.append(("Size", f"{size(receipt['bytes'])} ({count(receipt['bytes'])} bytes)"))
    facts += [(name, value) for name, value in (receipt.get("digests") or {}).items()]
    if row.seconds is not None:
        facts.append(
            ("Took", duration(row.seconds) if row.seconds >= 1 else f"{row.seconds:.2f} s")
        )
    facts.append(("Attempts", count(receipt.get("attempts", row.attempts))))
    if receipt.get("bytes_resent"):
        facts.append(("Sent again", size(receipt["bytes_resent"])))
    return facts + [("Note", note) for note in receipt.get("notes") or ()]


def _sides(receipt: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the members of both versions that at least one store reported."""
    read, written = receipt.get("source") or {}, receipt.get("destination") or {}
    names = [*dict.fromkeys((*read, *written))]
    rows = [(name, _text(read.get(name)), _text(written.get(name))) for name in names]
    return [(name.replace("_", " "), *values) for name, *values in rows if any(values)]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
