"""A mirror's deletions: delete at the destination what the source does not have.

Theory of operation. Deletions come after all copies, and need complete listings of both sides, made
then. An empty source, and more deletions than the limit, delete nothing at all: both look like a
wrong prefix or a lost mount. Each object is deleted only if the source says now that it has no
object of that name, and if the destination still has the version that was listed; the deletion is
conditional on that version. A name that the destination may have folded from one of the source's
names is never deleted, nor one in a folder that the source lacks or shows as empty (unless that is
allowed), nor one in a folder that may be the source's (`distinct_places.py`).

Decided here: which objects are deleted. Never here: how a store deletes (`stores/`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final

from gevent.pool import Pool

from relay.engine.inspection import inspect_object
from relay.engine.removal.deletion_run import (
    PAGE,
    RemovalResult,
    RemovalRun,
    may_have_deleted,
)
from relay.engine.removal.distinct_places import DistinctPlaces, folder_in, names_below
from relay.engine.removal.empty_folders import EmptyFolders
from relay.engine.removal.extra_names import ExtraNames
from relay.engine.removal.trash import Trash
from relay.engine.removal.unwritable_source import UnwritableSource
from relay.engine.removal.version_questions import kept_end
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import in_pages
from relay.errors import (
    NotFound,
    PreconditionFailed,
    RelayError,
    Unsupported,
)
from relay.ledger.deletion_values import (
    Candidate,
    DeletionBasis,
    DeletionEnd,
    DeletionState,
    KeptReason,
    MirrorSettings,
    TrashCopy,
)
from relay.location import Location
from relay.process.failpoints import reach
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import DeletingSource, ObjectInfo
from relay.stores.listing_retries import ListingRetries
from relay.wire.watchdog import Watchdog

SIDE: Final = "destination"


class Refusal(StrEnum):
    """Why a mirror deletes nothing at all."""

    INCOMPLETE = "incomplete"
    """A listing is not complete."""
    SOURCE_EMPTY = "source-empty"
    TOO_MANY = "too-many-deletes"
    NOT_DISTINCT = "one-place"
    """Nothing shows that source and destination are two places."""


@dataclass(frozen=True, kw_only=True)
class MirrorResult(RemovalResult):
    """What one run of a mirror has done. With a `refusal` it has deleted nothing; `detail` says
    why."""

    extras: int = 0
    limit: int = 0
    refusal: Refusal | None = None
    detail: str | None = None


def require_mirror(engine: TransferEngine, source: Location, destination: Location) -> None:
    """Raise Unsupported for a source whose listing may lack objects, or a destination that does not
    delete by versions; and the destination's errors if it does not delete in that folder."""
    meter = Watchdog(engine.limits)
    store = engine.stores.destination(destination, meter)
    if not isinstance(store, DeletingSource):
        raise Unsupported(
            f"{destination} can't be a mirror: relay deletes nothing there",
            side="destination",
            hint="Name the store itself (s3://, webdav+https://, a folder).",
        )
    # A list of URLs has no names that can be asked for; index pages may omit names.
    listed = engine.stores.source(source, meter)
    if not isinstance(listed, DeletingSource):
        raise Unsupported(
            f"{source} can't be mirrored: its listing does not prove that a name is missing",
            side="source",
            hint="Name the store itself (s3://, webdav+https://, a folder).",
        )
    patience = ListingRetries(engine.limits.listing_seconds, meter)
    patience.retry(partial(store.require_deletes, destination))


