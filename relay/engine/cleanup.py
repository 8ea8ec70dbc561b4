"""Remove what a failed upload may have left at the destination.

A server that keeps to HTTP shows nothing of an upload that broke off (nginx), but some write
straight to the final name and leave what came (WsgiDAV). A failed transfer must leave nothing that
could be taken for a whole object, and must not touch what is another's. So we look before an
upload, and again after one that broke: an object that is not the one from before, and has the first
bytes of what we sent and no others, is ours, and is deleted under its entity tag. What has no tag,
or is not known to be ours, is left, and told.

What a process that was killed left is removed by whoever makes its transfer again, or, where nobody
does, by `orphans.py`: names and uploads that only it can have had, as the ledger tells them.

Never here: correctness. A process that is killed cleans nothing; a later verification must find
that out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, cast

from relay.config import Limits
from relay.errors import (
    CertificateRefused,
    ConnectFailed,
    ConnectionLost,
    DestinationLost,
    EgressDenied,
    NotFound,
    PreconditionFailed,
    RelayError,
    SourceChanged,
    SourceTruncated,
    StoreError,
)
from relay.ledger.rows import Claim, PriorState, UploadRecord
from relay.location import Location
from relay.parsing import http_date
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import (
    Destination,
    ObjectInfo,
    PartsDestination,
    PutResult,
    UnknownObject,
    Upload,
)

CLOCK_SECONDS: Final = 5.0
"""So much may a store's clock, as its answers tell it, seem to differ from the one that it writes
by."""
DELETIONS: Final = 3
"""So often a name that may be one of ours is deleted, or an upload thrown away, where the first
answer may pass."""
NOT_ASKED: Final = (ConnectFailed, CertificateRefused, EgressDenied)
"""Failures of a request of which the destination knows nothing."""
LOST: Final = 100
"""So many earlier claims of an object are looked for at its destination, of those of which
something may be left."""


def may_be_done(error: RelayError) -> bool:
    """Say if a request that failed so may have been carried out: its answer was lost, or is a
    gateway's."""
    return getattr(error, "store_status", None) in (None, 502, 504)


@dataclass(frozen=True)
class FailedUpload:
    """An upload that broke off: to where, over what, and how many bytes went, of how many (or
    None)."""

    place: Location
    before: PriorState
    sent: int
    length: int | None

    def may_be(self, version: Version) -> bool:
        """Say if what is there now may be a piece of this upload."""
        if version.size is None or version.size == self.length or version.size > self.sent:
            return False
        old = self.before.version
        return old is None or (old.etag, old.size, old.last_modified) != (
            version.etag,
            version.size,
            version.last_modified,
        )


def remove_failed_upload(
    destination: Destination,
    broken: FailedUpload,
    error: RelayError,
    waits: Iterable[Callable[[], None]],
    is_piece: Callable[[Version], bool],
) -> bool:
    """Delete what the broken upload left, if `is_piece` knows its bytes; where that can't be done,
    `error` says that something may remain. Returns whether what is there may be the whole of it, of
    which only the answer was lost.

    Looks once after each of `waits`, since a server may write on for a moment before it notices.

    Raises nothing of the destination's: the failure that is reported is `error`.
    """
    if not broken.before.known:
        _add_remains_hint(
            error, "A partial object", broken.place, "the destination does not let us look"
        )
        return False
    whole = False
    failure: RelayError | None = None
    for wait in waits:
        wait()
        try:
            failure = None
            found = destination.head(broken.place)
            if isinstance(found, UnknownObject):
                raise found.why
            there = found.version
            whole = (
                there.size in (None, broken.length, broken.sent) and there != broken.before.version
            )
            if broken.may_be(there) and not remove_piece(
                destination, broken.place, there, is_piece
            ):
                return False  # it is somebody else's by now
        except NotFound:
            whole = False
        except (
            DestinationLost,
            PreconditionFailed,
            SourceChanged,
            SourceTruncated,
            ConnectionLost,
        ) as changed:
            failure = (
                changed  # it is still being written, and the next look may see more of it, or all
            )
        except RelayError as other:
            failure = other
            break
    if failure is not None:
        _add_remains_hint(error, "A partial object", broken.place, failure.message)
    return whole


def remove_piece(
    destination: Destination, place: Location, there: Version, is_piece: Callable[[Version], bool]
) -> bool:
    """Delete what is there if it is a piece of ours; say if it is. Raises DestinationLost where
    nothing tells, as of an empty object, which begins as every object does, and StoreError."""
    if there.strong_etag is None or not there.size:
        raise DestinationLost("nothing there tells whose it is")
    if not is_piece(there):
        return False
    reach("during-sweep")
    destination.delete(place, there)
    return True


