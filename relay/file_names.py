"""Name an object whose destination is a folder: the source's own name for it, made safe.

Decided here: which name is taken from a Content-Disposition or a path, and when there is none.
Never here: the place where it is written (`Location.object_named`, which checks again).

The grammar is RFC 6266 §4.1 with RFC 8187 for `filename*`. Two well-kept parsers were tried and
rejected: werkzeug's uses the last form, replaces bytes that are not UTF-8 by U+FFFD, and returns a
name in an unknown charset undecoded; email's is for MIME, with its continuations. A header outside
of the grammar gives no name: the path has one, and a guess would be the peer's choice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from relay.errors import InvalidURL
from relay.location import Location
from relay.parsing import UNSAFE_CHARACTERS

NAME_BYTES: Final = 255  # what Linux file systems, and so most WebDAV servers, take for one segment
HEADER_BYTES: Final = 8 * 1024

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Two things wider than the RFC, as servers send them and browsers read them: a value without quotes
# may hold spaces and brackets, and only a quote and a backslash are escaped, so that "C:\\dir\\x"
# ends in x.
_TYPE: Final = re.compile(rf"[ \t]*(?:{_TOKEN})?[ \t]*(?=;|$)")
_PARAMETER: Final = re.compile(
    rf'[ \t]*;[ \t]*(?:({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"[ \t]*|([^";'
    r' \t][^";]*)))?(?=;|$)',
    re.S,
)
_EXTENDED: Final = re.compile(
    r"(utf-8|iso-8859-1)'[A-Za-z0-9-]*'((?:[!#$&+.^_`|~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+)", re.I
)


def safe_name(content_disposition: str | None, location: Location) -> str | None:
    """Return the name for a copy of the object at `location`; None if there is no usable one. It is
    the first of `filename*`, `filename` and the last path segment that is a safe single segment of
    at most 255 bytes. Only the last part of a path counts, with slashes of either kind. The
    header's value has its bytes as Latin-1, as HTTP does; if the bytes are UTF-8, it is read as
    UTF-8, as browsers do."""
    return next(_safe_names((*_names(content_disposition or ""), location.name)), None)


def name_after_source(
    place: Location,
    source: Location,
    disposition: str | None = None,
    answered: Location | None = None,
) -> Location:
    """Return the place of one object: a `place` that ends in '/' gets the source's name.

    That is the name in its answer (its `disposition`, else the location that `answered`), and else
    the name of `source` itself. No answer may choose a hidden file's name, as `.bashrc`. Raises
    InvalidURL if no name is safe."""
    if not place.path.endswith("/"):
        return place
    chosen = (*_names(disposition or ""), answered.name) if answered is not None else ()
    shown = (name for name in _safe_names(chosen) if not name.startswith("."))
    name = next(shown, None) or safe_name(None, source)
    if name is None:
        raise InvalidURL(
            "the destination is a folder, and the source has no safe name",
            pointer="/destination",
            hint="Give the whole URL of the destination, with the object's name.",
        )
    return place.object_named(name)


def is_named_by_answer(folder: Location, source: Location, place: Location) -> bool:
    """Return whether the `place` of an object in a `folder` has another name than the `source`
    itself has: an answer chose it."""
    if not folder.path.endswith("/"):
        return False
    name = safe_name(None, source)
    return name is None or folder.object_named(name) != place


def _names(header: str) -> Iterator[str]:
    parameters = _parameters(header)
    extended = _EXTENDED.fullmatch(parameters.get("filename*", ""))
    if extended is not None:
        try:
            yield unquote_to_bytes(extended[2]).decode(extended[1])
        except UnicodeDecodeError:
            pass
    if "filename" in parameters:
        yield _as_utf8(parameters["filename"])


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header that follows the grammar and repeats no name; otherwise
    none."""
    start = _TYPE.match(header) if len(header) <= HEADER_BYTES else None
    if start is None:
        return {}
    found: dict[str, str] = {}
    position = start.end()
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        if parameter is None:
            return {}
        position = parameter.end()
        if parameter[1] is None:  # ';;', or one at the end
            continue
        name = parameter[1].lower()
        if name in found:
            return {}
        found[name] = (parameter[3] or "").strip() or re.sub(
            r'\\(["\\])', r"\1", parameter[2] or ""
        )
    return found


def _as_utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _safe_names(names: Iterable[str]) -> Iterator[str]:
    return (safe for safe in map(_safe, names) if safe is not None)


def _safe(name: str) -> str | None:
    """Return the last part of a path as one segment; None if it is empty, only dots or too long, or
    has a control character."""
    last = re.split(r"[/\\]", name)[-1].strip()
    if not last.strip(". ") or UNSAFE_CHARACTERS.search(last):
        return None
    return last if len(last.encode()) <= NAME_BYTES else None
