"""The form with fresh credentials for a migration that a store refuses: both ends once more, with
their headers or signatures. What has arrived stays, and the parts of unfinished uploads too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Response

from relay.api.request_bodies import parse_fresh
from relay.engine.refresh import apply_refresh
from relay.errors import InvalidHeader, RelayError
from relay.ledger.migration_values import Migration
from relay.ledger.states import MigrationState, MigrationVerb
from relay.ui.form_fields import read_form
from relay.ui.frame import PageFrame
from relay.ui.rendering import redirect
from relay.views.problems import problem

SIDES: Final = ("source", "destination")
FIELDS: Final = frozenset(f"{side}_{part}" for side in SIDES for part in ("url", "headers"))
"""Every field of the form."""


def credentials_page(frame: PageFrame, id: str) -> Response:
    """Return the empty form. Raises MigrationUnknown, LedgerFailed."""
    migration = frame.migration(id)
    return _page(frame, migration, {})


def renew_credentials(frame: PageFrame, id: str) -> Response:
    """Resume or retry a migration with the credentials of the form; an error is shown in the form,
    without the headers. Raises MigrationUnknown, LedgerFailed."""
    fields = read_form(frame.engine.settings, FIELDS)
    work = frame.works()
    migration = frame.migration(id)
    is_paused = migration.state == MigrationState.PAUSED
    verb = MigrationVerb.RESUME if is_paused else MigrationVerb.RETRY
    try:
        stored = work.ledger.secret(migration.id) or {}
        members = {side: _end(fields, side, migration, stored.get(side, {})) for side in SIDES}
        fresh = parse_fresh(members, migration, frame.engine.remotes)
        apply_refresh(work.ledger, frame.engine, migration, verb, fresh)
    except RelayError as error:
        if error.status >= 500 and error.side == "relay":
            raise
        return _page(frame, migration, fields, error)
    work.worker.wake()
    return redirect(f"migrations/{migration.name}")


def _end(
    fields: Mapping[str, str], side: str, migration: Migration, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one end as the API takes it; what the form leaves as it is, is as `stored`. Raises
    InvalidHeader."""
    known = getattr(migration, side)
    given = fields.get(f"{side}_url", "")
    # The path of a remote may end with a space.
    url = given if given == known else given.strip() or known
    headers = _headers(fields, side)
    if url == known and stored:
        # The page shows it without its signature.
        url, headers = stored["text"], headers or dict(stored["headers"])
    method = {"method": stored["method"]} if stored.get("method") else {}
    return {"url": url, "headers": headers, **method}


def _headers(fields: Mapping[str, str], side: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in fields.get(f"{side}_headers", "").splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip() or name.strip() in headers:
            # The line itself may be the secret.
            raise InvalidHeader(
                f"the headers of the {side} are not lines with NAME: VALUE, each name once",
                hint="Write one header a line.",
            )
        headers[name.strip()] = value.strip()
    return headers


def _page(
    frame: PageFrame,
    migration: Migration,
    fields: Mapping[str, str],
    error: RelayError | None = None,
) -> Response:
    return frame.page(
        "credentials.html",
        here="migrations",
        status=200 if error is None else error.status,
        migration=migration,
        sides=[(side, fields.get(f"{side}_url") or getattr(migration, side)) for side in SIDES],
        problem=None if error is None else problem(error),
    )
