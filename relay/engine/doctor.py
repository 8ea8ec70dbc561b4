"""Test what a store can do with scratch objects, and remove them.

Theory of operation. Every probe is one function over the Store contract and knows no vendor; it
returns what it found, and never raises what a store says. What it writes, the patient remembers and
removes (`patient.py`).

Decided here: what is tried, and what that means for a migration. Never here: how it is printed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
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
    """What a probe found."""

    YES = "yes"
    NO = "no"
    UNTRIED = "untried"


@dataclass(frozen=True)
class Finding:
    """One row: what was tried, what came of it, and what that means. `needed` says that nothing
    works without it."""

    what: str
    answer: Answer
    means: str
    needed: bool = False


# -- the probes

Probe = Callable[[ScratchFolder], Finding]


def probe_write(patient: ScratchFolder) -> Finding:
    """A small object is stored, and read again as it was."""
    what = "write and read"
    try:
        patient.put("object")
        data = patient.read("object")
    except RelayError as error:
        return Finding(what, Answer.NO, f"{error.message}. {error.hint}", needed=True)
    patient.reads_back = data == DATA
    if data != DATA:
        return Finding(what, Answer.NO, "what was read is not what was written", needed=True)
    return Finding(what, Answer.YES, "objects can be moved here", needed=True)


def probe_empty_object(patient: ScratchFolder) -> Finding:
    """An object without a byte."""
    try:
        patient.put("empty", b"")
        size = patient.head("empty").version.size
    except RelayError as error:
        return Finding("empty objects", Answer.NO, f"an empty object fails: {error.message}")
    good = size in (0, None)
    return Finding(
        "empty objects",
        Answer.YES if good else Answer.NO,
        "kept as they are" if good else f"{size} bytes",
    )


def probe_digests(patient: ScratchFolder) -> Finding:
    """What the store says about the bytes."""
    with suppress(RelayError):
        patient.digests |= frozenset(patient.head("object").version.digests)
    if patient.digests:
        return Finding(
            "digests",
            Answer.YES,
            f"{', '.join(sorted(patient.digests))}: verified without reading again",
        )
    return Finding("digests", Answer.NO, "every object is read back to be verified")


def probe_wrong_checksum(patient: ScratchFolder) -> Finding:
    """An object with a wrong checksum: what a store gives back of it is its own word only if it
    refuses this."""
    what = "compares"
    if patient.folder.store not in CHECKED:
        return Finding(what, Answer.UNTRIED, "no checksum goes along with an upload there")
    try:
        refused = patient.refuses_wrong_checksum()
        echoed = (
            not refused and dict(patient.head("wrong").version.digests).get("crc64nvme") == WRONG
        )
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    if refused:
        return Finding(what, Answer.YES, "an upload that was damaged on its way is refused")
    if echoed:
        return Finding(
            what,
            Answer.NO,
            "echoed: a wrong checksum is taken, and told as its own: use --verify read_back",
        )
    return Finding(what, Answer.NO, "a wrong checksum is taken, and not told")


def probe_etag(patient: ScratchFolder) -> Finding:
    """What tells one version from another."""
    try:
        version = patient.head("object").version
    except RelayError as error:
        return Finding("entity tags", Answer.NO, error.message)
    if version.strong_etag:
        return Finding("entity tags", Answer.YES, "strong: a version is pinned while it is read")
    return Finding(
        "entity tags",
        Answer.NO,
        "weak" if version.etag else "none: a source that changes is noticed late",
    )


def probe_ranges(patient: ScratchFolder) -> Finding:
    """A part of an object."""
    try:
        opened = patient.store().get(patient.location_of("object"), None, ByteRange(100, 199))
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
        "large objects go in parts" if good else "wrong bytes",
    )


def probe_if_match(patient: ScratchFolder) -> Finding:
    """A read of a version that is not there."""
    try:
        opened = patient.store().get(
            patient.location_of("object"), Version(etag='"no-such-version"')
        )
        cast(Body, opened.body).close()
    except (SourceChanged, PreconditionFailed):
        return Finding("if-match", Answer.YES, "a source that changes is never blended")
    except RelayError as error:
        return Finding("if-match", Answer.NO, error.message)
    return Finding(
        "if-match", Answer.NO, "ignored: relay compares the entity tag of each answer instead"
    )


def probe_if_none_match(patient: ScratchFolder) -> Finding:
    """A write that must not replace anything."""
    try:
        patient.put("object", if_absent=True)
    except PreconditionFailed:
        return Finding(
            "conditional write", Answer.YES, "--if-exists skip and fail are safe against others"
        )
    except RelayError as error:
        return Finding("conditional write", Answer.NO, error.message)
    return Finding(
        "conditional write",
        Answer.NO,
        "ignored: --if-exists skip and fail look first, and may lose a race",
    )


def probe_unknown_length(patient: ScratchFolder) -> Finding:
    """An object whose length is known only at its end."""
    try:
        patient.put("growing", framing=Framing.CLOSE)
        data = patient.read("growing")
    except LengthRequired:
        return Finding("unknown length", Answer.NO, "a source must tell its length")
    except RelayError as error:
        return Finding("unknown length", Answer.NO, error.message)
    return Finding(
        "unknown length",
        Answer.YES if data == DATA else Answer.NO,
        "sources without a length can be moved",
    )


def probe_multipart(patient: ScratchFolder) -> Finding:
    """An upload in two parts, and one that is thrown away."""
    store = patient.store()
    limits = store.part_limits
    if limits is None:
        return Finding(
            "parts", Answer.NO, "not offered: one request an object, and a broken one begins anew"
        )
    many = cast(PartsDestination, store)
    first = DATA * (-(-limits.smallest // len(DATA)))
    place = patient.location_of("parts")
    try:
        upload = patient.retry(lambda: patient.begin(many, place))
        done = []
        for number, data in enumerate((first, DATA), start=1):
            done.append(patient.retry(partial(_put_part, patient, upload, number, data)))
        listed = many.stored_parts(upload)
        stored = many.complete(upload, tuple(done), {})
        patient.uploads.remove(upload)
        aborted = patient.begin(many, patient.location_of("aborted"))
        many.abort(aborted)
        patient.uploads.remove(aborted)
        size = patient.head("parts").version.size
    except RelayError as error:
        return Finding("parts", Answer.NO, error.message)
    patient.parts_checked = stored.parts_checked
    if size != len(first) + len(DATA) or len(listed) != 2:
        return Finding("parts", Answer.NO, f"{len(listed)} parts listed of 2, {size} bytes")
    return Finding(
        "parts", Answer.YES, "large objects go several parts at once, and go on after a crash"
    )


def _put_part(patient: ScratchFolder, upload: Upload, number: int, data: bytes) -> Part:
    with body_from_bytes(data, patient.meter()) as body:
        body.digest_with(("crc64nvme",))
        return cast(PartsDestination, patient.store()).put_part(upload, number, body)


def probe_atomic_publish(patient: ScratchFolder) -> Finding:
    """Whether an object is seen only when it is whole and verified."""
    store = patient.store()
    if store.publishes_atomically(digested=True):
        return Finding("appears whole", Answer.YES, "an object is never seen half-way")
    return Finding(
        "appears whole",
        Answer.NO,
        "by its protocol a reader may see an unverified object for a moment",
    )


def probe_broken_upload(patient: ScratchFolder) -> Finding:
    """What a broken upload leaves."""
    what = "broken upload"
    try:
        patient.put_broken("cut")
    except SourceTruncated:
        pass
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    else:
        return Finding(
            what,
            Answer.NO,
            "taken for whole; nothing that is cut off would be noticed",
            needed=True,
        )
    try:
        found = patient.head("cut")
    except NotFound:
        return Finding(what, Answer.YES, "leaves nothing")
    except RelayError as error:
        return Finding(what, Answer.NO, error.message)
    return Finding(
        what, Answer.NO, f"leaves {found.version.size} bytes to be seen; relay removes them"
    )


def probe_names(patient: ScratchFolder) -> Finding:
    """Names that stores stumble over."""
    bad = []
    kept: dict[str, bytes] = {}
    for name in NAMES:
        data = name.encode()
        try:
            patient.put(f"names/{name}", data)
            kept[name] = data
        except RelayError:
            bad.append(name)
    for name, data in kept.items():
        try:
            if patient.read(f"names/{name}") != data:
                bad.append(name)
        except RelayError:
            bad.append(name)
    if bad:
        return Finding("names", Answer.NO, f"lost or merged: {', '.join(sorted(bad))}")
    return Finding("names", Answer.YES, "spaces, +, %, accents and case are kept apart")


def probe_unicode_forms(patient: ScratchFolder) -> Finding:
    """Two spellings of one accent."""
    one, two = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    try:
        for name in (one, two):
            patient.put(f"forms/{name}", name.encode())
        good = all(patient.read(f"forms/{name}") == name.encode() for name in (one, two))
    except RelayError as error:
        return Finding("unicode forms", Answer.NO, error.message)
    means = (
        "composed and decomposed names are two"
        if good
        else "composed and decomposed names are one: they may clash"
    )
    return Finding("unicode forms", Answer.YES if good else Answer.NO, means)


def probe_listing(patient: ScratchFolder) -> Finding:
    """What a listing tells right after the writes."""
    try:
        found = [entry.name for entry in patient.store().list(patient.scratch, recursive=True)]
    except Unsupported as error:
        return Finding("listing", Answer.NO, f"{error.message}: name single objects")
    except RelayError as error:
        return Finding("listing", Answer.NO, error.message)
    if "object" not in found:
        return Finding("listing", Answer.NO, "an object that was just written is not in it")
    ordered = [name.encode() for name in found] == sorted(name.encode() for name in found)
    return Finding(
        "listing", Answer.YES, "in the order of bytes" if ordered else "in an order of its own"
    )


def probe_folder(patient: ScratchFolder) -> Finding:
    """The folder is there: what is tried in one that is not would make it, and leave it."""
    what = "folder"
    store = patient.store()
    if not store.lists_all:
        return Finding(what, Answer.UNTRIED, "whether it is there only an upload can tell")
    try:
        next(iter(store.list(patient.folder.folder(), False)), None)
    except NotFound as error:
        means = (
            f"{error.message}: a migration would make it; make it yourself to try it, or name the"
            " folder above it"
        )
        return Finding(what, Answer.NO, means, needed=True)
    except RelayError as error:
        # What a local path leads to is known; another store may refuse to list what can be written.
        needed = patient.folder.store == "local" and not isinstance(error, PermissionDenied)
        answer = Answer.NO if needed else Answer.UNTRIED
        return Finding(
            what, answer, f"it can't be listed: {error.message}. {error.hint}", needed=needed
        )
    return Finding(what, Answer.YES, "it is there", needed=True)


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
"""What is tried, in this order; without the first two there is no use in the others."""


def probe_writable(patient: ScratchFolder) -> Iterator[Finding]:
    """Yield the findings one by one, and the removal's as the last. Removes everything, also when
    it is left early."""
    try:
        for probe in PROBES:
            finding = probe(patient)
            yield finding
            if finding.needed and finding.answer is Answer.NO:
                break
    finally:
        left = patient.remove()
    if left:
        yield Finding("delete", Answer.NO, f"not removed: {', '.join(left)}", needed=False)
    else:
        yield Finding("delete", Answer.YES, "nothing of this is left")


def probe_readable(patient: ScratchFolder) -> Iterator[Finding]:
    """Yield what can be found out without writing anything: the folder is listed, and one object of
    it is read."""
    store = patient.stores.source(patient.folder, patient.meter())
    try:
        name = next(
            (e.name for e in store.list(patient.folder.folder(), False) if not e.folder), None
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
        yield Finding("read", Answer.UNTRIED, "there is no object right in this folder")
        return
    place = patient.folder.folder().below(name)
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
