"""How a test waits for the work of another process, which can only be polled."""

from __future__ import annotations

import time
from collections.abc import Iterator

SHORTEST, LONGEST = 0.01, 0.1
"""The pauses between two looks, in seconds."""
SHARE = 0.05
"""A pause as a part of the time that has passed: a change is seen about as soon, and a
long wait costs few looks, each of which is CPU time of both processes."""


def looks(seconds: float = 60.0) -> Iterator[None]:
    """Yield once for each look, until `seconds` have passed."""
    began = now = time.monotonic()
    while now - began < seconds:
        yield
        time.sleep(min(max(SHORTEST, SHARE * (now - began)), LONGEST))
        now = time.monotonic()