@dataclass(eq=False)
class MirrorRemoval(RemovalRun):
    """One run over all names that the destination has and the source lacks."""

    settings: MirrorSettings
    _: KW_ONLY
    space: SpillSpace
    trash: Trash | None = None
    """Where deleted objects are copied first; None: nowhere."""
    _distinct: DistinctPlaces | None = field(default=None, init=False)
    _unwritable: UnwritableSource | None = field(default=None, init=False)
    _empty: EmptyFolders = field(init=False)
    _empties_folders: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._empty = EmptyFolders(self.engine.stores, self.job.source, self.meter)

    def run(self, tell: Callable[[int], None] = lambda done: None) -> MirrorResult:
        """Delete what may be deleted, and record it; `tell` gets the number of objects so far.
        Raises the errors of both listings, SameObject if the two places are one, StoreError,
        SpillFailed and LedgerFailed."""
        self.settle_stopped()
        found = ExtraNames(
            self.job, self.engine.stores, limits=self.engine.limits, space=self.space
        )
        rows = found.rows()
        pages = in_pages(rows, PAGE)
        page = next(pages, [])  # both listings have ended then
        limit = self.settings.limit.most(found.destination_objects)
        if found.unsafe:
            self._kept[KeptReason.REFUSED] += found.unsafe
        done = 0
        try:
            refusal, detail = self._refusal(found, limit, page)
            while page and refusal is None and not self._stopping:
                self._handle(page)
                done += len(page)
                tell(done)
                page = next(pages, [])
        finally:
            if self._distinct is not None:
                self._distinct.close()
        self.record_end(is_open=refusal is not None)
        return MirrorResult(
            **self.counts(), extras=found.extras, limit=limit, refusal=refusal, detail=detail
        )

    def _refusal(
        self, found: ExtraNames, limit: int, page: Sequence[TreeRow]
    ) -> tuple[Refusal | None, str | None]:
        """Return why nothing may be deleted, or None. Raises as DistinctPlaces.begin."""
        if not page:
            return None, None
        if found.gap is not None:
            return Refusal.INCOMPLETE, found.gap
        if not found.source_objects and not self.settings.empty_source:
            return Refusal.SOURCE_EMPTY, "the source has no object: is it the right place?"
        self._empties_folders = self.settings.empty_folders or not found.source_objects
        if found.extras > limit:
            return (
                Refusal.TOO_MANY,
                f"{found.extras:,} of {found.destination_objects:,} objects would be deleted, and"
                f" {limit:,} may be",
            )
        doubt = self.patience(self.meter()).retry(partial(self._compare_roots, page[0].name))
        return (None, None) if doubt is None else (Refusal.NOT_DISTINCT, doubt)

    def _compare_roots(self, like: str) -> str | None:
        """Return why the two places may not be two, or None. Raises as DistinctPlaces.begin."""
        if self._distinct is None:
            self._distinct = DistinctPlaces(
                self.engine.stores,
                self.job.destination,
                self.job.source,
                self.meter,
                deletes_at_source=False,
            )
        doubt = self._distinct.begin(like) or self._distinct.here_refuses
        if doubt is None and self._distinct.there_refuses is not None:
            self._unwritable = UnwritableSource(self.ledger, self.engine.stores, self.job)
        return doubt or self._distinct.doubt_of_tops()

    def settle_stopped(self) -> None:
        """Settle the deletions of a run that was stopped, as far as their objects are gone: no
        listing names them."""
        after = 0
        while rows := self.ledger.deletions.page(self.job.id, [DeletionState.DELETING], after):
            after = rows[-1].id
            gone = [row for row in rows if row.side == SIDE and self._is_gone(row.name)]
            ends = [DeletionEnd(row.name, DeletionState.DELETED, detail=row.detail) for row in gone]
            self.ledger.deletions.settle(self.job.id, SIDE, ends)

    def _is_gone(self, name: str) -> bool:
        meter = self.meter()
        _, place = self._places(name)
        store = self.engine.stores.destination(place, meter)
        try:
            self.patience(meter).retry(lambda: inspect_object(store, place))
        except NotFound:
            return True
        except RelayError:
            return False
        return False

    def _handle(self, page: Sequence[TreeRow]) -> None:
        """Delete the objects of a page that may be deleted, and record each one's end."""
        folded = self.ledger.deletions.folded_names(self.job.id, [row.name for row in page])
        ends = [
            kept_end(row.name, KeptReason.FOLDED, "the destination may have folded its name")
            for row in page
            if row.name in folded
        ]
        rows = [row for row in page if row.name not in folded]
        pool: Any = Pool(self.abreast)
        found: list[Candidate] = []
        for judged in pool.imap_unordered(self._judge, rows):
            if isinstance(judged, DeletionEnd):
                ends.append(judged)
            else:
                found.append(judged)
        self.delete_and_record(SIDE, found, self._delete, ends)

    # -- one object

    def _places(self, name: str) -> tuple[Location, Location]:
        return self.job.source.below(name), self.job.destination.below(name)

    def _judge(self, row: TreeRow) -> Candidate | DeletionEnd:
        """Return the version of a listed object that may be deleted, or why it is kept."""
        meter = self.meter()
        try:
            return self.patience(meter).retry(partial(self._find_listed, row, meter))
        except RelayError as error:
            return self.kept_for(row.name, error)

    def _find_listed(self, row: TreeRow, meter: Watchdog) -> Candidate | DeletionEnd:
        _, place = self._places(row.name)
        try:
            found = self.engine.stores.destination(place, meter).head(place)
        except NotFound:
            return kept_end(row.name, KeptReason.GONE, "the destination no longer has it")
        if not isinstance(found, ObjectInfo):
            return kept_end(row.name, KeptReason.UNKNOWN, found.why.message)
        there = found.version
        if there.strong_etag is None or row.etag is None:
            return kept_end(row.name, KeptReason.NO_VERSION, "the destination names no version")
        # A PROPFIND may show an ETag without its quotes (WsgiDAV).
        is_other = row.etag.strip('"') != there.strong_etag.strip('"')
        if is_other or row.size not in (None, there.size):
            return kept_end(
                row.name, KeptReason.DESTINATION_CHANGED, "it is not the version that was listed"
            )
        copy = None if self.trash is None else self.trash.new_copy(row.name)
        return Candidate(row.name, there, DeletionBasis.ABSENT, copy)

    def _doubt_of_folder(self, name: str) -> DeletionEnd | None:
        """Return why nothing in the object's folder may be deleted, or None. Raises RelayError."""
        folder = folder_in(name)
        is_empty = self._empty.is_empty(folder)
        if is_empty and self.job.source.store != "s3" and not self._empties_folders:
            why = f"the source has nothing in the folder {folder!a}: was it lost?"
            return kept_end(name, KeptReason.SOURCE_EMPTY, why)
        assert self._distinct is not None  # `run` asked it first
        # A prefix of a bucket needs no folder: its pair is written where nothing is yet.
        pairs = not is_empty or self.job.source.store == "s3"
        doubt = self._distinct.doubt_of(folder, name, pairs=pairs)
        return None if doubt is None else kept_end(name, KeptReason.ONE_PLACE, doubt)

    def _delete(self, one: Candidate) -> DeletionEnd | None:
        """Ask the source for the name, and delete the object. Return its end, or None if its
        deletion was sent and its answer was lost."""
        if self._stopping:
            return None
        deletion = _ExtraDeletion(self, one)
        try:
            return self.patience(deletion.meter).retry(deletion.ask_and_delete)
        except RelayError as error:
            end = self.kept_for(one.name, error)
            return None if deletion.is_sent else end