def remove_object(
    destination: Destination,
    stored: PutResult,
    error: RelayError,
    before: PriorState | None = None,
    since: float = 0.0,
) -> bool:
    """Delete an object that is ours, and damaged or not to be published; else `error` says that it
    may remain. Returns whether it is gone.

    Where the destination did not say what it calls the object, what is there now may be another's
    by now; not under a name that nobody else has, where whatever it is called by then is ours. What
    it calls as it called what was there `before` is that, as far as anybody knows: an upload that
    was acknowledged need not have been stored. So is, where no look came before, an object that
    does not show that it was written after `since`, when our work on it began (seconds since 1970).
    """
    if stored.readable is None:
        return False
    if (
        stored.place is None
        and stored.version.id is None
        and (why := _may_be_another(stored, before))
    ):
        _add_remains_hint(error, "A damaged object", stored.readable, why)
        return False
    unseen = (
        before is not None
        and not before.known
        and stored.place is None
        and stored.version.id is None
    )
    if unseen and not _is_written_since(destination, stored.readable, since):
        _add_remains_hint(
            error,
            "A damaged object",
            stored.readable,
            "nothing shows that it was not there before the upload",
        )
        return False
    place, version = stored.readable, stored.version if stored.place is None else Version()
    failure: RelayError | None
    try:
        failure = _retry_removal(lambda: destination.delete(place, version))
    except RelayError as other:
        failure = other
    if failure is not None:
        what = "A damaged object" if stored.place is None else "An unpublished object"
        _add_remains_hint(error, what, place, failure.message)
    return failure is None


def _may_be_another(stored: PutResult, before: PriorState | None) -> str:
    """Return why what is at the object's place may be what was there `before`, or another's; empty
    where it may not."""
    ours = stored.version.strong_etag
    if ours is None:
        return "the destination does not say which it took"
    if before is not None and before.version is not None and before.version.strong_etag == ours:
        return "the destination calls it as what was there before"
    return ""


def _is_written_since(destination: Destination, place: Location, since: float) -> bool:
    """Say if an object was last changed after a time, for certain; its date has whole seconds."""
    try:
        found = destination.head(place)
    except StoreError:
        return False
    changed = http_date(found.version.last_modified) if isinstance(found, ObjectInfo) else None
    return changed is not None and changed.timestamp() >= int(since)


def _add_remains_hint(error: RelayError, what: str, place: Location, why: str) -> None:
    error.leave(what, place, why)


# -- of processes that were killed


def upload_token(claim: Claim, fence: int | None = None) -> str:
    """Return what no other claim of any transfer has; that of an earlier claim by its fence."""
    return f"{claim.migration_id[:13]}-{claim.id}-{claim.fence if fence is None else fence}"


def lost_upload_tokens(claim: Claim, before: int) -> tuple[str, ...]:
    """Return the tokens of the last claims of a transfer of which something may be left, up to the
    one before the fence `before`."""
    return tuple(
        upload_token(claim, fence) for fence in range(max(1, claim.rid + 1, before - LOST), before)
    )


def remove_lost_uploads(
    destination: Destination, place: Location, tokens: Iterable[str]
) -> StoreError | None:
    """Remove what attempts that were lost left under names that only they had. Return the first
    failure, which says what of it remains; None where nothing does."""
    kept: StoreError | None = None
    for one in tokens:
        for left in destination.staged_locations(place, one):
            reach("during-sweep")
            error = _delete_own_name(destination, left)
            if error is not None:
                is_there = _is_there(destination, left)
                if is_there or (is_there is None and kept is None):
                    kept = kept or error
                    kept.leave("An unpublished object", left, error.message)
    return kept


def _is_there(destination: Destination, place: Location) -> bool | None:
    """Say if something lies there; None where the destination does not tell."""
    try:
        return True if isinstance(destination.head(place), ObjectInfo) else None
    except NotFound:
        return False
    except StoreError:
        return None


def _delete_own_name(destination: Destination, left: Location) -> StoreError | None:
    """Delete what may be under a name that only we can have had; return why that can't be done, or
    None."""
    return _retry_removal(lambda: destination.delete(left, Version()))


def _retry_removal(remove: Callable[[], None]) -> StoreError | None:
    """Remove something; return why that can't be done, or None. What may pass is tried again."""
    refused: StoreError | None = None
    for _ in range(DELETIONS):
        try:
            remove()
            return None
        except StoreError as error:
            refused = error
            if not error.retryable:
                break
    return refused


def abort_upload(destination: Destination, upload: Upload) -> None:
    """Throw an upload away, and what the store has put together of it and nobody has published.
    What may pass is tried again. Raises StoreError."""
    refused = _retry_removal(lambda: cast(PartsDestination, destination).abort(upload))
    if refused is not None:
        raise refused
    for left in destination.staged_locations(upload.location, upload.id):
        try:
            destination.delete(left, Version())
        except StoreError:  # most were never put together
            if _is_there(destination, left) is not False:
                raise


def uploads_of(
    destination: Destination, place: Location, written: UploadRecord, limits: Limits
) -> tuple[Upload, ...]:
    """Return the upload that was written down; where its attempt was lost before it learned, or
    wrote down, which it was, those that it may have begun.

    Nobody else's: to this very place, and of the time within which that attempt may have asked.
    Raises StoreError."""
    if written.upload_id:
        return (Upload(place, written.upload_id, written.checked),)
    longest = 2 * (limits.head_seconds + limits.connect_seconds)
    since, until = written.at - CLOCK_SECONDS, written.at + longest + CLOCK_SECONDS
    return cast(PartsDestination, destination).lost_uploads(place, since, until)
