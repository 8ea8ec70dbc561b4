"""Test what a store can do with scratch objects, and remove them.

Theory of operation. Every probe is one function over the Store contract and knows no vendor. It
returns a finding and never raises a store's error. The ScratchFolder records every object that a
probe writes, and removes it (`scratch.py`).

Decided here: which probes run, and what their results mean for a migration. Never here: how they
are printed."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from functools import partial
from typing import cast

from relay.engine.scratch import CHECKED, DATA, WRONG, ScratchFolder, body_from_bytes
from relay.errors import (
    LengthRequired,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeIgnored,
    RelayError,
    SourceChanged,
    SourceTruncated,
    Unsupported,
)
from relay.receipt import Version
from relay.stores.interfaces import ByteRange, ObjectInfo, Part, PartsDestination, Upload
from relay.wire.body import Body
from relay.wire.http1 import Framing

NAMES = ("a b", "plus+plus", "per%20cent", "ünï-\u00e9", "Case", "case", "#hash?query&=")


class Answer(Enum):
    """The result of a probe."""

    YES = "yes"
    NO = "no"
    UNTRIED = "untried"


@dataclass(frozen=True)
class Finding:
    """One row of the report: the probe, its answer, and its meaning for a migration. If a `needed`
    answer is NO, the store can't be used."""

    what: str
    answer: Answer
    means: str
    _: KW_ONLY
    needed: bool = False


# -- the probes

Probe = Callable[[ScratchFolder], Finding]


def probe_write(scratch: ScratchFolder) -> Finding:
    """Write a small object, and read it back unchanged."""
    what = "write and read"
    try:
        scratch.put("object")
        data = scratch.read("object")
    except RelayError as error:
        return Finding(what, Answer.NO, f"{error.message}. {error.hint}", needed=True)
    scratch.reads_back = data == DATA
    if data != DATA:
        return Finding(what, Answer.NO, "the bytes read differ from those written", needed=True)
    return Finding(what, Answer.YES, "objects can be moved here", needed=True)


def probe_empty_object(scratch: ScratchFolder) -> Finding:
    """Write an empty object."""
    try:
        scratch.put("empty", b"")
        size = scratch.head("empty").version.size
    except RelayError as error:
        return Finding("empty objects", Answer.NO, f"an empty object fails: {error.message}")
    good = size in (0, None)
    return Finding(
        "empty objects",
        Answer.YES if good else Answer.NO,
        "kept as they are" if good else f"{size} bytes",
    )


def probe_digests(scratch: ScratchFolder) -> Finding:
    """Find the digests that the store reports."""
    with suppress(RelayError):
        scratch.digests |= frozenset(scratch.head("object").version.digests)
    if scratch.digests:
        return Finding(
            "digests",
            Answer.YES,
            f"{', '.join(sorted(scratch.digests))}: verified without reading again",
        )
    return Finding("digests", Answer.NO, "every object is read back to be verified")


def probe_wrong_checksum(scratch: ScratchFolder) -> Finding:
    """Write an object with a wrong checksum. Only a store that refuses it has computed the
    checksums that it reports."""
    what = "compares"
    if scratch.folder.store not in CHECKED:
        return Finding(what, Answer.UNTRIED, "uploads to this store carry no checksum")
    try:
        refused = scratch.refuses_wrong_checksum()
        echoed = (
            not refused and dict(scratch.head("wrong").version.digests).get("crc64nvme") == WRONG
        )
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    if refused:
        return Finding(what, Answer.YES, "an upload damaged in transit is refused")
    if echoed:
        return Finding(
            what,
            Answer.NO,
            "echoed: a wrong checksum is accepted and reported back: use --verify read_back",
        )
    return Finding(what, Answer.NO, "a wrong checksum is accepted, and not reported back")


def probe_etag(scratch: ScratchFolder) -> Finding:
    """Find out if the store distinguishes versions of an object by an ETag."""
    try:
        version = scratch.head("object").version
    except RelayError as error:
        return Finding("entity tags", Answer.NO, error.message)
    if version.strong_etag:
        return Finding("entity tags", Answer.YES, "strong: a version is pinned while it is read")
    return Finding(
        "entity tags",
        Answer.NO,
        "weak" if version.etag else "none: a changing source is noticed late",
    )


def probe_ranges(scratch: ScratchFolder) -> Finding:
    """Read a range of an object."""
    try:
        opened = scratch.store().get(scratch.location_of("object"), None, ByteRange(100, 199))
        body = cast(Body, opened.body)
        try:
            data = body.read(1000)
        finally:
            body.close()
    except RangeIgnored:
        return Finding("ranges", Answer.NO, "large objects are read in one piece")
    except RelayError as error:
        return Finding("ranges", Answer.NO, error.message)
    good = data == DATA[100:200]
    return Finding(
        "ranges",
        Answer.YES if good else Answer.NO,
        "as a source: large objects are read in parts" if good else "wrong bytes",
    )


