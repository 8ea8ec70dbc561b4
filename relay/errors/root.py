"""The root of relay's errors: message, side, whether a retry may help, hint.

Decided here: an error's members, and how it is printed. Never here: the failures themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Literal

Side = Literal["source", "destination", "relay", "request"]


class Leftover(StrEnum):
    """A kind of leftover of ours at a destination. The sentence about it begins with the value, and
    the ledger keeps only the sentence."""

    PARTIAL = "A partial object"
    DAMAGED = "A damaged object"
    DAMAGED_UPLOAD = "A damaged upload of ours"
    UNPUBLISHED = "An unpublished object"
    WHOLE = "The whole object"
    """It may be the only whole object at the destination, so nothing deletes it."""
    COPY = "A copy"
    UPLOAD = "An unfinished upload"
    SENT = "What was sent"


def remaining(kind: Leftover, place: object, why: str) -> str:
    """Return the sentence that names a leftover of ours and the reason why it is still there: with
    the place in full (`Location.in_full`), so that a person deletes the right object."""
    where = getattr(place, "in_full", place)
    return f"{kind} may remain at {where} ({why}); check, and delete it."


def is_whole(sentence: str) -> bool:
    """Return whether a sentence about a leftover names the only whole object."""
    return sentence.startswith(Leftover.WHOLE)


class RelayError(Exception):
    """Base of every error that relay raises.

    `code` is the slug in the problem's `type` (RFC 9457), and `title` says the same in words.
    `status` is the HTTP status of the server's answer. `message` is the fact with its numbers;
    `hint` says what the reader can do."""

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
        """`retry_after` is in seconds; `pointer` is a JSON Pointer (RFC 6901) into the request."""
        super().__init__(message)
        self.message = message
        self.side: Side = side or self.default_side
        self.retryable = self.default_retryable if retryable is None else retryable
        self.hint = hint or self.default_hint
        self.retry_after = retry_after
        self.pointer = pointer
        self.undone = False
        """The request was carried out, and what it stored was deleted."""
        self.remains: dict[str, str] = {}
        """Sentences about our leftovers, by their places; the hint has them too."""

    def leave(self, kind: Leftover, place: object, why: str) -> None:
        """Report that something of ours may remain at a place, since it could not be removed."""
        self.keep({str(place): remaining(kind, place, why)})

    def keep(self, remains: Mapping[str, str]) -> None:
        """Report also the leftovers of earlier failures, at places that this error does not
        name."""
        for place, text in remains.items():
            if place not in self.remains:
                self.remains[place] = text
                self.hint = f"{self.hint} {text}"

    def __str__(self) -> str:
        """One line: the side and the fact."""
        return f"{self.side}: {self.message}"

    @classmethod
    def class_of(cls, code: str) -> type[RelayError] | None:
        """Return the error class with this code, or None where this version does not know it."""
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
    default_hint = "Correct the named setting and start again."
