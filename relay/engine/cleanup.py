"""Delete the leftovers of failed uploads at the destination.

A server that follows HTTP shows nothing of a broken upload (nginx), but some write directly to the
final name and leave a partial object (WsgiDAV). A failed transfer must leave nothing that looks
like a whole object, and must not touch another writer's. So the destination is inspected before an
upload, and again after a broken one. An object of another size than the prior one, which has only
the first bytes that we sent, is ours, and is deleted under its ETag. An object without an ETag, or
not known to be ours, is left, and the error names it.

The leftovers of a killed process are temporary names and multipart uploads that the ledger knows to
be its own. The next attempt of the transfer removes them, or else `worker/orphans.py`.

Never here: correctness. A killed process cleans nothing; a later verification must detect that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from relay.engine.comparison import differs
from relay.engine.inspection import inspect_object
from relay.errors import (
    CertificateRefused,
    ConnectFailed,
    ConnectionLost,
    DestinationLost,
    EgressDenied,
    HostKeyRefused,
    KeyCollision,
    Leftover,
    NotFound,
    PreconditionFailed,
    RelayError,
    SourceChanged,
    SourceTruncated,
    StoreError,
    Throttled,
    is_whole,
)
from relay.ledger.claim_values import Claim
from relay.ledger.prior_state_values import PriorState
from relay.ledger.upload_values import UploadRecord
from relay.location import Location
from relay.parsing import http_date
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.http_fields import FINAL
from relay.stores.interfaces import (
    Destination,
    ObjectInfo,
    PartsDestination,
    PutResult,
    UnknownObject,
    Upload,
)
from relay.transfer_limits import Limits

CLOCK_SECONDS: Final = 5.0
"""Tolerated difference in seconds between a store's Date header and its own timestamps."""
DELETIONS: Final = 3
"""Maximum attempts to delete a temporary name, or to abort an upload, after retryable errors."""
NOT_ASKED: Final = (ConnectFailed, CertificateRefused, EgressDenied, HostKeyRefused)
"""Failures of a request that never reached the destination."""
_UNDONE: Final = FINAL | {507}
"""Statuses of a server error that refuse a request."""
LOST: Final = 100
"""Maximum number of an object's earlier claims whose leftovers are looked for."""


def may_be_done(error: RelayError) -> bool:
    """Return whether a failed request may have been carried out: its answer was lost, or comes from
    a gateway (502, 504, Cloudflare's 524), or from a server that failed with it (500). A 503 is a
    refusal only as Throttled: Envoy answers 503 also where it lost the server's answer."""
    status = getattr(error, "store_status", None)
    if isinstance(error, Throttled) or error.undone:
        return False
    return status is None or (500 <= status < 600 and status not in _UNDONE)


@dataclass(frozen=True, kw_only=True)
class FailedUpload:
    """A broken upload: its place, the prior state, the bytes that were sent, and the object's
    length (None if unknown)."""

    place: Location
    before: PriorState
    sent: int
    length: int | None

    def may_be(self, version: Version) -> bool:
        """Return whether an existing version may be a partial object of this upload."""
        if version.size is None or version.size == self.length or version.size > self.sent:
            return False
        old = self.before.version
        return old is None or differs(old, version)

    def is_certainly_new(self, version: Version) -> bool:
        """Return whether an existing version is not the prior one. Another ETag or date does not
        prove that: another node of the server, or another method, may report it so."""
        old = self.before.version
        return old is None or old.size not in (None, version.size)


