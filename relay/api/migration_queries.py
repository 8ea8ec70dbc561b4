"""Read the query and the header fields of a request about migrations, and its fresh credentials.

Decided here: their names and bounds. Never here: what follows from them."""

from __future__ import annotations

import re
from functools import partial

from flask import request

from relay.api.answers import JSON
from relay.api.caller import current_caller
from relay.api.request_bodies import parse_fresh, parse_retry
from relay.api.request_parts import (
    optional_members,
    place_in_list,
)
from relay.api.token_limits import (
    check_list_place,
    check_list_text,
)
from relay.engine.refresh import Refresh
from relay.engine.transfer_engine import TransferEngine
from relay.errors import InvalidType
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_values import Migration
from relay.ledger.states import MigrationState, MigrationVerb, TransferState

WAIT_SECONDS = 3600.0
"""Maximum time that a request with `Prefer: wait` waits."""
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6})\"?", re.I)
NARROWING = ("state", "needs_attention", "search")
"""The query parameters that narrow a list of migrations."""
SEARCH_LETTERS = 200
"""Maximum length of the text of a search."""


def filter_in_query() -> MigrationFilter:
    """Return the filter in a request's query. Raises InvalidType."""
    needy, search = request.args.get("needs_attention"), request.args.get("search", "")
    if needy not in (None, "true", "false"):
        raise InvalidType("needs_attention is neither true nor false", hint="Correct the query.")
    if len(search) > SEARCH_LETTERS:
        raise InvalidType(
            f"search is longer than {SEARCH_LETTERS} characters", hint="Correct the query."
        )
    return MigrationFilter(
        states=frozenset(states_in_query(MigrationState)),
        needs_attention=None if needy is None else needy == "true",
        search=search,
        before=place_in_list("before") or None,
    )


def states_in_query(known: type[MigrationState] | type[TransferState]) -> tuple[str, ...]:
    """Return the states in a request's query. Raises InvalidType for one that is not `known`."""
    states = tuple(filter(None, request.args.get("state", "").split(",")))
    wrong = [state for state in states if state not in list(known)]
    if wrong:
        raise InvalidType(
            f"{wrong[0][:40]!a} is not a state", hint=f"Use one of {', '.join(sorted(known))}."
        )
    return states


def prefers(word: str) -> bool:
    found = ",".join(request.headers.getlist("Prefer")).lower()
    # A preference may have parameters after a ';' (RFC 7240 section 2).
    return any(part.strip() == word for part in re.split("[,;]", found))


def wait_seconds() -> float:
    found = _WAIT.search(",".join(request.headers.getlist("Prefer")))
    return 0.0 if found is None or prefers("respond-async") else min(float(found[1]), WAIT_SECONDS)


def accepts_stream(media: str) -> bool:
    return request.accept_mimetypes.best_match((JSON, media), default=JSON) == media


def read_refresh(engine: TransferEngine, migration: Migration, verb: str) -> Refresh:
    """Return the fresh credentials and URLs in a request, and what it retries; an empty Refresh
    without a body."""
    members = optional_members(engine)
    if not members:
        return Refresh()
    parse = parse_retry if verb == MigrationVerb.RETRY else parse_fresh
    limits = current_caller().limits
    fresh = parse(members, migration, engine.remotes, partial(check_list_text, limits))
    if fresh.urls is not None:
        check_list_place(limits, fresh.urls)
    if fresh.urls is not None and fresh.urls.host:
        engine.policy.check_name(fresh.urls.host, fresh.urls.port)
    return fresh
