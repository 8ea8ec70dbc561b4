"""Metadata of an object: which fields travel with it, in which form, and how a loss is reported.

Theory of operation. A source returns all fields of its object, whatever their length or alphabet. A
destination sends those that it can keep, and notes the others (law 15). Some members of an object's
metadata are not fields: their names have no meaning in HTTP, and no store sends them as they are.

Decided here: those names, and the text of a note. Never here: which metadata a store can keep
(`stores/*.py`)."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final

from relay.errors import MetadataUnkept
from relay.location import Location
from relay.wire.http1 import Fields, Head

MTIME: Final = "mtime"
"""The object's time of modification: seconds since 1970, with a fraction if that is known. Each
store has its own way to keep it, or none."""
STRICT: Final = "strict"
"""All metadata is required: an upload that would lose some raises MetadataUnkept before it sends a
byte."""
DATED_SECONDS: Final = 2.0
"""Coarsest resolution of a file's time, in seconds (FAT)."""
EXACT_SECONDS: Final = 0.01
"""Coarsest resolution of a file's time that has a fraction, in seconds (exFAT)."""
UNREAD: Final = "unread"
"""A note about metadata that the source has and does not return."""
_ANYHOW: Final = frozenset({MTIME, STRICT, UNREAD, "content-type"})
"""Members that no note names: those that are not fields, and the content type."""

USER: Final = "x-amz-meta-"
"""Prefix of the fields of user metadata at S3."""
USER_PREFIXES: Final = (USER, "x-goog-meta-", "x-ms-meta-")
"""The same prefix at all stores that are read by signed URLs (cloud.google.com, "Object metadata",
learn.microsoft.com, "Setting and retrieving properties and metadata")."""
_INFIX: Final = "-meta-"
"""Part of all these prefixes. Most answers have no such field."""
TAGGING: Final = "x-amz-tagging"
REDIRECT: Final = "x-amz-website-redirect-location"
"""The redirect of an object in a bucket that is a website. R2, B2 and others have none
(developers.cloudflare.com, "R2 S3 API compatibility")."""
CARRIED: Final = (
    "content-type",
    "content-encoding",
    "content-language",
    "cache-control",
    "content-disposition",
)
"""Fields that describe the object and are copied with it, including Content-Encoding, since the
bytes are copied unchanged."""
_TITLES: Final = tuple((name, name.title()) for name in CARRIED)
FRAMED: Final = "aws-chunked"
"""The coding of an upload to S3, which some stores keep as if it were the object's own."""

_NAMED: Final = 20
"""Maximum number of names in a note."""


def metadata_of_head(head: Head) -> Fields:
    """Return the object's metadata in an answer's head. Empty fields are ignored, except for user
    metadata."""
    found: list[tuple[str, str]] = []
    for name, title in _TITLES:
        if name not in head.by_name:
            continue
        value: str | None = head.by_name[name]
        if value and name == "content-encoding":
            value = _coding(value)
        if value:
            found.append((title, value))
    if _INFIX in "\n".join(head.by_name):
        found += _user_metadata(head.fields)
    return tuple(found)


def _user_metadata(fields: Fields) -> Fields:
    """Return the user metadata among fields under S3's names. Fields that become one keep all
    values."""
    users: dict[str, tuple[str, list[str]]] = {}
    for name, value in fields:
        key = name.lower()
        if key.startswith(USER_PREFIXES):
            rest = len(next(one for one in USER_PREFIXES if key.startswith(one)))
            users.setdefault(key[rest:], (USER + name[rest:], []))[1].append(value)
    return tuple((name, ", ".join(values)) for name, values in users.values())


def _coding(value: str) -> str | None:
    """Return a Content-Encoding without `aws-chunked`, which is not the object's coding
    (docs.aws.amazon.com, "Signature calculations for the authorization header: Transferring payload
    in multiple chunks")."""
    if FRAMED not in value.lower():
        return value
    return (
        ", ".join(one for one in map(str.strip, value.split(",")) if one and one.lower() != FRAMED)
        or None
    )


def unkept_notes(
    metadata: Fields, holds: Callable[[str], bool], location: Location, holder: str
) -> tuple[str, ...]:
    """Return notes on the `metadata` that can't be kept, if there is any; `holds` says whether the
    field of a lower-case name can.

    Fields that the caller sets are left out, and so is the content type, which the name's ending
    shows as well."""
    lost = [name for name, _ in metadata if name.lower() not in _ANYHOW and not holds(name.lower())]
    if lost:
        own = {name.lower() for name, _ in location.headers}
        lost = [name for name in lost if name.lower() not in own]
    return (*note(lost, holder), *[text for name, text in metadata if name == UNREAD])


