"""The exit codes."""

from __future__ import annotations

from enum import IntEnum

from relay.errors import ConfigError, RelayError, RequestError
from relay.receipt import State

EPILOG = (
    "Exit codes: 0 verified · 1 failed · 2 wrong usage · 3 moved but not verified · 130 interrupted"
)
"""The line about exit codes in a command's help."""


class Exit(IntEnum):
    """The exit code of a command."""

    VERIFIED = 0
    """Also for skipped objects, since the command asked for that."""
    FAILED = 1
    USAGE = 2
    UNVERIFIED = 3
    INTERRUPTED = 130
    TERMINATED = 143

    @classmethod
    def of(cls, end: RelayError | State) -> Exit:
        """Return the exit code for an error or for the state of an object."""
        if isinstance(end, State):
            return cls.UNVERIFIED if end is State.UNVERIFIED else cls.VERIFIED
        return cls.USAGE if isinstance(end, RequestError | ConfigError) else cls.FAILED
