"""The progress of a transfer: its steps write it, and others read it while it runs.

Decided here: nothing. Never here: what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from relay.engine.multipart.upload import MultipartUpload
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.wire.body import Body


@dataclass(eq=False)
class Progress:
    """Where one transfer stands. `total` is the object's length in bytes, None while it is unknown.

    `phase` is one of waiting, opening, copying, piping, verifying, settled; `resent` are the bytes
    of all attempts that were sent in vain."""

    phase: str = "waiting"
    attempt: int = 0
    total: int | None = None
    resent: int = 0
    body: Body | None = None
    """What is read now, or was read last: whole, or in one piece, and ..."""
    parts: MultipartUpload | None = None
    """... what moves in parts instead."""
    copied: int = 0
    """The bytes that the store has copied by itself, in one request."""
    vain: int = 0
    """So many attempts, one after the other, went on with an upload in parts that took nothing."""
    discarded: tuple[str, ...] = ()
    """What is to be said of such uploads, which were thrown away."""
    before: PriorState | None = None
    """What was at the destination before the first byte of ours, in whichever attempt; None: no
    byte has gone."""
    noted: bool = False
    """It may be written down what was there, by this transfer."""
    sends: bool = False
    """Bytes of this attempt may have gone."""
    sendings: int = 0
    """How many attempts may have put something there, those of lost processes included."""
    replaces: bool = False
    """What is there now is ours, and this attempt may put another in its place."""
    is_rid: bool = False
    """Nothing is at the destination that attempts of lost processes have put there, and that shows
    nowhere."""
    answered: bool = False
    """The destination let us look at what is there, in any attempt."""
    remains: dict[str, str] = field(default_factory=dict)
    """What earlier attempts, those of lost processes included, left, or may have left, and nobody
    has removed: in words, by place. Others hold the same dictionary."""
    unproved: Location | None = None
    """Where something of ours may be seen that nothing has proved."""

    @property
    def bytes(self) -> int:
        """The bytes of the object that have moved: of its parts also those that others, or earlier
        attempts, have."""
        return self.parts.bytes if self.parts is not None else self.moved

    @property
    def moved(self) -> int:
        """The bytes of the object that this attempt has moved."""
        return self.parts.moved if self.parts is not None else self.copied or self.under_way

    @property
    def under_way(self) -> int:
        """The bytes that this attempt has moved, and that nobody is told of yet."""
        if self.parts is not None:
            return self.parts.under_way
        return self.body.count if self.body is not None else 0

    def begin_attempt(self) -> None:
        """Another attempt begins, with nothing of an earlier one."""
        self.attempt += 1
        self.phase = "opening"
        self.parts, self.copied, self.replaces, self.sends = None, 0, False, False

    def note_sending(self) -> None:
        """Bytes of this attempt are about to go."""
        self.sendings += not self.sends
        self.sends = True

    @property
    def to_note(self) -> PriorState | None:
        """What a journal keeps of it."""
        return replace(self.before, remains=dict(self.remains)) if self.before is not None else None

    def note_absent(self, place: Location) -> None:
        """Nothing of ours is at the object's place: nothing at all is, or what was there before."""
        self.unproved = None
        self.remains.pop(str(place), None)

    def note_unsent(self) -> None:
        """No byte of this attempt has gone."""
        self.sendings -= self.sends
        self.sends = False
        if not self.sendings:
            self.before = None

    def close(self) -> None:
        """Close the body, which breaks an upload that is not whole."""
        if self.body is not None:
            self.body.close()
