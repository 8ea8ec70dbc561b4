"""A move's deletions: delete at the source what arrived, and keep everything doubtful.

Theory of operation. An object is deleted only after three answers, in this order and just before
its deletion: its copy was proved by more than its size; the destination has the very version of the
receipt; the source has the very version that was read. The deletion is conditional on that version.
That an object is about to be deleted is recorded first, some objects at a time, so that after a
crash the same questions are asked again; an object that is gone then was deleted by relay. An
object that was there already is deleted only if both stores report one digest of it.

Nothing is deleted before all objects of the migration are settled, and before probes have shown
that the object's two folders are two places (`distinct_places.py`).

Decided here: which objects are deleted. Never here: how a store deletes (`stores/`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from gevent.pool import Pool

from relay.engine.comparison import looks_same
from relay.engine.inspection import inspect_object
from relay.engine.removal.deletion_run import (
    PAGE,
    RemovalResult,
    RemovalRun,
    may_have_deleted,
)
from relay.engine.removal.distinct_places import (
    DEEPEST,
    NOT_SHOWN,
    DistinctPlaces,
    are_other_buckets,
    folder_in,
    names_within,
)
from relay.engine.removal.second_reading import age_of, needs_second_reading, read_again
from relay.engine.removal.version_questions import (
    common_digest,
    destination_doubt,
    judge_receipt,
    kept_end,
    receipt_of,
)
from relay.engine.transfer_engine import TransferEngine
from relay.errors import (
    IntegrityMismatch,
    NotFound,
    PreconditionFailed,
    RelayError,
    SameObject,
    SourceChanged,
    Unsupported,
)
from relay.ledger.deletion_values import (
    Candidate,
    DeletionBasis,
    DeletionEnd,
    DeletionRow,
    DeletionState,
    KeptReason,
    RemovalSettings,
    version_of_json,
)
from relay.ledger.pages import TransferRow
from relay.ledger.states import TransferState
from relay.location import Location
from relay.name_folding import fold
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import DeletingSource, ObjectInfo
from relay.stores.listing_retries import ListingRetries
from relay.stores.local_aliases import same_file
from relay.stores.version_checks import difference
from relay.wire.watchdog import Watchdog

PRESENT: Final = (TransferState.VERIFIED, TransferState.SKIPPED, TransferState.UNVERIFIED)
"""The states of objects that are at the destination."""
SAMPLES: Final = 8
"""Number of objects of a page of which one shows whether the source is inside the destination."""
SOURCE: Final = "source"
DIGESTING: Final = frozenset({"s3"})
"""Stores that compute the digests which they report. A checksum of ownCloud and Nextcloud is that
of the client that uploaded the object, and may be older than its bytes."""


def require_deleting_source(
    engine: TransferEngine, source: Location, destination: Location, *, strict: bool
) -> DeletingSource:
    """Return the store of a source from which objects can be moved. Raises Unsupported for one that
    never deletes, or, if `strict`, is not known to compare versions; and the store's errors if it
    does not delete in the source's folder."""
    meter = Watchdog(engine.limits)
    store = engine.stores.source(source, meter)
    if not isinstance(store, DeletingSource):
        raise Unsupported(
            f"{source} can't be moved: relay deletes nothing there",
            side="source",
            hint="Name the store itself (s3://, webdav+https://, a folder), or use migrate.",
        )
    if source.query or destination.query:
        raise Unsupported(
            "a location with a query can't be moved",
            side="source",
            hint="Name the object without a version or a signature, or use migrate.",
        )
    if destination.method == "POST":
        raise Unsupported("an object that is sent by POST can't be moved", side="destination")
    if strict and not store.deletes_conditionally(source):
        raise Unsupported(
            f"{source} is not known to compare the version when it deletes, as a strict move needs",
            side="source",
            hint="A move that is not strict compares it by a HEAD just before.",
        )
    folder = source if source.path.endswith("/") else folder_of(source)
    ListingRetries(engine.limits.listing_seconds, meter).retry(
        partial(store.require_deletes, folder)
    )
    return store


