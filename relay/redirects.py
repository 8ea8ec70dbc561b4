"""Where a redirect leads.

Decided here: which redirects are followed, and what the next request keeps of the first one. Never
here: how often (`relay/wire`), and whether the address may be dialled (`egress.py`)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

from relay.errors import RedirectRefused, RequestError, Side
from relay.location import SCHEME, Location, parse_location

_PAGE_ENDING: Final = re.compile(r"\.x?html?$", re.I)
_BLANK_OR_BEYOND: Final = re.compile(r"[ \x80-\xff]")


def redirect_target(location: Location, reference: str, side: Side = "source") -> Location:
    """Return the Location of a redirect (RFC 3986 §5.2), parsed as strictly as a caller's own URL.

    The method and the headers are dropped when the origin changes. Characters that may not stand in
    a URL (a blank, bytes beyond ASCII) are percent-encoded, as browsers and curl do. Raises
    RedirectRefused on a step from https to http, another scheme, or a reference that does not
    parse. The dial checks address and port."""
    try:
        there = parse_location(_absolute(location, _encode(reference)))
    except RequestError as error:
        raise RedirectRefused(f"{location} redirects, and {error.message}", side=side) from None
    if location.scheme == "https" and there.scheme == "http":
        raise RedirectRefused(f"{location} redirects from https to http", side=side)
    if there.origin != location.origin:
        return there
    return replace(
        there, method=location.method, headers=location.headers, account=location.account
    )


def is_neighbour(place: Location, there: Location) -> bool:
    """Return whether a redirect from `place` leads to another name in the same folder of the same
    host: a server that corrects spellings (Apache's mod_speling) does so once the object is gone.

    A page may lose its ending (`a.html` to `a`), and a folder's index its name."""
    here, other = place.path.rstrip("/"), there.path.rstrip("/")
    above, name = _split_name(here)
    beside, named = _split_name(other)
    if place.host != there.host or above != beside:
        return False
    return named not in ("", name, _PAGE_ENDING.sub("", name))


def _split_name(path: str) -> tuple[str, str]:
    """Return the decoded folder and name of a path."""
    above, _, name = unquote(path, errors="surrogateescape").rpartition("/")
    return above, name


def _encode(reference: str) -> str:
    """Percent-encode the blanks and the bytes beyond ASCII of a field's value, which is Latin-1
    text."""
    return _BLANK_OR_BEYOND.sub(lambda found: f"%{ord(found.group()):02X}", reference.strip(" \t"))


def _absolute(base: Location, reference: str) -> str:
    if SCHEME.match(reference):
        return reference
    if reference.startswith("//"):
        return f"{base.scheme}:{reference}"
    path, mark, query = reference.partition("#")[0].partition("?")
    # A reference without a path keeps that of the base (RFC 3986 section 5.2.2).
    if not path:
        return f"{base.origin}{base.path}?{query}" if mark else base.url
    merged = path if path.startswith("/") else f"{base.path.rpartition('/')[0]}/{path}"
    return f"{base.origin}{_without_dots(merged)}{mark}{query}"


def _without_dots(path: str) -> str:
    # RFC 3986 §5.2.4, for the plain dots that a relative reference may use. The parse refuses
    # encoded ones.
    segments = path.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
