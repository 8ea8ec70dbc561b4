"""Write an event into the log.

Decided here: how code names an event and its members. `tests/unit/test_log_calls.py` compares every
call with the table, so a call names its event and its members in place."""

from __future__ import annotations

import logging
from typing import Any, Final

from relay.logs.event_table import EVENTS, LOGGER, LogEvent

_LOG: Final = logging.getLogger(LOGGER)
_LEVELS: Final = {event: row.level.number for event, row in EVENTS.items()}


def emit(event: LogEvent, **members: Any) -> None:
    """Write an event with its members; the common ones that are None are left out. Costs next to
    nothing where the level is not written."""
    level = _LEVELS[event]
    if _LOG.isEnabledFor(level):
        # Not by `log`, which would look for the place of the call: no line of an event has that.
        extra = {"event": event, "members": members}
        _LOG.handle(_LOG.makeRecord(LOGGER, level, "", 0, event.value, (), None, extra=extra))


def is_written(event: LogEvent) -> bool:
    """Return whether the level of an event is written at all."""
    return _LOG.isEnabledFor(_LEVELS[event])
