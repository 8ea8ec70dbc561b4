"""The progress of a transfer, which its steps write and other greenlets read while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from relay.engine.multipart.upload import MultipartUpload
from relay.errors import Leftover, remaining
from relay.ledger.prior_state_values import PriorState
from relay.location import Location
from relay.tallies import Carried
from relay.wire.body import Body

Phase = Literal["waiting", "opening", "copying", "piping", "verifying", "settled"]
"""What a transfer does at the moment."""


@dataclass(eq=False, kw_only=True)
class Progress:
    """The progress of one transfer."""

    phase: Phase = "waiting"
    attempt: int = 0
    """The number of the attempt, from 1; 0 before the first."""
    total: int | None = None
    """The object's length in bytes, None while it is unknown."""
    resent: int = 0
    """Bytes of all attempts that had to be sent again, or will have to be."""
    aborted: int = 0
    """Bytes of the last attempt's acknowledged parts, if their upload was aborted. They count as
    resent if another attempt uploads the object."""
    body: Body | None = None
    """The body that is read now, or was read last, unless the object is uploaded in parts."""
    parts: MultipartUpload | None = None
    """The multipart upload, if the object is uploaded in parts."""
    copied: int = 0
    """The bytes that the store copied itself, in one request."""
    fruitless: int = 0
    """Number of consecutive attempts that resumed a multipart upload and had no part accepted."""
    discarded: tuple[str, ...] = ()
    """Notes for the receipt about such uploads, which were aborted."""
    before: PriorState | None = None
    """The state of the destination before any attempt sent a byte; None until a byte was sent."""
    noted: bool = False
    """True if this transfer may have written `before` to the journal."""
    sends: bool = False
    """True if this attempt may have sent bytes."""
    acknowledged: bool = False
    """True if the destination has acknowledged the object of this attempt at its own place."""
    sendings: int = 0
    """Number of attempts that may have sent bytes, including those of crashed processes."""
    replaces: bool = False
    """True if the object at the destination is ours, so that this attempt may overwrite it."""
    is_rid: bool = False
    """True if the destination has no temporary uploads of crashed attempts."""
    answered: bool = False
    """True if the destination has answered a HEAD or GET, in any attempt."""
    source_answered: bool = False
    """True if the source has described or opened the object, in any attempt."""
    remains: dict[str, str] = field(default_factory=dict)
    """Sentences about the leftovers of earlier attempts, including those of crashed processes, by
    place. Other objects share this dictionary."""
    unproved: Location | None = None
    """The place where an object of ours may be visible that nothing has proved."""
    _earlier: tuple[int, int] = (0, 0)
    """The bytes that earlier attempts have moved, and those that the store has copied."""
    _earlier_body: Body | None = None
    """The body of an earlier attempt, while this one has none yet."""

    @property
    def bytes(self) -> int:
        """The bytes of the object that have moved, including parts that other workers or earlier
        attempts have moved."""
        return self.parts.bytes if self.parts is not None else self.moved_bytes

    @property
    def moved_bytes(self) -> int:
        """The bytes of the object that this attempt has moved."""
        return self.parts.moved_bytes if self.parts is not None else self.copied or self.under_way

    @property
    def under_way(self) -> int:
        """The bytes that this attempt has sent and that the destination has not acknowledged."""
        if self.parts is not None:
            return self.parts.under_way
        return self.body.count if self.body is not None else 0

    @property
    def carried_bytes(self) -> Carried:
        """The bytes that this process has moved in all attempts of this object."""
        moved, copied = self._earlier
        if self.parts is not None and self.parts.context.copying:
            copied += self.parts.moved_bytes
        elif self.parts is not None:
            moved += self.parts.moved_bytes
        elif self.copied:
            copied += self.copied
        elif self.body is not self._earlier_body:
            moved += self.under_way
        return Carried(moved, copied, self.resent)

    def begin_attempt(self) -> None:
        """Start the next attempt, with nothing of an earlier one."""
        self._earlier, self._earlier_body = self.carried_bytes[:2], self.body
        self.attempt += 1
        self.phase = "opening"
        self.parts = None
        self.copied = 0
        self.replaces = False
        self.sends = False
        self.acknowledged = False

    def note_sending(self) -> None:
        """Note that this attempt is about to send bytes."""
        if not self.sends:
            self.sends = True
            self.sendings += 1

    @property
    def to_note(self) -> PriorState | None:
        """The prior state with the current leftovers, for the journal."""
        return replace(self.before, remains=dict(self.remains)) if self.before is not None else None

    def note_failed_parts(self, parts: MultipartUpload) -> None:
        """Note if a failed upload was resumed without progress, or discarded."""
        self.fruitless = parts.fruitless
        self.discarded += (parts.discarded,) if parts.discarded else ()

    def note_absent(self, place: Location) -> None:
        """Note that the object's place has nothing of ours: it is empty, or unchanged."""
        self.unproved = None
        self.remains.pop(str(place), None)

    def forget_other_place(self, place: Location, *, shows: bool) -> None:
        """Forget the state of another place, which says nothing about `place`: the source has
        another name than in an earlier attempt. With `shows` that attempt's object may be there: it
        is a leftover."""
        was = self.before
        if was is None or was.place in (None, str(place)):
            return
        if shows:
            left = str(was.place)
            self.remains.setdefault(left, remaining(Leftover.SENT, left, "nothing has proved it"))
        self.before, self.unproved = None, None

    def note_unsent(self) -> None:
        """Note that this attempt has sent no byte after all."""
        self.sendings -= self.sends
        self.sends = False
        if not self.sendings:
            self.before = None

    def close(self) -> None:
        """Close the body, which breaks an upload that is not whole."""
        if self.body is not None:
            self.body.close()
