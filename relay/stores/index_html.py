"""Read the entries of a folder from its HTML page: nginx, Apache, Python's http.server.

A page that continues on another page, that has no link into the folder, or that names its entries
by queries (`?file=NAME`), is one that relay can't read, not an empty folder. A size is only used if
it is exact: "1.2M" is not. Times in HTML pages are not exact, and not used.

Decided here: which links of a page are entries. Never here: the markup (`index_parser.py`), and
where a single link leads (`index_links.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl

from relay.errors import Unsupported
from relay.parsing import count
from relay.stores.index_links import AWAY, Link, LinkTarget, read_link, segments_of
from relay.stores.index_parser import IndexParser, read_links
from relay.stores.index_refusals import IndexPage, redact_link, unclear_name_error
from relay.stores.interfaces import Entry

_GOES_ON = re.compile(
    r"[?&;](?:page|offset|start|start-after|marker|cursor|after|skip|continuation-token)=[^&;#]",
    re.I,
)
"""A link to a further page of the same folder."""
_VIEWS: Final = frozenset(
    ["sort", "sortby", "order", "orderby", "layout", "style", "theme", "lang", "limit", "raw"]
)
"""Query parameters of links that only change the view of the folder, such as Caddy's."""
_SORTED: Final = frozenset(f"{name}{value}" for name in "conmsd" for value in "nmsda")
"""The same of Apache, each with its value."""
_ELSEWHERE: Final = (LinkTarget.ASTRAY, LinkTarget.ABROAD)
"""Targets that are not in the folder, as its path is known here."""
_NO_ENTRY: Final = (LinkTarget.AWAY, LinkTarget.ITSELF)
_EXACT = re.compile(
    r"\s*(?:\d{2}-\w{3}-\d{4}|\d{4}-\d{2}-\d{2})\s\d{2}:\d{2}(?::\d{2})?\s+([0-9]{1,19})\s*?(?:\t|\n|$)"
)


def read_html(texts: Iterator[str], page: IndexPage) -> Iterator[Entry]:
    """Yield the entries of an HTML page."""
    folders, astray, found = [segments_of(path) for path in dict.fromkeys(page.paths)], 0, False
    parser, links = IndexParser(), 0
    for href, inside, behind in read_links(parser, texts, page):
        links += 1
        meant = [read_link(href, folder, page.host) for folder in folders]
        if _GOES_ON.search(href) and any(one.leads is LinkTarget.ITSELF for one in meant):
            page.refuse_partial_page()
        link = _choose_meaning(href.strip(), inside.strip(), meant, all(folders))
        asks = _asks_for(href) if link is None or link.leads in _NO_ENTRY else set()
        if _names_one(asks, inside):
            page.refuse_hidden_entry(href)
        if asks and link is not None and link.leads is LinkTarget.ITSELF:
            astray += 1
        if link is None:
            astray += 1
        elif link.leads not in _NO_ENTRY:
            # A link to another place becomes an entry with an error, and does not prove that the
            # page is the index of this folder.
            is_elsewhere = link.leads is LinkTarget.ODD and meant[0].leads in _ELSEWHERE
            found, astray = found or not is_elsewhere, astray + is_elsewhere
            yield _entry(link, behind, page)
    if parser.base and all(
        read_link(parser.join_base("."), one, page.host).leads is not LinkTarget.ITSELF
        for one in folders
    ):
        astray = links  # the page's base makes all links lead to another folder
    if astray and not found:
        raise Unsupported(
            f"none of the {astray} links on {page.shown} leads to an entry of that folder",
            side=page.side,
            hint="Use the URL of the folder as it is written in the server's own links.",
        )


def _choose_meaning(href: str, inside: str, meant: list[Link], is_deep: bool) -> Link | None:
    """Return what a link means, of its meanings for each path of the folder; None for a link that
    can't be understood. `inside` is its text.

    A link to a namesake of the folder with the text of an entry is one: Sonatype Nexus has its
    folders below one path, and their files below another one."""
    if meant[0].leads is LinkTarget.ABROAD:
        return _meaning_of_foreign_link(href, inside, meant, is_deep)
    link = next((one for one in meant if one.leads not in _ELSEWHERE), None)
    if link is None and meant[0].namesake and inside.removesuffix("/") == meant[0].name:
        return Link(LinkTarget.ODD, href)
    return link


def _meaning_of_foreign_link(
    href: str, inside: str, meant: list[Link], is_deep: bool
) -> Link | None:
    """Return the meaning of a link to another host, which a server behind a proxy may take for its
    own; None for a link that can't be understood. Below a root folder it may also be a link to an
    unrelated site: there the link's text must be its name."""
    named = inside.removesuffix("/") == meant[0].name
    if any(one.below for one in meant) and (named or is_deep):
        return Link(LinkTarget.ODD, href)
    return None if named else AWAY


def _asks_for(href: str) -> set[str]:
    """Return the values in the query of a link to the folder itself that may name an entry, without
    parameters that only change the view."""
    query = href.partition("?")[2].partition("#")[0].replace(";", "&")
    parameters = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return {value or name for name, value in parameters if not _is_view(name.lower(), value)}


def _names_one(asks: set[str], inside: str) -> bool:
    """Return whether one of the values of a link's query ends with the name that is its text:
    `?dir=photos/2019` with the text `2019/`, or `[2019]`."""
    if not asks:
        return False
    text = inside.strip().strip("/[]").strip()
    return text not in ("", ".", "..") and any(
        value.rstrip("/").rpartition("/")[2] == text for value in asks
    )


def _is_view(name: str, value: str) -> bool:
    return (name + value.lower()) in _SORTED or name in _VIEWS or value.lower() in ("asc", "desc")


def _entry(link: Link, behind: str, page: IndexPage) -> Entry:
    if link.leads is LinkTarget.ODD:
        name = redact_link(link.name)
        return Entry(name, error=unclear_name_error(name, page.side), judged_as=("",))
    size = None if link.name.endswith("/") else _EXACT.match(behind)
    return Entry(link.name, count(size[1]) if size else None)
