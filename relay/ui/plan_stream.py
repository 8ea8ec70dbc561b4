"""The live values of a plan, while it is made: as server-sent events, or as one JSON answer for a
page that polls.

Few pages show a plan that is made, and none for long, so each stream reads its plan once a second.
Never here: the streams of migrations (`live_values.py`)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flask import Response, g, request

from relay.api.event_stream import JITTER, RETRY_MS, retry_field
from relay.api.migration_routes import follow, has_hung_up, json_answer
from relay.errors import LedgerFailed, PlanUnknown
from relay.ledger.states import PlanState
from relay.ui import words
from relay.ui.feeds import silent_event
from relay.ui.frame import PageFrame
from relay.ui.live_values import LOOK_SECONDS, SILENT_SECONDS
from relay.ui.plan_screen import plan_update

Values = dict[str, Any]


def plan_stream(frame: PageFrame, plan: str) -> Response:
    """Return the live values of a plan as a stream. Raises PlanUnknown, TooManyStreams,
    LedgerFailed."""
    look = _look_at(frame, plan)
    is_gone = partial(has_hung_up, request.environ, LOOK_SECONDS)
    admitted: Callable[[], bool] = g.still_admitted
    return follow(frame.works(), [], lambda _: _changes(frame, look, admitted, is_gone))


def plan_values(frame: PageFrame, plan: str) -> Response:
    """Return the live values of a plan once. Raises PlanUnknown, LedgerFailed."""
    return json_answer(_look_at(frame, plan)())


def _look_at(frame: PageFrame, plan: str) -> Callable[[], Values]:
    """Return a function that reads the live values of a plan. Raises PlanUnknown, LedgerFailed."""
    plans, viewer = frame.ledger.plans, frame.viewer
    id = plans.one(plan, viewer).id

    def look() -> Values:
        try:
            return plan_update(plans.one(id, viewer))
        except PlanUnknown:
            # The page loads itself again, and says that the plan is gone.
            return {"texts": {}, "bars": {}, "shape": "gone"}
        except LedgerFailed as error:
            return {"trouble": frame.ledger_away(error)}

    return look


def _changes(
    frame: PageFrame,
    look: Callable[[], Values],
    still_admitted: Callable[[], bool],
    is_gone: Callable[[], bool],
) -> Iterator[str]:
    last: Values = {}
    sent = time.monotonic()
    yield f"{retry_field(RETRY_MS * random.uniform(*JITTER))}\n"
    while not frame.engine.draining:
        if not still_admitted():
            yield "event: gone\ndata: {}\n\n"
            return
        found = look()
        if found != last:
            yield f"event: set\ndata: {json.dumps(found)}\n\n"
            last, sent = found, time.monotonic()
        elif time.monotonic() - sent > SILENT_SECONDS:
            yield silent_event(last)
            sent = time.monotonic()
        if found.get("shape", PlanState.PLANNING) != PlanState.PLANNING:
            yield "event: end\ndata: {}\n\n"
            return
        if is_gone():
            return
    yield f"event: bye\ndata: {json.dumps({'text': words.DRAINING})}\nretry: 500\n\n"
