"""The source side of a transfer: pin the version, open the bytes, compare two readings.

Theory of operation. A version is pinned by what a listing told of a small object, by a HEAD, or by
the first byte of what allows GET alone; what was found is held to what was promised and listed of
it. An object is opened at the pinned version, with the digests that it is to get on the way. What
was read whole, of one version, is kept in mind: a source that gives other bytes of it in another
attempt is not to be trusted.

Decided here: which version is read, and which digests of it are computed. Never here: where the
bytes go."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from mimetypes import guess_type
from typing import TypeVar

from relay.digest import ALGORITHMS, ALWAYS, Digests, compare
from relay.engine.plan import Metadata
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.expectations import (
    check_against_list,
    check_against_listing,
    listed_length,
)
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.verify import Sent
from relay.errors import (
    PreconditionFailed,
    RangeIgnored,
    Rejected,
    RelayError,
    SourceChanged,
    SourceUnstable,
    StoreError,
)
from relay.location import Location
from relay.receipt import Version
from relay.stores.http import PAGES
from relay.stores.index_links import segments_of
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
_UNENDED = (
    "the source gave neither a length nor a digest: nothing proves that it was read to its end",
)


class SourceReader:
    """The source of one transfer, in all its attempts: `reset` each."""

    _source: Source

    def __init__(self, context: TransferContext, progress: Progress) -> None:
        self._context, self._progress = context, progress
        self._listed_small: Version | None = None
        self._hint: ObjectInfo | None = None
        self._earlier_read: tuple[str, Digests] | None = None

    def reset(self) -> None:
        """Another attempt begins: nothing is pinned."""
        context = self._context
        self._source = context.stores.source(context.plan.source, context.meter)
        self._listed_small = listed = self._listed_version_of_small()
        self._hint = (
            ObjectInfo(listed, context.plan.source) if listed and listed.strong_etag else None
        )

    # -- which version

    def pin_version(self, destination: Destination) -> ObjectInfo | None:
        """Return the version that is to be read, or None where the source tells it only when it is
        read: a small object that was listed without an entity tag is so, since its GET tells all
        that a HEAD would.

        Raises StoreError, and SourceChanged for what is not what was promised or listed.
        """
        plan = self._context.plan
        copied = plan.server_copy and destination.can_copy(plan.source, plan.destination)
        if self._hint is None and self._listed_small is not None and not copied:
            return None
        return self._hint or self._head() or self._read_first_byte(destination)

    def require_description(self, found: ObjectInfo | None) -> ObjectInfo | None:
        """Return what the source itself tells, where `found` is nothing, or only what a listing
        told."""
        return self._inspect() if found is None or found is self._hint else found

    def _inspect(self) -> ObjectInfo | None:
        """Return what a HEAD tells, or None where it does not: then the GET does."""
        found = self._source.head(self._context.plan.source)
        return None if isinstance(found, UnknownObject) else self._check_description(found)

    def _check_description(self, found: F) -> F:
        """Return what was found, with the wish that all of its metadata be kept, where there is
        that wish."""
        if self._context.plan.metadata is Metadata.KEEP:
            return found
        return replace(found, metadata=(*found.metadata, (STRICT, "yes")))

    def _listed_version_of_small(self) -> Version | None:
        """Return what a listing told of a small object that nobody has begun to move."""
        known, plan = self._context.known, self._context.plan
        listed = known.listed
        if (
            listed is None
            or self._progress.attempt > 1
            or known.begun
            or plan.destination.path.endswith("/")
        ):
            return None
        return (
            listed
            if listed.size is not None and listed.size < self._context.limits.parted_bytes
            else None
        )

    def _head(self) -> ObjectInfo | None:
        found = self._inspect()
        if found is None:
            return None
        if found.version.size:  # many a server that does not know says 0
            self._check_against_listing(found)
        return check_against_list(found, self._context.known.promised)

    def _read_first_byte(self, destination: Destination) -> ObjectInfo | None:
        """Return what the first byte of the object tells, where a HEAD tells nothing: most URLs
        that are signed allow GET alone.

        Only where something hangs on it: one that goes in parts can be gone on with when the
        signature has expired."""
        context = self._context
        promised = context.known.promised.size if context.known.promised else None
        small = promised is not None and promised < context.limits.parted_bytes
        if context.journal is None or destination.part_limits is None or small:
            return None
        try:
            opened = self._source.get(context.plan.source, None, ByteRange(0, 0))
        except (RangeIgnored, SourceChanged):  # it gives no ranges, or is empty
            return None
        assert opened.body is not None  # an Opened has one
        with closing(opened.body) as body:
            body.read()
        found = ObjectInfo(
            opened.version, opened.location, opened.disposition, opened.metadata, ranges=True
        )
        return check_against_list(self._check_description(found), context.known.promised)

    def _check_against_listing(self, found: ObjectInfo) -> None:
        """Raise SourceChanged where a listing told another size of this very version."""
        known = self._context.known
        if known.listed is not None and known.promised is None:
            check_against_listing(found.version, known.listed)

    # -- its bytes

    def open_body(self, found: ObjectInfo | None) -> tuple[OpenedObject, Body]:
        """Open the version that was `found`, or whatever there is; the body is closed when the
        attempt ends.

        Raises as Source.get, and SourceChanged for what is not what was promised or listed.
        """
        context, progress = self._context, self._progress
        source, promised = context.plan.source, context.known.promised
        try:
            opened = self._source.get(source, found.version if found else None)
        except (SourceChanged, PreconditionFailed):
            if found is None or found is not self._hint:
                raise
            opened = self._source.get(
                source
            )  # it changed since it was listed, which is nobody's fault
        body = progress.body = opened.body
        assert body is not None  # an Opened has one
        self._refuse_page(opened)
        opened = check_against_list(self._check_description(opened), promised)
        self._check_against_listing(opened)
        if body.length is None and (length := self._declared_length(opened)) is not None:
            body.promise(length)
        progress.total = body.length
        if context.needs_digest:
            body.digest_with(_digests_to_compute(opened.version), opened.version.digests)
        return opened, body

    def _declared_length(self, opened: OpenedObject) -> int | None:
        """Return the length of an object whose answer has none, as the list promised it or the
        listing gave it; not of one in a content coding, since a listing gives the length
        without."""
        known = self._context.known
        if known.promised is not None:
            return known.promised.size
        coded = any(name.lower() == "content-encoding" for name, _ in opened.metadata)
        return (
            None if known.listed is None or coded else listed_length(opened.version, known.listed)
        )

    def _refuse_page(self, opened: OpenedObject) -> None:
        """Raise Rejected for an object that comes as a page, and is something else.

        A redirect elsewhere: a server redirects a reader without credentials to a page. (A page's
        own name may lose its ending, and that of a folder's all of it.) And what a folder's page
        links as an object, and is a folder's page itself: a server may answer for a folder with or
        without its '/'; it is asked for the other. And a folder's page that a caller names as an
        object, if a listing reads it as one."""
        known, place = self._context.known, self._context.plan.source
        kind = next(
            (value for name, value in opened.metadata if name.lower() == "content-type"), ""
        )
        if place.store != "http" or kind.partition(";")[0].strip().lower() not in PAGES:
            return
        listed, named = known.listed is not None and known.promised is None, guess_type(place.path)
        if known.promised is not None and known.promised.digests:
            return
        page, there, here = named[0] in PAGES, _last_segment(opened.location), _last_segment(place)
        stem = here.split(".")[0]
        away = there.split(".")[0] not in (stem, "") and stem != "index" if page else there != here
        if away and (listed or (any(named) and not page)):
            hint = "Are the credentials still good? Many a server leads who has none to a page."
            raise Rejected(
                f"{place} leads to {opened.location}, which is a page", side="source", hint=hint
            )
        if not page and known.listed is None and known.promised is None and self._is_index(place):
            raise _folder_error(place)
        if page or not listed:
            return
        try:
            found = self._source.head(place.folder())
            if isinstance(found, UnknownObject):
                other = self._source.get(place.folder())
                assert other.body is not None  # an Opened has one
                other.body.close()
                found = other
        except StoreError as error:
            if error.retryable:
                raise
            return
        if found.location.path.endswith("/"):
            raise _folder_error(place)

    def _is_index(self, place: Location) -> bool:
        """Say if a place that a caller names as an object is a folder's page for certain: one that
        lists something."""
        if not place.path.endswith("/"):
            return False
        try:
            return next(self._source.list(place), None) is not None
        except RelayError:
            return False

    def read_again(
        self, there: Version, pinned: Version | None = None
    ) -> tuple[Sent | None, OpenedObject]:
        """Read the source, or what is `pin_version` of it, without sending it, if it has as many
        bytes as `there`."""
        opened, body = self.open_body(
            ObjectInfo(pinned, self._context.plan.source) if pinned else None
        )
        try:
            if None not in (body.length, there.size) and body.length != there.size:
                return None, opened
            if body.digester is None:
                body.digest_with(_digests_to_compute(opened.version), opened.version.digests)
            drain(body)
            return Sent(body.count, body.digests, opened.version.digests), opened
        finally:
            self._progress.close()
            self._progress.body, self._progress.total = None, None

    def note_digests(self, opened: OpenedObject, body: Body) -> None:
        """Keep in mind what was read of this version, whole. Raises SourceUnstable if it was
        something else before."""
        etag = opened.version.strong_etag
        if not body.complete or etag is None or not body.digests:
            return
        if self._earlier_read is not None and self._earlier_read[0] == etag:
            _, differing = compare(self._earlier_read[1], body.digests)
            if differing:
                raise SourceUnstable(
                    f"{opened.location} was read twice, and its bytes were others, under {etag}"
                )
        self._earlier_read = (etag, body.digests)


def _folder_error(place: Location) -> Rejected:
    hint = "Move it as a folder: -r in the terminal, `recursive` in a request."
    return Rejected(f"{place} is a folder, and no object", side="source", hint=hint)


def _last_segment(place: Location) -> str:
    """Return the last name of a path."""
    return next(reversed(segments_of(place.path)), "")


def proof_of_end(found: ObjectInfo) -> tuple[tuple[str, ...], bool]:
    """Return what is to be said of the source's end, and whether it was proved: by a length, the
    framing, or a digest that the source declared and that what came has."""
    body = found.body if isinstance(found, OpenedObject) else None
    proved = body is None or not body.ends_by_close or bool(found.version.digests and body.digester)
    return (() if proved else _UNENDED), proved


def _digests_to_compute(version: Version) -> tuple[str, ...]:
    """Return the digests to compute: the cheap ones, and one of those that the source declared.

    Of the expensive ones the first is enough, and only where the source declared no cheap one.
    """
    declared = [name for name in ALGORITHMS if name in version.digests]
    return ALWAYS if not declared or declared[0] in ALWAYS else (*ALWAYS, declared[0])