def unshown_notes(
    metadata: Fields, shown: Fields, location: Location, notes: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a note on the `metadata` that the destination accepted, but does not return with the
    object (`shown`), unless `notes` name it already. Many web servers ignore an upload's fields and
    derive their own from the name."""
    there = {name.lower(): value for name, value in shown}
    own = {"content-type", *(name.lower() for name, _ in location.headers)}
    names = [*CARRIED, *(name.lower() for name, _ in metadata if name.lower().startswith(USER))]
    lost = []
    for name, value in metadata:
        key, reported = name.lower(), there.get(name.lower())
        # Stores return letters that are not ASCII in several encodings (RFC 2047, UTF-8, Latin-1),
        # so such values are not compared.
        same = reported is not None and (
            not value.isascii()
            or not reported.isascii()
            or squeeze_blanks(reported) == squeeze_blanks(value)
        )
        if key in names and key not in own and not same and not any(name in text for text in notes):
            lost.append(name)
    return note(lost, "the destination, as far as it reports,")


def shows_metadata(metadata: Fields, shown: Fields, location: Location) -> bool:
    """Return whether the object that a destination shows may have been sent with this
    `metadata`."""
    kinds = [dict((n.lower(), v) for n, v in one).get("content-type") for one in (metadata, shown)]
    of_another_type = None not in kinds and kinds[0] != kinds[1]
    own = any(name.lower() == "content-type" for name, _ in location.headers)
    return not unshown_notes(metadata, shown, location, ()) and (own or not of_another_type)


def has_other_mtime(metadata: Fields, shown: Fields) -> bool:
    """Return whether a destination shows another time of modification than that of this
    `metadata`."""
    texts = [dict(one).get(MTIME) for one in (metadata, shown)]
    if None in texts:
        return False
    ours, theirs = map(_seconds, texts)
    if ours is None or theirs is None:
        return texts[0] != texts[1]
    return abs(ours - theirs) > DATED_SECONDS


def is_modified_since(metadata: Fields, shown: Fields) -> bool:
    """Return whether the time of modification that a destination shows is older than the source's.
    A time in whole seconds may have been rounded, so it proves less."""
    ours, theirs = (_seconds(dict(one).get(MTIME)) for one in (metadata, shown))
    if ours is None or theirs is None:
        return False
    is_rounded = theirs == theirs.to_integral_value()
    return ours - theirs > (DATED_SECONDS if is_rounded else EXACT_SECONDS)


def mtime_of(metadata: Fields) -> str | None:
    """Return the time of modification in an object's metadata, or None."""
    return dict(metadata).get(MTIME)


def mtimes_agree(one: str, other: str) -> bool:
    """Return whether two times of modification are the same within the coarser of their precisions:
    one in whole seconds has lost a fraction, of less than a second."""
    ours, theirs = _seconds(one), _seconds(other)
    if ours is None or theirs is None:
        return False
    are_whole = [time == time.to_integral_value() for time in (ours, theirs)]
    if any(are_whole):
        return ours == theirs if all(are_whole) else abs(ours - theirs) < 1
    return abs(ours - theirs) <= EXACT_SECONDS


def mtimes_are_near(one: str, other: str) -> bool:
    """Return whether two times of modification may be of one moment, by two clocks or rounded."""
    ours, theirs = _seconds(one), _seconds(other)
    if ours is None or theirs is None:
        return False
    return abs(ours - theirs) <= DATED_SECONDS


def _seconds(mtime: str | None) -> Decimal | None:
    """Return a time of modification, or None if it is missing or not a finite number."""
    try:
        seconds = Decimal(mtime or "")
    except InvalidOperation:
        return None
    return seconds if seconds.is_finite() else None


def note(names: list[str], holder: str) -> tuple[str, ...]:
    """Return a note that `holder` does not keep these fields, or nothing without fields."""
    if not names:
        return ()
    shown = [
        "the object's tags" if name.lower() == TAGGING else name for name in sorted(names)[:_NAMED]
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (f"{holder} does not keep {', '.join(shown)}{more}",)


def require(metadata: Fields, location: Location, notes: tuple[str, ...]) -> None:
    """Raise MetadataUnkept if something can't be kept and all metadata is required."""
    if notes and STRICT in dict(metadata):
        raise MetadataUnkept(
            f"{location} can't keep all of the object's metadata: {'; '.join(notes)}"
        )


def encode_value(value: str) -> str:
    """Return a non-ASCII value encoded as in RFC 2047, the form of AWS's own answers
    (docs.aws.amazon.com, "Working with object metadata"). Bytes that are not UTF-8 are read as
    Latin-1."""
    if value.isascii():
        return value
    raw = value.encode("latin-1")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = value
    words, word = [], ""
    # An encoded word has at most 75 characters, which hold 45 bytes (RFC 2047 section 2).
    for char in text:
        if len((word + char).encode()) > 45:
            words.append(word)
            word = ""
        word += char
    return " ".join(f"=?UTF-8?B?{b64encode(one.encode()).decode()}?=" for one in [*words, word])


_BLANKS: Final = re.compile(r"[ \t]+")


def squeeze_blanks(value: str) -> str:
    """Return a field's value in the form that is signed: without blanks at both ends, and with runs
    of blanks as one. Other bytes that Python counts as whitespace, such as some of UTF-8, stay."""
    value = value.strip(" \t")
    return _BLANKS.sub(" ", value) if "  " in value or "\t" in value else value
