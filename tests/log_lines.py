"""Check the log of a server that a test has run: every line of it keeps to the table of events."""

from __future__ import annotations

import json

from relay.logs.event_table import ALWAYS, COMMON, EVENTS, LogEvent


def strange_lines(text: str) -> list[str]:
    """Return the lines in JSON that have another event than those of the table, or a member that
    their event does not have."""
    return [line for line in text.splitlines() if line.startswith("{") and not _keeps(line)]


def _keeps(line: str) -> bool:
    try:
        members = json.loads(line)
        event = LogEvent(members["event"])
    except (ValueError, KeyError):
        return False
    known = {*ALWAYS, *COMMON, *EVENTS[event].members}
    return known >= members.keys() >= {*ALWAYS}
