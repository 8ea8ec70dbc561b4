"""The public interface of the ledger for multipart uploads: every call is one transaction, and
raises as those of `Ledger`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from relay.ledger import part_leases, uploads
from relay.ledger.claim_values import Claim
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.upload_values import PartLease, StoredPart, UploadRecord


@dataclass(frozen=True)
class UploadLedger:
    """The multipart uploads of a ledger, as one worker resumes, moves and ends them."""

    access: LedgerAccess

    def find(self, claim: Claim) -> UploadRecord | None:
        """As uploads.recorded_upload."""
        return self.access.read(lambda c: uploads.recorded_upload(c, claim))

    def record(self, claim: Claim, upload: UploadRecord) -> None:
        """As uploads.record_upload."""
        self.access.write(lambda c: uploads.record_upload(c, self.access.worker, claim, upload))

    def resume(self, claim: Claim, upload_id: str, gone: Collection[int], total: int) -> None:
        """As uploads.resume_upload."""
        self.access.write(
            lambda c: uploads.resume_upload(
                c, self.access.worker, claim, upload_id=upload_id, gone=gone, total=total
            )
        )

    def take_part(self, claim: Claim, upload_id: str, done: StoredPart | None) -> int | None:
        """As uploads.take_part."""
        return self.access.write(
            lambda c: uploads.take_part(c, self.access.worker, claim.id, upload_id, done)
        )

    def outstanding_parts(self, claim: Claim) -> dict[int, bool]:
        """As uploads.outstanding_parts."""
        return self.access.read(
            lambda c: uploads.outstanding_parts(c, self.access.worker, claim.id)
        )

    def release_parts(self, claim: Claim, resent: int = 0) -> None:
        """As uploads.release_parts."""
        self.access.write(lambda c: uploads.release_parts(c, self.access.worker, claim.id, resent))

    def commit(self, claim: Claim, digest: str) -> None:
        """As uploads.commit_upload."""
        self.access.write(lambda c: uploads.commit_upload(c, self.access.worker, claim, digest))

    def forget(self, claim: Claim) -> None:
        """As uploads.forget_upload."""
        self.access.write(lambda c: uploads.forget_upload(c, self.access.worker, claim))

    def join(self, only: str | None = None, but: Sequence[int] = ()) -> PartLease | None:
        """As part_leases.join_upload; reads first."""
        worker = self.access.worker
        if not self.access.read(lambda c: part_leases.has_joinable(c, worker, only, but)):
            return None
        return self.access.write(lambda c: part_leases.join_upload(c, worker, only, but))