@dataclass(eq=False)
class _ExtraDeletion:
    """The deletion of one object, with its retries. `is_sent`: relay may have deleted it."""

    removal: MirrorRemoval
    one: Candidate
    is_sent: bool = False
    copy: TrashCopy | None = None
    """The proved copy in the trash."""

    def __post_init__(self) -> None:
        self.meter = self.removal.meter()

    def ask_and_delete(self) -> DeletionEnd:
        """Ask whether the source has the name, and delete the object if it has not. Raises
        RelayError."""
        source, destination = self.removal._places(self.one.name)
        kept = self.removal._doubt_of_folder(self.one.name)
        kept = kept or self._keep_copy(destination) or self._doubt_of_extra(source)
        return self._send(destination) if kept is None else kept

    def _keep_copy(self, place: Location) -> DeletionEnd | None:
        """Copy the object into the trash, if there is one; return why it is kept, or None."""
        trash, copy = self.removal.trash, self.one.copy
        if trash is None or copy is None or self.copy is not None:
            return None
        done = trash.keep_copy(self.one.name, place, self.one.version, copy)
        if isinstance(done, DeletionEnd):
            return done
        self.copy = done
        return None

    def _doubt_of_extra(self, source: Location) -> DeletionEnd | None:
        """Return why the object may be one of the source, or None."""
        name, stores = self.one.name, self.removal.engine.stores
        # Step 1: the name may be that of one of the source's own objects, seen from a folder above.
        for other in names_below(self.removal.job.source, name):
            place = self.removal.job.source.below(other)
            if _doubt_of_absence(stores.source(place, self.meter), place, name) is not None:
                why = f"the source has {other!a}, which may be this object"
                return kept_end(name, KeptReason.ONE_PLACE, why)
        if self.removal._unwritable is not None:
            may_be = self.removal._unwritable.doubt_of(name, self.one.version, self.meter)
            if may_be is not None:
                return kept_end(name, KeptReason.ONE_PLACE, may_be)
        # Step 2: the source says now that it has none of that name. It is asked as a destination:
        # no cache may answer.
        return _doubt_of_absence(stores.destination(source, self.meter), source, name)

    def _send(self, destination: Location) -> DeletionEnd:
        name = self.one.name
        store = self.removal.engine.stores.destination(destination, self.meter)
        if not isinstance(store, DeletingSource):
            return kept_end(name, KeptReason.REFUSED, "relay deletes nothing there")
        reach("before-delete")
        try:
            done = store.delete_version(destination, self.one.version)
        except NotFound:
            if self.is_sent:
                return DeletionEnd(name, DeletionState.DELETED, detail=self._copy_text())
            return kept_end(name, KeptReason.GONE, "the destination no longer has it")
        except PreconditionFailed as error:
            return kept_end(name, KeptReason.DESTINATION_CHANGED, error.message)
        except RelayError as error:
            self.is_sent = self.is_sent or may_have_deleted(error)
            raise
        reach("after-delete")
        return DeletionEnd(
            name,
            DeletionState.DELETED,
            marker=done.marker,
            window=done.window,
            detail=self._copy_text(),
        )

    def _copy_text(self) -> str | None:
        return None if self.copy is None else self.copy.to_text()


def _doubt_of_absence(store: Any, source: Location, name: str) -> DeletionEnd | None:
    """Return why the source may have an object of this name, or None if it says that it has none.
    Raises RelayError."""
    try:
        found = inspect_object(store, source)
    except NotFound:
        return None
    if isinstance(found, ObjectInfo):
        return kept_end(name, KeptReason.RETURNED, "the source has an object of this name")
    return kept_end(name, KeptReason.UNKNOWN, found.why.message)
