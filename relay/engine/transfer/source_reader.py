"""The source side of a transfer: pin the version, open the bytes, compare two readings.

Theory of operation. The version is pinned by the listing (small objects), by a HEAD, or by a GET of
one byte where the URL permits only GET. It must match the list of URLs and the listing. The object
is opened at the pinned version, and its digests are computed while it is read. The digests of a
whole read are kept: a source that returns other bytes of the same version in another attempt is not
trusted.

Decided here: which version is read, and which digests are computed. Never here: where the bytes
go."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from relay.digest import ALGORITHMS, ALWAYS, Digests, compare
from relay.engine.comparison import is_older
from relay.engine.plan import Metadata
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.cut_names import CutNames
from relay.engine.transfer.expectations import (
    check_against_list,
    check_against_listing,
    listed_length,
)
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.verify import Sent
from relay.engine.transfer.wrong_pages import last_segment, refuse_wrong_page
from relay.errors import (
    NotFound,
    PlanStale,
    PreconditionFailed,
    RangeIgnored,
    SourceChanged,
    SourceUnstable,
    StoreError,
)
from relay.receipt import Version
from relay.redirects import is_neighbour
from relay.stores.interfaces import (
    ByteRange,
    Destination,
    ObjectInfo,
    OpenedObject,
    Source,
    UnknownObject,
)
from relay.stores.metadata import STRICT
from relay.wire.body import Body
from relay.wire.pump import drain

F = TypeVar("F", bound=ObjectInfo)
_OF_FILES = frozenset({"local", "sftp"})
"""Stores whose bodies compare the file's version at their end."""
_UNENDED = (
    "the source declared neither a length nor a digest: nothing proves that it was read to its end",
)


