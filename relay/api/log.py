"""The log: one JSON object a line on stderr.

Decided here: what a line holds. Secrets never get here: a Location prints itself without them, and the libraries that
would log whole URLs are silenced.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("relay")

SILENCED = ("urllib3", "requests")


class JsonLines(logging.Formatter):
    """One line a record: time, level, event, and what was given as `extra={"members": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        return json.dumps(members | getattr(record, "members", {}))


def start_logging() -> None:
    """Let relay's own log go to stderr, and nothing of the libraries'. May be called twice."""
    for name in SILENCED:
        logging.getLogger(name).disabled = True
    if not log.handlers:
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(JsonLines())
        log.addHandler(lines)
    log.setLevel(logging.INFO)
    log.propagate = False