def probe_if_match(scratch: ScratchFolder) -> Finding:
    """Read with the precondition of a version that does not exist."""
    try:
        opened = scratch.store().get(
            scratch.location_of("object"), Version(etag='"no-such-version"')
        )
        cast(Body, opened.body).close()
    except (SourceChanged, PreconditionFailed):
        return Finding(
            "if-match", Answer.YES, "as a source: two versions of an object are never mixed"
        )
    except RelayError as error:
        return Finding("if-match", Answer.NO, error.message)
    return Finding(
        "if-match", Answer.NO, "ignored: relay compares the entity tag of each response instead"
    )


def probe_if_none_match(scratch: ScratchFolder) -> Finding:
    """Write with the precondition that no object is there, where none is and where one is. A
    refusal that relay made by a HEAD of its own proves nothing about the store."""
    what = "conditional write"
    try:
        scratch.put("absent", if_absent=True)  # shows the store what its server honours
        scratch.put("object", if_absent=True)
    except PreconditionFailed as error:
        place = scratch.location_of("object")
        if error.store_status is not None or scratch.store().honours_preconditions(place):
            return Finding(what, Answer.YES, "--if-exists skip and fail are free of races")
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    return Finding(
        what,
        Answer.NO,
        "ignored: --if-exists skip and fail use HEAD first, and may lose a race",
    )


def probe_unknown_length(scratch: ScratchFolder) -> Finding:
    """Write an object whose length is known only at its end."""
    try:
        scratch.put("growing", framing=Framing.CLOSE)
        data = scratch.read("growing")
    except LengthRequired:
        return Finding("unknown length", Answer.NO, "a source must declare its length")
    except RelayError as error:
        return Finding("unknown length", Answer.NO, error.message)
    return Finding(
        "unknown length",
        Answer.YES if data == DATA else Answer.NO,
        "sources without a length can be moved",
    )


