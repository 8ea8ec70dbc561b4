"""The journal of a transfer: intent before an effect, fact after it, so that another process can resume.

Decided here: what is worth writing, and what may be kept of an upload that somebody else began. Never here: where it
is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gevent.lock import BoundedSemaphore

from relay.errors import LeaseLost
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Before, Begun, Claim, StoredPart
from relay.stores.interfaces import Part


class Journal(Protocol):
    """The durable notes of one transfer. A call has happened when it returns; it raises LeaseLost, LedgerFailed."""

    def begun(self) -> Begun | None:
        """Return the upload in parts that was begun, with the parts that were acknowledged, or None."""

    def begin(self, upload: Begun) -> None:
        """An upload in parts was begun; one without an id is about to be."""

    def go_on(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        """An upload of `total` parts is gone on with; `gone` are those that are to be sent again."""

    def take(self, upload_id: str, done: StoredPart | None) -> int | None:
        """The destination has the part `done`; return the number of one that nobody has, ours from now on, or None.

        Raises UploadGone where the upload is not the one that is written down any more.
        """

    def taken(self) -> Mapping[int, bool]:
        """Return the numbers of the parts that are somebody's and not there yet, or nobody's; True: they are ours."""

    def give_back(self) -> None:
        """The parts that were ours, and are not there yet, are nobody's now."""

    def note(self, before: Before) -> None:
        """Bytes are about to go to the destination, where this was before any of ours; or it is known by now what the
        destination calls what it took."""

    def led(self, link: str, target: str, there: str) -> Mapping[str, str]:
        """A link of the destination's tree leads the object elsewhere; return the others that go there as well, with
        their states, by their names."""

    def met(self, link: str, there: str, tree: str) -> Mapping[str, str]:
        """Return the other objects that go where a link of the destination's tree leads this one, or lie there in the
        tree itself; as `led`, which writes the link down."""

    def commit(self, digest: str) -> None:
        """The upload is about to be completed; `digest` is the whole's, in hex, or empty."""

    def forget(self) -> None:
        """The upload is no more."""

    def held(self) -> None:
        """Raise LeaseLost if somebody else may have the transfer by now; say it before what can't be taken back."""


def kept(written: Begun, listed: tuple[Part, ...]) -> tuple[StoredPart, ...]:
    """Return the parts that need not be sent again: those that both the notes and the destination have, and alike.

    One that only the destination has may be half of something; one that only the notes have is gone. Both are sent.
    """
    there = {part.number: part for part in listed}
    return tuple(
        part
        for part in written.parts
        if (other := there.get(part.number)) is not None and (other.size, other.etag) == (part.size, part.etag)
    )


def fits(written: Begun | None, place: str, etag: str | None, size: int | None, step: int) -> bool:
    """Say if an upload that was begun is one of this version of the source, to this place, in this cut."""
    return written is not None and (written.place, written.etag, written.size, written.part_bytes) == (
        place,
        etag,
        size,
        step,
    )


@dataclass(eq=False)
class Notes:
    """What writes the notes of many transfers: those that come while others are written share one transaction."""

    ledger: Ledger
    _waiting: list[_Note] = field(default_factory=list)
    _writing: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(1))

    def write(self, claim: Claim, before: Before) -> None:
        """Write one. Raises LeaseLost, LedgerFailed."""
        mine = _Note(claim, before)
        self._waiting.append(mine)
        with self._writing:
            if mine.held is None:
                together = [one for one in self._waiting if one is not mine]
                self._waiting.clear()
                together.append(mine)
                for one, held in zip(together, self.ledger.note([(n.claim, n.before) for n in together]), strict=True):
                    one.held = held
        if not mine.held:
            raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")


@dataclass(eq=False)
class _Note:
    claim: Claim
    before: Before
    held: bool | None = None
    """Whether it was written, since the claim was still ours; None until somebody has tried."""


@dataclass(frozen=True)
class ClaimJournal:
    """The notes of a transfer that is claimed from a ledger."""

    ledger: Ledger
    claim: Claim
    sure: Callable[[], bool] = lambda: False
    """Says that the lease can't have lapsed, so that nobody need ask."""
    notes: Notes | None = None
    """What writes notes together with those of others; None: by themselves."""

    def begun(self) -> Begun | None:
        """As Journal.begun."""
        return self.ledger.begun(self.claim)

    def begin(self, upload: Begun) -> None:
        """As Journal.begin."""
        self.ledger.begin(self.claim, upload)

    def go_on(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        """As Journal.go_on."""
        self.ledger.go_on(self.claim, upload_id, gone, total)

    def take(self, upload_id: str, done: StoredPart | None) -> int | None:
        """As Journal.take."""
        return self.ledger.take(self.claim, upload_id, done)

    def taken(self) -> Mapping[int, bool]:
        """As Journal.taken."""
        return self.ledger.taken(self.claim)

    def give_back(self) -> None:
        """As Journal.give_back."""
        self.ledger.give_back(self.claim)

    def note(self, before: Before) -> None:
        """As Journal.note."""
        (self.notes or Notes(self.ledger)).write(self.claim, before)

    def led(self, link: str, target: str, there: str) -> Mapping[str, str]:
        """As Journal.led."""
        return self.ledger.led(self.claim, link, target, there)

    def met(self, link: str, there: str, tree: str) -> Mapping[str, str]:
        """As Journal.met."""
        return self.ledger.met(self.claim, link, there, tree)

    def commit(self, digest: str) -> None:
        """As Journal.commit."""
        self.ledger.commit(self.claim, digest)

    def forget(self) -> None:
        """As Journal.forget."""
        self.ledger.forget(self.claim)

    def held(self) -> None:
        """As Journal.held."""
        if not self.sure():
            self.ledger.check(self.claim)