def remove_failed_upload(
    destination: Destination,
    broken: FailedUpload,
    error: RelayError,
    waits: Iterable[Callable[[], None]],
    is_piece: Callable[[Version], bool],
) -> bool:
    """Delete the partial object of a broken upload, if `is_piece` recognizes its bytes. If it can't
    be deleted, `error` says that it may remain. Return whether the whole object may be there, and
    only the answer was lost.

    Inspects the place once after each of `waits`, since a server may keep writing for a moment.
    Raises no StoreError: `error` is the failure that is reported.
    """
    if not broken.before.known:
        error.leave(Leftover.PARTIAL, broken.place, "the destination does not permit a check")
        return False
    whole = False
    failure: RelayError | None = None
    # Not only until the first deletion: a server may write the rest after it (fault F50).
    for wait in waits:
        wait()
        try:
            failure = None
            there, is_new = _inspect_place(destination, broken)
            whole = (
                there.size in (None, broken.length, broken.sent) and there != broken.before.version
            )
            if broken.may_be(there):
                whole = False
                if not is_new:
                    raise DestinationLost("nothing shows that it was not there before")
                if not remove_piece(destination, broken.place, there, is_piece):
                    return False  # another writer has replaced it
        except NotFound:
            whole = False
        except (
            DestinationLost,
            PreconditionFailed,
            SourceChanged,
            SourceTruncated,
            ConnectionLost,
        ) as changed:
            failure = changed  # the server is still writing it, so inspect it again
        except RelayError as other:
            failure = other
            break
    if failure is not None:
        error.leave(Leftover.PARTIAL, broken.place, failure.message)
    return whole


def _inspect_place(destination: Destination, broken: FailedUpload) -> tuple[Version, bool]:
    """Return the existing version, and whether it was certainly not there before the upload: a
    server without HEAD answers it 404 in any case. Raises StoreError."""
    found = destination.head(broken.place)
    is_certain = isinstance(found, ObjectInfo) or not broken.before.assumed
    if isinstance(found, UnknownObject):
        found = inspect_object(destination, broken.place)
    if isinstance(found, UnknownObject):
        raise found.why
    return found.version, is_certain and broken.is_certainly_new(found.version)


def remove_piece(
    destination: Destination, place: Location, there: Version, is_piece: Callable[[Version], bool]
) -> bool:
    """Delete the existing object if it is a partial one of ours, and return whether it was. Raises
    DestinationLost if that can't be decided (no strong ETag, or an empty object), and
    StoreError."""
    if there.strong_etag is None or not there.size:
        raise DestinationLost("nothing shows who wrote it")
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
    """Delete our object, because it is damaged or must not be published. If it can't be deleted,
    `error` says that it may remain. Return whether it is gone.

    An object at its final place is deleted only if it is certainly ours:
    - the destination gave it a version, else it may be another writer's by now;
    - the version is not the one from `before`: an acknowledged upload need not have been stored;
    - if the place was not inspected before, its date is not before `since`, when our transfer began
      (seconds since 1970).

    A temporary name is always ours."""
    if stored.readable is None:
        return False
    # At its final place, and without a version of its own.
    is_exposed = stored.place is None and stored.version.id is None
    why = _may_be_another(stored, before) if is_exposed else ""
    if why:
        error.leave(Leftover.DAMAGED, stored.readable, why)
        return False
    unseen = is_exposed and before is not None and not before.known
    if unseen and not _is_written_since(destination, stored.readable, since):
        error.leave(
            Leftover.DAMAGED,
            stored.readable,
            "nothing shows that it was not there before the upload",
        )
        return False
    place = stored.readable
    # No other writer has a temporary name, so it needs no precondition.
    version = stored.version if stored.place is None else Version()
    failure: RelayError | None
    try:
        failure = _retry_removal(lambda: destination.delete(place, version))
    except RelayError as other:
        failure = other
    if failure is not None:
        what = Leftover.DAMAGED if stored.place is None else Leftover.UNPUBLISHED
        error.leave(what, place, failure.message)
    return failure is None


def _may_be_another(stored: PutResult, before: PriorState | None) -> str:
    """Return the reason why the object at the place may be the one from `before`, or another
    writer's; empty if it is ours."""
    ours = stored.version.strong_etag
    if ours is None:
        return "the destination did not report the stored version"
    if before is not None and before.version is not None and before.version.strong_etag == ours:
        return "it has the ETag of the prior object"
    return ""


def _is_written_since(destination: Destination, place: Location, since: float) -> bool:
    """Return whether an object was certainly last changed after a time; its date has whole
    seconds."""
    try:
        found = destination.head(place)
    except StoreError:
        return False
    changed = http_date(found.version.last_modified) if isinstance(found, ObjectInfo) else None
    return changed is not None and changed.timestamp() >= int(since)


# -- of processes that were killed


