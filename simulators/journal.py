"""The observed requests, oldest first, bounded, for tests. Decided here: only their storage."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any


class Journal:
    """A bounded list of JSON-able entries, safe between threads. An entry is visible once it is
    added."""

    def __init__(self, limit: int = 10_000) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=limit)
        self._lock = threading.Lock()

    def add(self, entry: dict[str, Any]) -> None:
        """Keep an entry; it may still be filled in by the one thread that added it."""
        with self._lock:
            self._entries.append(entry)

    def update(self, entry: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Complete an entry that was added."""
        with self._lock:
            entry.update(facts)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return copies of the entries, newest last."""
        with self._lock:
            return [dict(entry) for entry in self._entries]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