def folder_of(place: Location) -> Location:
    """Return the folder that has an object."""
    return place.with_target(f"{place.path.rpartition('/')[0]}/")


@dataclass(frozen=True, kw_only=True)
class MoveResult(RemovalResult):
    """What one run of a move has done, and the number of objects that it left for a later one."""

    waiting: int = 0
    due: float | None = None
    """When the first of the waiting ones may be deleted, in seconds since 1970."""
    is_stopped: bool = False


@dataclass(eq=False)
class SourceRemoval(RemovalRun):
    """One run over all objects of a migration that have arrived."""

    settings: RemovalSettings
    _: KW_ONLY
    clock: Callable[[], float] = time.time
    _distinct: DistinctPlaces | None = field(default=None, init=False)
    _place_doubt: str | None = field(default=None, init=False)
    """Why nothing at all may be deleted."""
    _is_one_folder: bool = field(default=False, init=False)
    """Whether one object is renamed in its folder."""
    _is_outside: bool = field(default=False, init=False)
    """Whether an object has shown that the source is not inside the destination."""
    _waiting: int = field(default=0, init=False)
    _due: float | None = field(default=None, init=False)

    def run(self, tell: Callable[[int], None] = lambda done: None) -> MoveResult:
        """Delete what may be deleted, and record it; `tell` gets the number of objects so far.
        Raises SameObject, before anything was deleted, StoreError if the probe fails, and
        LedgerFailed."""
        done = 0
        try:
            for page in self._pages():
                self._handle(page)
                done += len(page)
                tell(done)
                if self._stopping:
                    break
        finally:
            if self._distinct is not None:
                self._distinct.close()
        self.record_end(is_open=self._waiting > 0)
        return MoveResult(
            **self.counts(), waiting=self._waiting, due=self._due, is_stopped=self._stopping
        )

    def _pages(self) -> Iterator[list[TransferRow]]:
        page = self.ledger.page(self.job.id, PRESENT, 0, PAGE)
        while page:
            yield page
            page = self.ledger.page(self.job.id, PRESENT, page[-1].id, PAGE)

    def _handle(self, page: Sequence[TransferRow]) -> None:
        """Delete the objects of a page that may be deleted, and record each one's end."""
        earlier = self.ledger.deletions.newest(self.job.id, SOURCE, (row.name for row in page))
        left = [row for row in page if not _is_deleted(row, earlier.get(row.name))]
        rows = [row for row in self._with_receipts(left) if not self._must_wait(row)]
        # Step 1: what the receipts decide, and for objects that were there already both stores.
        ends: list[DeletionEnd] = []
        found: list[Candidate] = []
        pool: Any = Pool(self.abreast)
        names = [row.name for row in rows if row.state != TransferState.UNVERIFIED]
        doubt = self._doubt_of_places(names) if names else None
        judge = lambda row: (row, self._judge(row, earlier.get(row.name)))  # noqa: E731
        for row, judged in pool.imap_unordered(judge, rows):
            if isinstance(judged, DeletionEnd):
                ends.append(judged)
            elif doubt is not None:
                ends.append(kept_end(row.name, KeptReason.ONE_PLACE, doubt))
            else:
                found.append(judged)
        # Step 2: the intent, then the questions and the deletion of each object, and its end.
        by_name = {row.name: row for row in rows}
        delete = lambda one: self._delete(by_name[one.name], one, earlier)  # noqa: E731
        self.delete_and_record(SOURCE, found, delete, ends)

    def _must_wait(self, row: TransferRow) -> bool:
        due = (row.ended or self.clock()) + self.settings.after
        if not self.settings.after or due <= self.clock():
            return False
        self._waiting += 1
        self._due = due if self._due is None else min(self._due, due)
        return True

    def _with_receipts(self, rows: Sequence[TransferRow]) -> list[TransferRow]:
        """Return the rows; in place of an object that was there already the one that an earlier run
        of the same command has proved, if there is one, and if the size is not another one now."""
        names = [row.name for row in rows if row.state == TransferState.SKIPPED]
        if not names:
            return list(rows)
        found = self.ledger.deletions.earlier_receipts(self.job.id, names)
        sizes = {row.name: row.size for row in rows}
        proved = {name: row for name, row in found.items() if sizes.get(name) in (None, row.bytes)}
        return [
            proved.get(row.name, row) if row.state == TransferState.SKIPPED else row for row in rows
        ]

    def _judge(self, row: TransferRow, before: DeletionRow | None) -> Candidate | DeletionEnd:
        """Return the version that may be deleted, or how the object ended."""
        if row.state == TransferState.SKIPPED:
            return self._judge_skip(row, is_sent=_is_open(before))
        return judge_receipt(row, self.settings.loses_metadata)

    # -- one object

    def _doubt_of_places(self, names: Sequence[str]) -> str | None:
        """Return why the two places may not be two, or None: probes show it once, and one of the
        source's objects, of which some may have these `names`. Raises SameObject if they are one,
        and StoreError."""
        if self._distinct is None:
            self._place_doubt = self._probe(names[0])
        if self._place_doubt is None and not self._is_outside and self.job.recursive:
            answers = (
                self.patience(self.meter()).retry(partial(self._is_inside, name))
                for name in names[:SAMPLES]
            )
            inside = next((one for one in answers if one is not None), None)
            self._place_doubt = NOT_SHOWN if inside else None
            self._is_outside = inside is False
        return self._place_doubt

    def _is_inside(self, name: str) -> bool | None:
        """Return whether the destination may contain the source under another name, by one of the
        source's objects: something looks the same where it would be then. None if the source does
        not show the object. Raises StoreError."""
        meter = self.meter()
        place, _ = self._places(name)
        here = self._find_source(name, place, meter)
        if isinstance(here, DeletionEnd):
            return None
        for other in names_within(self.job.source, name):
            there = self._find_copy(name, self.job.destination.below(other), meter)
            if not isinstance(there, DeletionEnd) and looks_same(here.version, there):
                return True
        return False

    def _probe(self, name: str) -> str | None:
        source, destination = self.job.source, self.job.destination
        folders = (source, destination)
        if not self.job.recursive:
            folders = (folder_of(source), folder_of(destination))
        self._distinct = DistinctPlaces(
            self.engine.stores,
            *folders,
            self.meter,
            deletes_at_source=True,
            purge=self.settings.purge,
            deepest=DEEPEST if self.job.recursive else 0,
        )
        begin = partial(self._distinct.begin, name or _last_name(source))
        try:
            doubt = self.patience(self.meter()).retry(begin)
        except SameObject:
            # Two names in one folder, unless the store may fold them.
            if self.job.recursive or fold(_last_name(source)) == fold(_last_name(destination)):
                raise
            self._is_one_folder = True
            return None
        refusal = self._distinct.there_refuses
        if not are_other_buckets(source, destination):
            refusal = refusal or self._distinct.here_refuses
        return doubt or refusal

    def _doubt_of_folder(self, name: str) -> str | None:
        """Return why the object's folder may be one place with something at the destination.
        Raises retryable errors."""
        if self._is_one_folder:
            return None
        if self._distinct is None:
            return NOT_SHOWN
        return self._distinct.doubt_of(folder_in(name), name or _last_name(self.job.source))

    def _has_asked(self, name: str) -> bool:
        """Return whether the doubt of the object's folder is known."""
        if self._is_one_folder or self._distinct is None:
            return True
        return self._distinct.has_asked(folder_in(name))

    def _places(self, name: str) -> tuple[Location, Location]:
        source, destination = self.job.source, self.job.destination
        if not self.job.recursive:
            return source, destination
        return source.below(name), destination.below(name, destination=True)

    def _judge_skip(self, row: TransferRow, is_sent: bool) -> Candidate | DeletionEnd:
        """Return the version of an object that was there already, if a digest that both stores
        report now proves it the same. `is_sent`: relay may have deleted it."""
        meter = self.meter()

        def ask() -> Candidate | DeletionEnd:
            source, destination = self._places(row.name)
            here = self._find_source(row.name, source, meter)
            if isinstance(here, DeletionEnd):
                return _end_of_absent(here, is_sent)
            there = self._find_copy(row.name, destination, meter)
            if isinstance(there, DeletionEnd):
                return there
            is_computed = source.store in DIGESTING
            if not is_computed or common_digest(here.version, there) is None:
                return kept_end(
                    row.name,
                    KeptReason.NO_DIGEST,
                    "it was there already, and the stores report no digest that proves it the same",
                )
            return Candidate(row.name, here.version, DeletionBasis.DIGEST)

        return self._answer(row.name, meter, ask)

    def _answer(
        self, name: str, meter: Watchdog, ask: Callable[[], Candidate | DeletionEnd]
    ) -> Candidate | DeletionEnd:
        """Return the answer to a question, with retries; an error keeps the object."""
        try:
            return self.patience(meter).retry(ask)
        except RelayError as error:
            return self.kept_for(name, error)

    def _find_copy(self, name: str, place: Location, meter: Watchdog) -> Version | DeletionEnd:
        """Return the version at the destination, or why there is none."""
        try:
            found = inspect_object(self.engine.stores.destination(place, meter), place)
        except NotFound:
            return kept_end(
                name, KeptReason.DESTINATION_CHANGED, "the destination has no such object"
            )
        if not isinstance(found, ObjectInfo):
            return kept_end(name, KeptReason.UNKNOWN, found.why.message)
        return found.version

    def _find_source(self, name: str, place: Location, meter: Watchdog) -> ObjectInfo | DeletionEnd:
        """Return the object at the source, or why there is none that may be deleted."""
        try:
            found = self.engine.stores.source(place, meter).head(place)
        except NotFound:
            return kept_end(name, KeptReason.GONE, "the source no longer has it")
        if not isinstance(found, ObjectInfo):
            return kept_end(name, KeptReason.UNKNOWN, found.why.message)
        if (found.location.origin, found.location.target) != (place.origin, place.target):
            return kept_end(name, KeptReason.NOT_LISTED, f"{place} leads to {found.location}")
        return found

    def _delete(
        self, row: TransferRow, one: Candidate, earlier: dict[str, DeletionRow]
    ) -> DeletionEnd | None:
        """Ask the three questions about an object, and delete it. Return its end, or None if its
        deletion was sent and its answer was lost."""
        if self._stopping:
            return None
        before = earlier.get(row.name)
        was_sent = (
            before is not None
            and _is_open(before)
            and difference(before.version, one.version) is None
        )
        deletion = _ObjectDeletion(self, row, one, is_sent=was_sent)
        try:
            return self.patience(deletion.meter).retry(deletion.ask_and_delete)
        except RelayError as error:
            if deletion.is_sent:  # the row stays as it is: relay may have deleted the object
                self.note_failure(error)
                return None
            return self.kept_for(row.name, error)


