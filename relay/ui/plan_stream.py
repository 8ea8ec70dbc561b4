"""The live values of a plan, while it is made: as server-sent events, or as one JSON answer for a
page that polls.

Few pages show a plan that is made, and none for long, so each stream reads its plan once a second.
Never here: the streams of migrations (`live_values.py`), and the steps of a stream
(`value_stream.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flask import Response, g, request

from relay.api.answers import json_answer
from relay.api.migration_streams import follow, has_hung_up, require_stream_place
from relay.errors import LedgerFailed, PlanUnknown
from relay.ledger.states import PlanState
from relay.ui.feeds import Values
from relay.ui.frame import PageFrame
from relay.ui.plan_screen import plan_update
from relay.ui.value_stream import ValueStream


def plan_stream(frame: PageFrame, plan: str) -> Response:
    """Return the live values of a plan as a stream. Raises PlanUnknown, TooManyStreams,
    LedgerFailed."""
    require_stream_place(frame.works())
    made = ValueStream(
        look=_look_at(frame, plan),
        still_admitted=g.still_admitted,
        is_draining=lambda: frame.engine.draining,
        is_gone=partial(has_hung_up, request.environ),
    )
    return follow(frame.works(), [], lambda _: made.events())


def plan_values(frame: PageFrame, plan: str) -> Response:
    """Return the live values of a plan once. Raises PlanUnknown, LedgerFailed."""
    values, _ = _look_at(frame, plan)()
    return json_answer(values)


def _look_at(frame: PageFrame, plan: str) -> Callable[[], tuple[Values, bool]]:
    """Return a function that reads the live values of a plan, and returns them with whether they
    are the last. Raises PlanUnknown, LedgerFailed."""
    plans, viewer = frame.ledger.plans, frame.viewer
    id = plans.one(plan, viewer).id

    def look() -> tuple[Values, bool]:
        try:
            found = plans.one(id, viewer)
        except PlanUnknown:
            # The page loads itself again, and says that the plan is gone.
            return {"texts": {}, "bars": {}, "shape": "gone"}, True
        except LedgerFailed as error:
            return {"trouble": frame.ledger_away(error)}, False
        frame.outage.end()
        return plan_update(found), found.state != PlanState.PLANNING

    return look
