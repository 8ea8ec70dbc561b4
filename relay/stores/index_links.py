"""Classify a link of an index page: directly in the folder, elsewhere, or unclear.

Theory of operation. A server may write its links in another form than the requested URL: with other
characters percent-encoded, in lower case, or not at all; as paths, or as URLs with its host in
capitals; in another Unicode normal form. So paths are compared decoded, segment by segment. A link
only contributes a name directly below the folder: relay never follows it elsewhere.

Decided here: what a link means. Never here: which page is an index (`index_pages.py`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_ELSEWHERE: Final = frozenset(
    {"about", "blob", "data", "file", "ftp", "javascript", "mailto", "news", "tel"}
)
"""Schemes of links that don't belong to the folder. Other text before a colon may be part of a
name."""


_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*/?")
"""A link to an entry of the folder, without a character that has another meaning in a URL."""
_COMPOSED_CHARACTERS: Final = 1024
"""Maximum length of a name that is normalized. No file system has longer names, and the time grows
with the square of the number of marks after a letter."""


class LinkTarget(Enum):
    """The target of a link."""

    BELOW = "something right in the folder"
    ITSELF = "the folder itself"
    AWAY = "a folder above it, or elsewhere on purpose"
    ODD = "something in the folder whose name is ambiguous"
    ABROAD = "a place that has a folder above it, at another host"
    ASTRAY = "a place that an index of this folder has no reason to name"


@dataclass(frozen=True)
class Link:
    """The target of a link. `name` is the decoded name of a target below the folder, with a final
    '/' for a folder; of an ODD link, the link itself; of an ABROAD or ASTRAY link, the last name of
    its path. `below` says whether an ABROAD link's path is directly below a folder with our path,
    `namesake` whether an ASTRAY link's path is directly below a folder with our folder's name."""

    leads: LinkTarget
    name: str = ""
    below: bool = False
    namesake: bool = False


_ITSELF, AWAY, _ASTRAY = Link(LinkTarget.ITSELF), Link(LinkTarget.AWAY), Link(LinkTarget.ASTRAY)
_ABROAD = Link(LinkTarget.ABROAD)


def same_text(one: str, other: str) -> bool:
    """Return whether two names are the same in Unicode normal form."""
    if one == other:
        return True
    short = max(len(one), len(other)) <= _COMPOSED_CHARACTERS
    return short and normalize("NFC", one) == normalize("NFC", other)


def decode_path(text: str) -> str:
    """Return a percent-decoded text; bytes that are not UTF-8 become surrogates, which later checks
    report."""
    return unquote(text, errors="surrogateescape") if "%" in text else text


def segments_of(path: str) -> list[str]:
    """Return the decoded segments of a path, without empty ones."""
    return [decode_path(segment) for segment in path.split("/") if segment]


def read_link(href: str, folder: list[str], host: str) -> Link:
    """Return the target of a link on the page of the folder with these decoded segments, at this
    host."""
    href = href.strip()
    if _PLAIN_NAME.fullmatch(href):  # as nearly all are
        return Link(LinkTarget.BELOW, href)
    reference = _on_this_host(href, host)
    if isinstance(reference, Link):
        return _link_to_other_host(href, folder) if reference is _ABROAD else reference
    path, marks = _split(reference)
    if not path:
        return _ITSELF
    absolute = path.startswith("/")
    there = _resolve([] if absolute else folder, path)
    is_below = len(there) > len(folder) and all(map(same_text, folder, there))
    if not is_below:
        above = len(there) <= len(folder) and all(map(same_text, there, folder))
        if above and len(there) == len(folder):
            return _ITSELF
        if above or not absolute:
            return AWAY
        namesake = len(there) > 1 and there[-2:-1] == folder[-1:]
        return Link(LinkTarget.ASTRAY, there[-1], namesake=namesake)
    if len(there) > len(folder) + 1:
        return _ASTRAY
    name = there[-1]
    if marks or "\\" in path or "/" in name:
        return Link(LinkTarget.ODD, href)
    return Link(LinkTarget.BELOW, f"{name}/" if path.endswith("/") else name)


def _link_to_other_host(href: str, folder: list[str]) -> Link:
    """Return the target of a link to another host: a server behind a proxy may have another host
    name for itself."""
    there = _resolve([], _split(href.partition("//")[2].partition("/")[2])[0])
    below = len(there) == len(folder) + 1 and all(map(same_text, folder, there))
    return Link(LinkTarget.ABROAD, there[-1], below) if there else AWAY


def _on_this_host(href: str, host: str) -> str | Link:
    """Return a reference without scheme and host if these are the page's, otherwise its target."""
    scheme = _SCHEME.match(href)
    if scheme is not None:
        name, href = scheme[1].lower(), href[scheme.end() :]
        if name in _ELSEWHERE:
            return AWAY
        if name not in ("http", "https"):
            return AWAY if href.startswith("//") else Link(LinkTarget.ODD, scheme[0] + href)
        if not href.startswith("//"):
            return AWAY
    if href.startswith("//"):
        authority, slash, rest = href[2:].partition("/")
        # `host` is without a default port, which a server may write all the same.
        if not host or authority.lower().removesuffix(":80").removesuffix(":443") != host:
            return _ABROAD
        return slash + rest
    return href


def _split(reference: str) -> tuple[str, bool]:
    """Return the path of a reference, and whether a query or a fragment follows it."""
    found = re.search(r"[?#]", reference)
    return (reference, False) if found is None else (reference[: found.start()], True)


def _resolve(base: list[str], path: str) -> list[str]:
    """Return the decoded segments of a path relative to `base`, without dot segments (RFC 3986
    section 5.2.4)."""
    there = list(base)
    for segment in path.split("/"):
        name = decode_path(segment)
        if name == "..":
            del there[-1:]
        elif name not in ("", "."):
            there.append(name)
    return there
