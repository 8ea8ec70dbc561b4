"""Decide whether the object at the destination may be one that relay has sent.

Theory of operation. After a crash the destination may show an object of ours that nothing has
recorded: whole, partial or damaged. The prior state that the journal keeps, the version that was
stored, and the dates distinguish it from another writer's object. In doubt an object may be ours,
so it is verified or replaced, and never skipped unread. If nothing may be overwritten, it must be
known to be ours before it is replaced.

Decided here: whose object it is. Never here: what follows from it (`precheck.py`)."""

from __future__ import annotations

from typing import Final, cast

from relay.engine.comparison import (
    differs,
    has_same_date,
    has_same_tag,
    is_certainly_replaced,
    is_same,
)
from relay.engine.inspection import inspect_object, is_piece
from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.plan import IfExists
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.target import Target
from relay.engine.transfer.verify import CANT_READ
from relay.errors import SourceChanged, StoreError
from relay.parsing import is_before
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, PartsDestination, UnknownObject, Upload

COPYING: Final = frozenset({"webdav", "nextcloud"})
"""Stores whose rename may be a copy that others see while it grows (Tomcat). That of a folder of
this machine is whole or nothing."""
CLOCKS_SECONDS = 24 * 3600.0
"""Maximum difference between a store's clock and ours."""