class SourceReader:
    """Reads the source of one transfer, in all its attempts. Call `reset` before each attempt."""

    _source: Source

    def __init__(self, context: TransferContext, progress: Progress) -> None:
        self._context, self._progress = context, progress
        self._listed_small: Version | None = None
        self._hint: ObjectInfo | None = None
        self._earlier_read: tuple[str, Digests] | None = None

    def reset(self) -> None:
        """Start another attempt with no pinned version."""
        context = self._context
        self._source = context.stores.source(context.plan.source, context.meter)
        self._cut_names = CutNames(self._source, context.plan.source, context.memory, "source")
        self._listed_small = listed = self._listed_version_of_small()
        # A strong ETag of the listing pins the version, which saves a HEAD for each object.
        self._hint = (
            ObjectInfo(listed, context.plan.source) if listed and listed.strong_etag else None
        )

    # -- which version

    def pin_version(self, destination: Destination) -> ObjectInfo | None:
        """Return the version to read, or None if only the GET will describe it. A small object
        without a listed ETag needs no HEAD: its GET describes it as well.

        Raises StoreError, and SourceChanged if the object does not match the list or the listing.
        """
        plan = self._context.plan
        copied = plan.server_copy and destination.can_copy(plan.source, plan.destination)
        if self._hint is None and self._listed_small is not None and not copied:
            return None
        found = self._hint or self._head() or self._read_first_byte(destination)
        if found is not None:
            self._refuse_stale(found.version)
        return found

    def require_description(self, found: ObjectInfo | None) -> ObjectInfo | None:
        """Return the source's own description. `found` needs a HEAD only if it is None, or comes
        from a listing. Raises SourceChanged as `pin_version`."""
        if found is None or found is self._hint:
            return self._head()
        return found

    def _inspect(self) -> ObjectInfo | None:
        """Return the description by HEAD, or None if HEAD does not describe the object."""
        found = self._source.head(self._context.plan.source)
        return None if isinstance(found, UnknownObject) else self._check_whole(found)

    def _check_whole(self, found: F) -> F:
        """As `_check_description`, of an object that is not open. Raises Rejected if the server
        cuts the name, so that the answer is about another object."""
        self._progress.source_answered = True
        self._cut_names.refuse()
        self._cut_names.learn()
        return self._check_description(found)

    def _check_description(self, found: F) -> F:
        """Return `found`, marked as strict with metadata=strict. Raises NotFound if the answer is
        about another object than the listed one."""
        self._refuse_other_name(found)
        if self._context.plan.metadata is Metadata.KEEP:
            return found
        return replace(found, metadata=(*found.metadata, (STRICT, "yes")))

    def _refuse_other_name(self, found: ObjectInfo) -> None:
        """Raise NotFound if a listed object has been removed, and the server answers with another
        one: one whose name continues this one (Apache's MultiViews), or another one of the same
        folder, which it takes for the correct spelling (Apache's mod_speling)."""
        known, place = self._context.known, self._context.plan.source
        if known.listed is None or known.promised is not None or found.location is place:
            return
        there, here = last_segment(found.location), last_segment(place)
        if there.startswith(f"{here}.") or is_neighbour(place, found.location):
            raise NotFound(
                f"{place} is not there; the server answers with {there!a}", side="source"
            )

    def _listed_version_of_small(self) -> Version | None:
        """Return the listed version of a small object in its first attempt, else None."""
        known, plan = self._context.known, self._context.plan
        listed = known.listed
        # A retry, also of an earlier claim, asks for the current version. A folder needs the name
        # that the answer gives.
        if (
            listed is None
            or self._progress.attempt > 1
            or known.begun
            or known.planned is not None  # only HEAD shows whether it is the version of the plan
            or plan.destination.path.endswith("/")
        ):
            return None
        is_small = listed.size is not None and listed.size < self._context.limits.parted_bytes
        return listed if is_small else None

    def _head(self) -> ObjectInfo | None:
        found = self._inspect()
        if found is None or found.version.size == 0:  # some servers answer 0 for an unknown length
            return found
        self._check_against_listing(found)
        return check_against_list(found, self._context.known.promised)

    def _read_first_byte(self, destination: Destination) -> ObjectInfo | None:
        """Return the description by a GET of one byte, where HEAD is refused: most presigned URLs
        permit only GET.

        None where the description is not needed. It is needed for a multipart upload, which can be
        resumed after the signature has expired."""
        context = self._context
        promised = context.known.promised.size if context.known.promised else None
        small = promised is not None and promised < context.limits.parted_bytes
        parts = destination.part_limits(context.plan.destination)
        if context.journal is None or parts is None or small:
            return None
        try:
            opened = self._source.get(context.plan.source, None, ByteRange(0, 0))
        except (RangeIgnored, SourceChanged):  # the source ignores ranges, or is empty
            return None
        assert opened.body is not None  # an Opened has one
        with closing(opened.body) as body:
            body.read()
        found = ObjectInfo(
            opened.version,
            opened.location,
            disposition=opened.disposition,
            metadata=opened.metadata,
            ranges=True,
        )
        return check_against_list(self._check_whole(found), context.known.promised)

    def _check_against_listing(self, found: ObjectInfo) -> None:
        """Raise SourceChanged if the listing has another size for the same version."""
        known = self._context.known
        if known.listed is not None and known.promised is None and known.planned is None:
            check_against_listing(found.version, known.listed)

    def _refuse_stale(self, version: Version) -> None:
        """Raise PlanStale for another version than the one that the migration's plan has seen."""
        planned, source = self._context.known.planned, self._context.plan.source
        if planned is not None and not planned.source.is_version(version, source.store):
            raise PlanStale(f"{source} is another version than the plan has seen", side="source")

    # -- its bytes

    def open_body(self, found: ObjectInfo | None) -> tuple[OpenedObject, Body]:
        """Open the version `found`, or the current one. The body is closed when the attempt ends.

        Raises as Source.get, Rejected for a page in place of the object, and SourceChanged if the
        object does not match the list or the listing.
        """
        context, progress = self._context, self._progress
        source, promised = context.plan.source, context.known.promised
        if found is None or found is self._hint:  # else a HEAD has described it
            self._cut_names.refuse()
        try:
            opened = self._source.get(source, found.version if found else None)
        except (SourceChanged, PreconditionFailed):
            if found is None or found is not self._hint:
                raise
            opened = self._source.get(
                source
            )  # the object changed since it was listed: read the current version
        progress.source_answered = True
        body = progress.body = opened.body
        if found is None:
            self._refuse_stale(opened.version)
        assert body is not None  # an Opened has one
        opened = self._check_description(opened)
        self._cut_names.learn()
        refuse_wrong_page(opened, source, context.plan.destination, context.known, self._source)
        opened = check_against_list(opened, promised)
        self._check_against_listing(opened)
        if body.length is None and (length := self._declared_length(opened)) is not None:
            body.promise(length)
        progress.total = body.length
        if context.needs_digest:
            names = _digests_to_compute(opened.version)
            names = (*names, "md5") if context.known.needs_md5 else names
            body.digest_with(names, opened.version.digests)
        return opened, body

    def _declared_length(self, opened: OpenedObject) -> int | None:
        """Return the length in the list or in the listing, for an answer without a length. None for
        an object with a Content-Encoding, since a listing has the length of the decoded object."""
        known = self._context.known
        if known.promised is not None:
            return known.promised.size
        if known.listed is None:
            return None
        if any(name.lower() == "content-encoding" for name, _ in opened.metadata):
            return None
        return listed_length(opened.version, known.listed)

    def read_again(
        self, there: Version, pinned: Version | None = None
    ) -> tuple[Sent | None, OpenedObject]:
        """Read the source, or its version `pinned`, without sending it. Return its length and
        digests, or None without reading if it has another length than `there`. Raises as
        `open_body`. A body that is open already stays the attempt's own."""
        progress = self._progress
        before = progress.body, progress.total
        try:
            opened, body = self.open_body(
                ObjectInfo(pinned, self._context.plan.source) if pinned else None
            )
            if None not in (body.length, there.size) and body.length != there.size:
                return None, opened
            if body.digester is None:
                body.digest_with(_digests_to_compute(opened.version), opened.version.digests)
            drain(body)
            return Sent(body.count, body.digests, opened.version.digests), opened
        finally:
            progress.close()
            progress.body, progress.total = before

    def refuse_newer(self, opened: OpenedObject) -> None:
        """Raise SourceChanged if the object was modified since it was `opened`: the bytes may be a
        mixture, and the destination is newer than the change, so `changed` would skip it for ever.

        Only dates are compared, since some servers show other ETags from one answer to the next. A
        server that dates each answer with its own time is trusted, if nothing else differs. A
        file is compared by its body (`FileStream.check`, `RemoteFileStream.check`)."""
        place = self._context.plan.source
        if place.store in _OF_FILES or opened.version.last_modified is None:
            return
        try:
            now = self._source.head(place)
        except StoreError:
            return
        if not isinstance(now, ObjectInfo):
            return
        were, are = ((one.version.etag, one.version.size) for one in (opened, now))
        proves = not (opened.dated_now and now.dated_now and were == are)
        if proves and is_older(opened.version, now.version):
            raise SourceChanged(f"{place} was modified while it was read", side="source")

    def note_digests(self, opened: OpenedObject, body: Body) -> None:
        """Keep the digests of a whole read of this version. Raises SourceUnstable if an earlier
        read of the same version had other digests."""
        etag, digests = opened.version.strong_etag, body.digests
        if not body.complete or etag is None or not digests:
            return
        if self._earlier_read is not None and self._earlier_read[0] == etag:
            _, differing = compare(self._earlier_read[1], digests)
            if differing:
                raise SourceUnstable(
                    f"two reads of {opened.location} returned different bytes under the ETag {etag}"
                )
        self._earlier_read = (etag, digests)


def proof_of_end(found: ObjectInfo) -> tuple[tuple[str, ...], bool]:
    """Return the notes about the source's end, and whether the end is proved: by a length, by the
    framing, or by a declared digest that the bytes matched."""
    body = found.body if isinstance(found, OpenedObject) else None
    proved = body is None or not body.ends_by_close or bool(found.version.digests and body.digester)
    return (() if proved else _UNENDED), proved


def _digests_to_compute(version: Version) -> tuple[str, ...]:
    """Return the digests to compute: the cheap ones, and the first expensive one that the source
    declared, if it declared no cheap one."""
    declared = [name for name in ALGORITHMS if name in version.digests]
    return ALWAYS if not declared or declared[0] in ALWAYS else (*ALWAYS, declared[0])
