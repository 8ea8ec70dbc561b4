"""The journal of a claimed transfer: its notes are rows of the ledger.

Decided here: which notes share a transaction. Never here: which notes are written
(`relay/engine/multipart/journal.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from gevent.lock import BoundedSemaphore

from relay.errors import LeaseLost
from relay.ledger.claim_values import Claim
from relay.ledger.ledger import Ledger
from relay.ledger.prior_state_values import PriorState
from relay.ledger.upload_values import StoredPart, UploadRecord


@dataclass(eq=False)
class NoteWriter:
    """Writes the notes of many transfers. Notes that arrive during a transaction share the next
    one."""

    ledger: Ledger
    _waiting: list[_Note] = field(default_factory=list)
    _writing: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(1))

    def write(self, claim: Claim, before: PriorState) -> None:
        """Write the prior state of one transfer. Raises LeaseLost, LedgerFailed."""
        mine = _Note(claim, before)
        self._waiting.append(mine)
        with self._writing:
            # Else the greenlet that held the semaphore before has written this note with its own.
            if mine.held is None:
                # This note is not in the list if the greenlet that took it failed to write it.
                together = [one for one in self._waiting if one is not mine]
                self._waiting.clear()
                together.append(mine)
                for one, held in zip(
                    together,
                    self.ledger.destinations.note_prior_states(
                        [(n.claim, n.before) for n in together]
                    ),
                    strict=True,
                ):
                    one.held = held
        if not mine.held:
            raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")


@dataclass(eq=False)
class _Note:
    """The prior state of one transfer, to be written."""

    claim: Claim
    before: PriorState
    held: bool | None = None
    """Whether it was written; False if the claim was lost. None until a greenlet has tried."""


@dataclass(frozen=True)
class ClaimJournal:
    """The journal of a transfer that is claimed from a ledger."""

    ledger: Ledger
    claim: Claim
    _: KW_ONLY
    sure: Callable[[], bool] = lambda: False
    """Says if the lease certainly holds, so that the ledger need not be asked."""
    notes: NoteWriter | None = None
    """Writes notes together with those of other transfers; None: each in its own transaction."""

    def recorded_upload(self) -> UploadRecord | None:
        """As Journal.recorded_upload."""
        return self.ledger.uploads.find(self.claim)

    def begin(self, upload: UploadRecord) -> None:
        """As Journal.begin."""
        self.ledger.uploads.record(self.claim, upload)

    def resume(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        """As Journal.resume."""
        self.ledger.uploads.resume(self.claim, upload_id, gone, total)

    def take(self, upload_id: str, done: StoredPart | None) -> int | None:
        """As Journal.take."""
        return self.ledger.uploads.take_part(self.claim, upload_id, done)

    def outstanding_parts(self) -> Mapping[int, bool]:
        """As Journal.outstanding_parts."""
        return self.ledger.uploads.outstanding_parts(self.claim)

    def release_parts(self) -> None:
        """As Journal.release_parts."""
        self.ledger.uploads.release_parts(self.claim)

    def earlier_receipt(self) -> Mapping[str, Any] | None:
        """As Journal.earlier_receipt."""
        return self.ledger.destinations.earlier_receipt(self.claim)

    def note(self, before: PriorState) -> None:
        """As Journal.note."""
        (self.notes or NoteWriter(self.ledger)).write(self.claim, before)

    def note_link(
        self, link: str, target: str, there: str, tree: str | None = None
    ) -> Mapping[str, str]:
        """As Journal.note_link."""
        return self.ledger.destinations.keep_link(self.claim, link, target, there, tree)

    def commit(self, digest: str) -> None:
        """As Journal.commit."""
        self.ledger.uploads.commit(self.claim, digest)

    def forget(self) -> None:
        """As Journal.forget."""
        self.ledger.uploads.forget(self.claim)

    def check_lease(self) -> None:
        """As Journal.check_lease."""
        if not self.sure():
            self.ledger.claims.check(self.claim)
