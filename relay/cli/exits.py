"""The exit codes."""

from __future__ import annotations

from enum import IntEnum

from relay.errors import ConfigError, RelayError, RequestError
from relay.receipt import State

EPILOG = (
    "Exit codes: 0 verified · 1 failed · 2 wrong usage · 3 moved but not verified · 130 interrupted"
)
"""What the help of a command says of them."""


class Exit(IntEnum):
    """What a command's exit code means."""

    VERIFIED = 0
    """Also: skipped, since that is what was asked for."""
    FAILED = 1
    USAGE = 2
    UNVERIFIED = 3
    INTERRUPTED = 130
    TERMINATED = 143

    @classmethod
    def of(cls, end: RelayError | State) -> Exit:
        """Return the code of how something ended."""
        if isinstance(end, State):
            return cls.UNVERIFIED if end is State.UNVERIFIED else cls.VERIFIED
        return cls.USAGE if isinstance(end, RequestError | ConfigError) else cls.FAILED