class Ownership:
    """Answers for one transfer, in all its attempts, whether an object at its place may be ours.

    `there` is the version of the existing object, `found` the pinned version of the source."""

    def __init__(self, context: TransferContext, progress: Progress, target: Target) -> None:
        self._context, self._progress, self._target = context, progress, target

    @property
    def may_be_sent(self) -> bool:
        """True if an earlier attempt may have sent the object, and nothing has recorded that."""
        context, progress = self._context, self._progress
        if context.plan.destination.method == "POST":  # creates a new object each time
            return False
        if context.known.begun:
            return True
        # Without a journal, an upload that may overwrite is simply repeated.
        matters = context.journal is not None or self._target.if_exists is not IfExists.OVERWRITE
        return matters and progress.attempt > 1 and progress.sendings > 0

    @property
    def was_absent(self) -> bool:
        """True if the place was certainly empty before our first byte."""
        was = self._progress.before
        return was is not None and was.known and was.version is None

    def may_have_stored(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether an earlier attempt may have stored the existing object. If the journal
        would have a note of it, the note decides."""
        shows = self._target.shows_unproved
        if not self.may_be_sent or (shows and self._is_older(there, found)):
            return False
        noted = self._target.if_exists is not IfExists.OVERWRITE and shows
        return not noted or self._context.journal is None or self._progress.before is not None

    def may_be_ours(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether an incomplete object at the place may be a partial or damaged one of ours.
        Raises SourceChanged."""
        was = self._progress.before
        if was is None:
            return False
        if self._may_be_left(there) and self._has_bytes_left(there, found):
            return True
        resent = self._context.known.after_crash or self._progress.sendings > 1
        if was.sent is not None and not resent and is_certainly_replaced(was.sent, there):
            return False  # without an upload of ours since that version was recorded
        if not self._target.shows_unproved or is_same(was.version, there):
            return False
        return not self.is_upload_open()

    def may_be_piece(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether, with if_exists=overwrite, the object may be a partial one of a crashed
        process: its size differs from the source's. The journal has no note in this case."""
        context, size = self._context, found.version.size if found is not None else None
        if not context.known.after_crash or self._target.if_exists is not IfExists.OVERWRITE:
            return False
        return self._target.shows_unproved and (None in (size, there.size) or there.size != size)

    def may_be_lost_piece(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether the object may be a piece of ours that a crashed process could not record:
        the server copies the bytes in place of a rename, and was stopped in the middle. Raises
        SourceChanged, and as `inspect_object` of the source."""
        context, was = self._context, self._progress.before
        if self._target.place.store not in COPYING or not context.known.after_crash:
            return False
        if (was is not None and (was.known or was.arrived)) or not there.size:
            return False
        described: ObjectInfo | UnknownObject | None = found
        if described is None:
            source = context.stores.source(context.plan.source, context.meter)
            described = inspect_object(source, context.plan.source)
        size = described.version.size if isinstance(described, ObjectInfo) else None
        return there.size < (size or 0) and self.is_beginning(there, found)

    def is_known_ours(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether an incomplete object is known to be ours.

        An object with the first bytes of the source is ours only if the place was empty before:
        else it may be an older version by another writer. Raises SourceChanged."""
        was = self._progress.before
        if was is not None and was.sent is not None and has_same_tag(was.sent, there):
            return True
        return self.was_absent and self.is_beginning(there, found)

    def is_new(self, there: Version) -> bool:
        """Return whether the existing object is certainly not the prior one."""
        was = self._progress.before
        if self._target.if_exists is not IfExists.OVERWRITE and self._may_be_left(there):
            return True
        if was is None or not was.known or was.assumed:
            return False
        return was.version is None or differs(was.version, there)

    def is_upload_open(self) -> bool:
        """Return whether the store still has the recorded multipart upload. Then it was never
        completed, so the visible object is another writer's."""
        journal = self._context.journal
        destination, place = self._target.destination, self._target.place
        written = journal.recorded_upload() if journal is not None else None
        if self._target.part_limits is None or written is None or not written.upload_id:
            return False
        if location_of_upload(self._context.plan, written) != place:
            return False
        try:
            cast(PartsDestination, destination).stored_parts(
                Upload(place, written.upload_id, written.checked)
            )
        except StoreError:
            return False
        return True

    def _is_older(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether the object was certainly written before our migration was accepted. Then
        it is not ours, even if the ledger has lost commits. The source's own date proves nothing: a
        store may take it from our upload (`rclone serve s3`)."""
        was, pinned = self._progress.before, self._context.known.listed
        if was is None or self._may_be_left(there):
            return False
        pinned = found.version if found is not None else pinned
        if pinned is not None and has_same_date(pinned, there):
            return False
        return is_before(there.last_modified, was.since, CLOCKS_SECONDS)

    def _may_be_left(self, there: Version) -> bool:
        """Return whether the existing object may be one that we stored and never verified: neither
        its size nor its date contradicts that. (The ETag decides only without dates, since some
        servers give each answer another one.)"""
        was = self._progress.before
        if was is None or was.sent is None or is_same(was.version, there):
            return False
        sizes = (was.sent.size, there.size)
        dates = (was.sent.last_modified, there.last_modified)
        if None not in sizes and sizes[0] != sizes[1]:
            return False
        if None not in dates:
            return dates[0] == dates[1]
        return not differs(was.sent, there)

    def _has_bytes_left(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether an object may be what a failed rename has left, by its bytes if nothing
        else of it was recorded: they were proved before the rename, so that a piece has the first
        ones of the source. Any other object is another writer's. Raises SourceChanged."""
        was, if_exists = self._progress.before, self._target.if_exists
        is_described = was is None or was.sent != Version()
        if is_described or self._target.shows_unproved or if_exists is IfExists.OVERWRITE:
            return True
        return self.is_beginning(there, found)

    def is_beginning(self, there: Version, found: ObjectInfo | None) -> bool:
        """Return whether the existing object has only the first bytes of the source, as a broken
        upload leaves them."""
        if there.size == 0:
            return True
        context, pinned = self._context, found.version if found is not None else None
        destination, place = self._target.destination, self._target.place
        source = context.stores.source(context.plan.source, context.meter)
        try:
            return is_piece(
                destination,
                place,
                there,
                source=source,
                origin=context.plan.source,
                pinned=pinned,
            )
        except CANT_READ:
            return False
        except SourceChanged as error:
            if error.side == "source":
                raise
            return False  # the destination shows another ETag in each answer
