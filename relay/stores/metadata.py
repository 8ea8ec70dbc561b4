"""Metadata of an object: which fields travel with it, in which form, and how a loss is reported.

Theory of operation. A source tells all of its object's fields, whatever their length or alphabet. A
destination passes on what it can hold; of the rest it gives a note (law 15). Some members of an
object's metadata are no fields: their names have no HTTP meaning, and no store sends them as they
are.

Decided here: those names, and the words of a note. Never here: what one store can hold
(`stores/*.py`)."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from typing import Final

from relay.errors import MetadataUnkept
from relay.location import Location
from relay.wire.http1 import Fields

MTIME: Final = "mtime"
"""When the object was last changed: seconds since 1970, with a fraction where that is known. Each
store has its own way to keep it, or none."""
STRICT: Final = "strict"
"""Nothing of the metadata may be left out: an upload that would do so raises MetadataUnkept before
it sends a byte."""
UNTOLD: Final = "untold"
"""What the source has and does not tell, in words."""
_ANYHOW: Final = frozenset({MTIME, STRICT, UNTOLD, "content-type"})
"""What no note names: members that are no fields, and the type."""

USER: Final = "x-amz-meta-"
"""What begins the name of a field that S3 keeps for the user, ..."""
USER_PREFIXES: Final = (USER, "x-goog-meta-", "x-ms-meta-")
"""... and what it is called by those stores that are read by a signed URL (cloud.google.com,
"Object metadata", learn.microsoft.com, "Setting and retrieving properties and metadata")."""
TAGGING: Final = "x-amz-tagging"
CARRIED: Final = (
    "content-type",
    "content-encoding",
    "content-language",
    "cache-control",
    "content-disposition",
)
"""Fields that describe the object and go with it. Content-Encoding, since its bytes are passed on
untouched."""
_TITLES: Final = tuple((name, name.title()) for name in CARRIED)
FRAMED: Final = "aws-chunked"
"""How an upload to S3 was framed, which some stores keep as if it were the object's own coding."""

_NAMED: Final = 20
"""The most names in a note."""


def metadata_of_head(get: Callable[[str], str | None], fields: Fields) -> Fields:
    """Return what an answer's head tells of its object: `get` one field, joined where it came
    twice; `fields` are all.

    A field that is empty says nothing, unless it is the user's own.
    """
    found: list[tuple[str, str]] = []
    for name, title in _TITLES:
        value = get(name)
        if value and name == "content-encoding":
            value = _coding(value)
        if value:
            found.append((title, value))
    users: dict[str, tuple[str, list[str]]] = {}
    for name, value in fields:
        key = name.lower()
        if key.startswith(USER_PREFIXES):
            rest = len(next(one for one in USER_PREFIXES if key.startswith(one)))
            users.setdefault(key[rest:], (USER + name[rest:], []))[1].append(value)
    found += [(name, ", ".join(values)) for name, values in users.values()]
    return tuple(found)


def _coding(value: str) -> str | None:
    """Return a Content-Encoding without the token that is none of the object's
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
    """Return a note of what of the `metadata` can't be kept, if there is any: `holds` says it of a
    name in lower case.

    Not of what the caller sets by a field of the same name, nor of the type: a name's ending tells
    it as well."""
    lost = [name for name, _ in metadata if (key := name.lower()) not in _ANYHOW and not holds(key)]
    if lost:
        own = {name.lower() for name, _ in location.headers}
        lost = [name for name in lost if name.lower() not in own]
    return (*note(lost, holder), *[text for name, text in metadata if name == UNTOLD])


def unshown_notes(
    metadata: Fields, shown: Fields, location: Location, notes: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a note of what of the `metadata` a destination took, and does not tell of the object;
    not of what `notes` say already. Many a web server takes an upload's fields, and makes its own
    of the name."""
    there = {name.lower(): value for name, value in shown}
    own = {"content-type", *(name.lower() for name, _ in location.headers)}
    names = [*CARRIED, *(name.lower() for name, _ in metadata if name.lower().startswith(USER))]
    lost = []
    for name, value in metadata:
        key, reported = name.lower(), there.get(name.lower())
        same = reported is not None and (
            not value.isascii()
            or not reported.isascii()
            or squeeze_blanks(reported) == squeeze_blanks(value)
        )
        if key in names and key not in own and not same and not any(name in text for text in notes):
            lost.append(name)
    return note(lost, "the destination, as far as it tells,")


def note(names: list[str], holder: str) -> tuple[str, ...]:
    """Return a note that says of these fields that `holder` does not keep them; none where there
    are none."""
    if not names:
        return ()
    shown = [
        "the object's tags" if name.lower() == TAGGING else name for name in sorted(names)[:_NAMED]
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (f"{holder} does not keep {', '.join(shown)}{more}",)


def require(metadata: Fields, location: Location, notes: tuple[str, ...]) -> None:
    """Raise MetadataUnkept where something could not be kept and all of it is wanted."""
    if notes and STRICT in dict(metadata):
        raise MetadataUnkept(
            f"{location} can't have all of the object's metadata: {'; '.join(notes)}"
        )


def encode_value(value: str) -> str:
    """Return a value that is not ASCII in the form of RFC 2047, as AWS's own answers have it
    (docs.aws.amazon.com, "Working with object metadata"). Bytes that are no UTF-8 are Latin-1."""
    if value.isascii():
        return value
    raw = value.encode("latin-1")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = value
    words, word = [], ""
    for char in (
        text
    ):  # an encoded word has at most 75 characters, 45 bytes of them in base64 (RFC 2047 section 2)
        if len((word + char).encode()) > 45:
            words.append(word)
            word = ""
        word += char
    return " ".join(f"=?UTF-8?B?{b64encode(one.encode()).decode()}?=" for one in [*words, word])


_BLANKS: Final = re.compile(r"[ \t]+")


def squeeze_blanks(value: str) -> str:
    """Return a field's value as a signature has it: blanks at its ends removed, several of them
    one. Other bytes that Python takes for blanks, as those of UTF-8 may be, stay."""
    value = value.strip(" \t")
    return _BLANKS.sub(" ", value) if "  " in value or "\t" in value else value