@dataclass(eq=False)
class _ObjectDeletion:
    """The deletion of one object, with its retries. `is_sent`: relay may have deleted it."""

    removal: SourceRemoval
    row: TransferRow
    one: Candidate
    _: KW_ONLY
    is_sent: bool

    def __post_init__(self) -> None:
        self.meter = self.removal.meter()

    def ask_and_delete(self) -> DeletionEnd:
        """Ask the three questions, and delete the object. Raises RelayError."""
        name = self.row.name
        kept = self._doubt()
        if kept is None:
            # Only now: the source has shown the object, so the probes make no folder.
            was_asked = self.removal._has_asked(name)
            doubt = self.removal._doubt_of_folder(name)
            if doubt is not None:
                return kept_end(name, KeptReason.ONE_PLACE, doubt)
            kept = None if was_asked else self._doubt()  # the probes took a while
        if kept is not None:
            return kept
        reach("before-delete")
        source, _ = self.removal._places(name)
        return self._send(source, self.removal.settings.purge)

    def _doubt(self) -> DeletionEnd | None:
        """Ask the three questions; return how the object ended if it can't be deleted."""
        name = self.row.name
        source, destination = self.removal._places(name)
        # Question 1, whether it is proved, was answered by `judge_receipt` or `_judge_skip`.
        there = self.removal._find_copy(name, destination, self.meter)
        if isinstance(there, DeletionEnd):
            return there
        receipt = receipt_of(self.row)
        doubt = None if receipt is None else destination_doubt(receipt, there)
        if doubt is not None:
            return kept_end(name, KeptReason.DESTINATION_CHANGED, doubt)
        here = self.removal._find_source(name, source, self.meter)
        if isinstance(here, DeletionEnd):
            return _end_of_absent(here, self.is_sent)
        doubtful = self._doubt_of_source(here.version, there, source, destination)
        if doubtful is None and needs_second_reading(
            source.store, self.row, here, self.removal.clock()
        ):
            doubtful = self._read_again(source, here)
        return doubtful

    def _doubt_of_source(
        self, here: Version, there: Version, source: Location, destination: Location
    ) -> DeletionEnd | None:
        """Return why the object that is at the source may not be deleted, or None."""
        name = self.row.name
        changed = difference(self.one.version, here)
        if changed is not None:
            return kept_end(name, KeptReason.SOURCE_CHANGED, changed)
        if self.one.basis is DeletionBasis.DIGEST and common_digest(here, there) is None:
            return kept_end(name, KeptReason.NO_DIGEST, "the stores no longer report one digest")
        if source.store == destination.store == "local" and same_file(source, destination):
            return kept_end(name, KeptReason.ONE_PLACE, "both places show one object")
        return None

    def _read_again(self, source: Location, here: ObjectInfo) -> DeletionEnd | None:
        """Return why an object whose ETag may not show a change is kept, or None."""
        name, receipt = self.row.name, receipt_of(self.row)
        if receipt is None:
            return kept_end(name, KeptReason.UNKNOWN, "it was changed just now")
        store = self.removal.engine.stores.source(source, self.meter)
        digests = {one: bytes.fromhex(text) for one, text in receipt["digests"].items()}
        try:
            age = age_of(source.store, here, self.removal.clock())
            read_again(store, source, self.one.version, digests, self.meter, age=age)
        except (SourceChanged, IntegrityMismatch) as error:
            return kept_end(name, KeptReason.SOURCE_CHANGED, error.message)
        return None

    def _send(self, source: Location, purge: bool) -> DeletionEnd:
        name = self.row.name
        store = self.removal.engine.stores.source(source, self.meter)
        if not isinstance(store, DeletingSource):
            return kept_end(name, KeptReason.REFUSED, "relay deletes nothing there")
        try:
            done = store.delete_version(source, self.one.version, purge=purge)
        except NotFound:
            if self.is_sent:
                return DeletionEnd(name, DeletionState.DELETED)
            return kept_end(name, KeptReason.GONE, "the source no longer has it")
        except PreconditionFailed as error:
            return kept_end(name, KeptReason.SOURCE_CHANGED, error.message)
        except RelayError as error:
            self.is_sent = self.is_sent or may_have_deleted(error)
            raise
        reach("after-delete")
        return DeletionEnd(name, DeletionState.DELETED, marker=done.marker, window=done.window)


def _last_name(place: Location) -> str:
    return unquote(place.path.rpartition("/")[2])


def _is_open(row: DeletionRow | None) -> bool:
    """Return whether a row says that relay may have deleted an object."""
    return row is not None and row.state == DeletionState.DELETING


def _end_of_absent(end: DeletionEnd, is_sent: bool) -> DeletionEnd:
    """Return how the deletion of an object ended that the source does not show: an absent one was
    deleted by relay, if relay may have deleted it."""
    is_deleted = is_sent and end.reason == KeptReason.GONE
    return DeletionEnd(end.name, DeletionState.DELETED) if is_deleted else end


def _is_deleted(row: TransferRow, earlier: DeletionRow | None) -> bool:
    """Return whether relay has deleted the version of an object that arrived. One that was skipped
    since was there again."""
    if earlier is None or earlier.state != DeletionState.DELETED:
        return False
    receipt = receipt_of(row)
    if receipt is None:
        return (row.ended or 0.0) <= earlier.at
    return difference(version_of_json(receipt["source"]), earlier.version) is None
