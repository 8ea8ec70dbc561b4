"""The root of relay's errors: fact, side, whether a retry may help, hint.

Decided here: that, and how one is printed. Never here: what can go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

Side = Literal["source", "destination", "relay", "request"]


def remaining(what: str, place: object, why: str) -> str:
    """Return the words for what of ours may remain at a place."""
    return f"{what} may remain at {place} ({why}); look, and delete it."


class RelayError(Exception):
    """Base of every error of relay's own.

    `code` is the slug that stands in the problem's `type`; `title` the same in words; `status` the
    HTTP status that a server answers with; `message` the fact with its numbers; `hint` what the
    reader can do."""

    code: ClassVar[str] = "relay-error"
    title: ClassVar[str] = "Relay failed"
    status: ClassVar[int] = 500
    default_side: ClassVar[Side] = "relay"
    default_retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = (
        "This is a bug in relay. Please report it with the receipt or the log line."
    )

    def __init__(
        self,
        message: str,
        *,
        side: Side | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        pointer: str | None = None,
    ) -> None:
        """Keep the fact; `retry_after` is in seconds, `pointer` a JSON Pointer into the request."""
        super().__init__(message)
        self.message = message
        self.side: Side = side or self.default_side
        self.retryable = self.default_retryable if retryable is None else retryable
        self.hint = hint or self.default_hint
        self.retry_after = retry_after
        self.pointer = pointer
        self.remains: dict[str, str] = {}
        """What of ours may remain, by its place, in words; the hint says it too."""

    def leave(self, what: str, place: object, why: str) -> None:
        """Tell that something of ours may remain at a place, since it could not be removed."""
        self.keep({str(place): remaining(what, place, why)})

    def keep(self, remains: Mapping[str, str]) -> None:
        """Tell also what earlier failures left, of places that this one does not speak of."""
        for place, text in remains.items():
            if place not in self.remains:
                self.remains[place] = text
                self.hint = f"{self.hint} {text}"

    def __str__(self) -> str:
        """One line: the side and the fact."""
        return f"{self.side}: {self.message}"

    @classmethod
    def named(cls, code: str) -> type[RelayError] | None:
        """Return the error of ours that has this code; None for one that this relay does not
        know."""
        waiting: list[type[RelayError]] = [cls]
        while waiting:
            kind = waiting.pop()
            if kind.code == code:
                return kind
            waiting += kind.__subclasses__()
        return None


class ConfigError(RelayError):
    """A setting is wrong. Raised at start-up only; the command line exits with 2."""

    code, title, status = "config-error", "A setting is wrong", 500
    default_hint = "Correct the setting that is named and start again."