def upload_token(claim: Claim, fence: int | None = None) -> str:
    """Return the token that only this claim has, or an earlier claim of the transfer with that
    `fence`."""
    return f"{claim.migration_id[:13]}-{claim.id}-{claim.fence if fence is None else fence}"


def lost_upload_tokens(claim: Claim, before: int) -> tuple[str, ...]:
    """Return the tokens of a transfer's earlier claims, below the fence `before`, whose leftovers
    may remain; at most LOST."""
    return tuple(
        upload_token(claim, fence) for fence in range(max(1, claim.rid + 1, before - LOST), before)
    )


def remove_lost_uploads(
    destination: Destination,
    place: Location,
    tokens: Iterable[str],
    remains: dict[str, str],
    *,
    arrived: bool = False,
) -> StoreError | None:
    """Delete the temporary uploads of earlier attempts, and update the sentences in `remains` about
    them. Return the first failure, which names all that remain, or None.

    The only whole object stays, unless an object has `arrived`."""
    whole = set() if arrived else _whole_names(destination, place, remains)
    kept: StoreError | None = None
    for one in tokens:
        for left in destination.staged_locations(place, one):
            if str(left) in whole:
                continue
            reach("during-sweep")
            error = _delete_own_name(destination, left)
            remains.pop(str(left), None)
            if error is not None:
                # Most of these names never existed. If the store does not show them, the first one
                # stands for all: a note for each of LOST claims would bury the others.
                is_there = _is_there(destination, left)
                if is_there or (is_there is None and kept is None):
                    kept = kept or error
                    kept.leave(Leftover.UNPUBLISHED, left, error.message)
    remains.update(kept.remains if kept is not None else {})
    return kept


def _whole_names(destination: Destination, place: Location, remains: Mapping[str, str]) -> set[str]:
    """Return the names of an object's uploads that may be the only whole object: those that
    `remains` names so, while the place has no object."""
    whole = {name for name, text in remains.items() if is_whole(text)}
    return set() if whole and _is_there(destination, place) else whole


def _is_there(destination: Destination, place: Location) -> bool | None:
    """Return whether the place has an object; None if the destination does not show it."""
    try:
        return True if isinstance(destination.head(place), ObjectInfo) else None
    except NotFound:
        return False
    except StoreError:
        return None


def _delete_own_name(destination: Destination, left: Location) -> StoreError | None:
    """Delete a temporary name of ours. Return the failure, or None."""
    failure = _retry_removal(lambda: destination.delete(left, Version()))
    # The server takes the name for another one, so no upload has it.
    return None if isinstance(failure, KeyCollision) else failure


def _retry_removal(remove: Callable[[], None]) -> StoreError | None:
    """Call `remove`, with retries after retryable errors. Return the last failure, or None."""
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


def abort_upload(destination: Destination, upload: Upload, remains: dict[str, str]) -> None:
    """Abort an upload, and delete the object that was completed from it and not published, unless
    `remains` names it as the only whole one. The names of deleted objects are removed from
    `remains`. Retries after retryable errors. Raises StoreError."""
    refused = _retry_removal(lambda: cast(PartsDestination, destination).abort(upload))
    if refused is not None:
        raise refused
    whole = _whole_names(destination, upload.location, remains)
    for left in destination.staged_locations(upload.location, upload.id):
        if str(left) in whole:
            continue
        try:
            destination.delete(left, Version())
        except StoreError:  # most uploads were never completed
            if _is_there(destination, left) is not False:
                raise
        remains.pop(str(left), None)


def uploads_of(
    destination: Destination, place: Location, written: UploadRecord, limits: Limits
) -> tuple[Upload, ...]:
    """Return the recorded upload. If its attempt crashed before it recorded the id, return the
    uploads that it may have created.

    These are only uploads to this very place, from the time in which that attempt may have sent its
    request. Raises StoreError."""
    if written.upload_id:
        return (Upload(place, written.upload_id, written.checked),)
    longest = 2 * (limits.head_seconds + limits.connect_seconds)
    since, until = written.at - CLOCK_SECONDS, written.at + longest + CLOCK_SECONDS
    return cast(PartsDestination, destination).lost_uploads(place, since, until)