def probe_multipart(scratch: ScratchFolder) -> Finding:
    """Complete a multipart upload of two parts, and abort another one."""
    store = scratch.store()
    place = scratch.location_of("parts")
    limits = store.part_limits(place)
    if limits is None:
        return Finding(
            "parts", Answer.NO, "as a destination: one request per object; a broken upload restarts"
        )
    many = cast(PartsDestination, store)
    # Every part but the last must have the store's minimum (S3: 5 MiB).
    first = DATA * (-(-limits.smallest // len(DATA)))
    try:
        upload = scratch.retry(lambda: scratch.begin(many, place))
        done = []
        for number, data in enumerate((first, DATA), start=1):
            done.append(scratch.retry(partial(_put_part, scratch, upload, number, data)))
        listed = many.stored_parts(upload)
        stored = many.complete(upload, tuple(done), {})
        scratch.uploads.remove(upload)
        if stored.place is not None:
            many.publish(stored)
        aborted = scratch.begin(many, scratch.location_of("aborted"))
        many.abort(aborted)
        scratch.uploads.remove(aborted)
        size = scratch.head("parts").version.size
    except RelayError as error:
        return Finding("parts", Answer.NO, error.message)
    scratch.parts_checked = stored.parts_checked
    if size != len(first) + len(DATA) or len(listed) != 2:
        return Finding("parts", Answer.NO, f"{len(listed)} parts listed of 2, {size} bytes")
    return Finding(
        "parts", Answer.YES, "large objects move in concurrent parts, and resume after a crash"
    )


def _put_part(scratch: ScratchFolder, upload: Upload, number: int, data: bytes) -> Part:
    with body_from_bytes(data, scratch.meter()) as body:
        body.digest_with(("crc64nvme",))
        return cast(PartsDestination, scratch.store()).put_part(upload, number, body)


def probe_atomic_publish(scratch: ScratchFolder) -> Finding:
    """Find out if an object becomes visible only when it is complete and verified."""
    store = scratch.store()
    if store.publishes_atomically(digested=True):
        return Finding("appears whole", Answer.YES, "an incomplete object is never visible")
    return Finding(
        "appears whole",
        Answer.NO,
        "its protocol may show readers an unverified object for a moment",
    )


def probe_broken_upload(scratch: ScratchFolder) -> Finding:
    """Break an upload off, and find its leftovers."""
    what = "broken upload"
    try:
        scratch.put_broken("cut")
    except SourceTruncated:
        pass
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    else:
        return Finding(
            what,
            Answer.NO,
            "accepted as complete: truncated uploads would go unnoticed",
            needed=True,
        )
    try:
        found = scratch.head("cut")
    except NotFound:
        return Finding(what, Answer.YES, "leaves nothing")
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    return Finding(
        what, Answer.NO, f"leaves {found.version.size} visible bytes; relay removes them"
    )


def probe_names(scratch: ScratchFolder) -> Finding:
    """Write names that some stores change or merge."""
    bad = []
    kept: dict[str, bytes] = {}
    for name in NAMES:
        data = name.encode()
        try:
            scratch.put(f"names/{name}", data)
            kept[name] = data
        except RelayError:
            bad.append(name)
    # Read only after all are written: a merged name then has the bytes of another one.
    for name, data in kept.items():
        try:
            if scratch.read(f"names/{name}") != data:
                bad.append(name)
        except RelayError:
            bad.append(name)
    if bad:
        return Finding("names", Answer.NO, f"lost or merged: {', '.join(sorted(bad))}")
    return Finding("names", Answer.YES, "spaces, +, %, accents and case are kept apart")


def probe_unicode_forms(scratch: ScratchFolder) -> Finding:
    """Write the two Unicode forms of one accented letter."""
    one, two = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    try:
        for name in (one, two):
            scratch.put(f"forms/{name}", name.encode())
        good = all(scratch.read(f"forms/{name}") == name.encode() for name in (one, two))
    except RelayError as error:
        return Finding("unicode forms", Answer.NO, error.message)
    means = "composed and decomposed names are distinct"
    if not good:
        means = "composed and decomposed names are the same: they may clash"
    return Finding("unicode forms", Answer.YES if good else Answer.NO, means)


def probe_listing(scratch: ScratchFolder) -> Finding:
    """List the scratch folder right after the writes."""
    try:
        found = [entry.name for entry in scratch.store().list(scratch.scratch, recursive=True)]
    except Unsupported as error:
        return Finding("listing", Answer.NO, f"{error.message}: move single objects by name")
    except RelayError as error:
        return Finding("listing", Answer.NO, error.message)
    if "object" not in found:
        return Finding("listing", Answer.NO, "a listing omits an object that was just written")
    ordered = [name.encode() for name in found] == sorted(name.encode() for name in found)
    return Finding(
        "listing", Answer.YES, "in byte order" if ordered else "in another order than that of bytes"
    )


def probe_folder(scratch: ScratchFolder) -> Finding:
    """Find out if the folder exists: probes in a missing folder would create it, and leave it."""
    what = "folder"
    store = scratch.store()
    if not store.lists_all(scratch.folder):
        return Finding(what, Answer.UNTRIED, "only an upload can show whether it exists")
    try:
        next(iter(store.list(scratch.folder.folder(), False)), None)
    except NotFound as error:
        means = (
            f"{error.message}: a migration would create it; create it yourself to test it, or name"
            " its parent folder"
        )
        return Finding(what, Answer.NO, means, needed=True)
    except RelayError as error:
        # A local path that can't be listed can't be used. Another store may refuse to list a folder
        # that can be written.
        needed = scratch.folder.store == "local" and not isinstance(error, PermissionDenied)
        answer = Answer.NO if needed else Answer.UNTRIED
        return Finding(
            what, answer, f"it can't be listed: {error.message}. {error.hint}", needed=needed
        )
    return Finding(what, Answer.YES, "it exists", needed=True)


PROBES: tuple[Probe, ...] = (
    probe_folder,
    probe_write,
    probe_empty_object,
    probe_digests,
    probe_wrong_checksum,
    probe_etag,
    probe_ranges,
    probe_if_match,
    probe_if_none_match,
    probe_unknown_length,
    probe_multipart,
    probe_atomic_publish,
    probe_broken_upload,
    probe_names,
    probe_unicode_forms,
    probe_listing,
)
"""The probes, in their order. After a `needed` one that fails, the others do not run."""


def probe_writable(scratch: ScratchFolder) -> Iterator[Finding]:
    """Yield the findings one by one, and at last that of the removal. Removes every scratch object,
    also if the caller stops early."""
    try:
        for probe in PROBES:
            finding = probe(scratch)
            yield finding
            if finding.needed and finding.answer is Answer.NO:
                break
    finally:
        left = scratch.remove()
    if left:
        yield Finding("delete", Answer.NO, f"not removed: {', '.join(left)}", needed=False)
    else:
        yield Finding("delete", Answer.YES, "all scratch objects are removed")


def probe_readable(scratch: ScratchFolder) -> Iterator[Finding]:
    """Yield the findings that need no write: list the folder, and read one of its objects."""
    store = scratch.stores.source(scratch.folder, scratch.meter())
    try:
        name = next(
            (e.name for e in store.list(scratch.folder.folder(), False) if not e.folder), None
        )
    except RelayError as error:
        yield Finding(
            "listing",
            Answer.NO,
            f"{error.message}. {error.hint}",
            needed=not isinstance(error, Unsupported),
        )
        return
    yield Finding("listing", Answer.YES, "the folder can be listed", needed=True)
    if name is None:
        yield Finding("read", Answer.UNTRIED, "the folder itself holds no object")
        return
    place = scratch.folder.folder().below(name)
    try:
        found = store.head(place)
        opened = store.get(place, found.version if isinstance(found, ObjectInfo) else None)
        cast(Body, opened.body).close()
    except RelayError as error:
        yield Finding("read", Answer.NO, f"{error.message}. {error.hint}", needed=True)
        return
    yield Finding("read", Answer.YES, "objects can be read", needed=True)
    reported = ", ".join(sorted(opened.version.digests))
    yield Finding(
        "digests", Answer.YES if reported else Answer.NO, reported or "the source declares none"
    )
    strong = opened.version.strong_etag is not None
    yield Finding(
        "entity tags",
        Answer.YES if strong else Answer.NO,
        "strong" if strong else "none, or weak ones",
    )
