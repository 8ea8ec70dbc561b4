"""Parse the index pages of web servers: nginx, Apache, Caddy, Python's http.server.

Theory of operation. A page is parsed as it arrives and may have any length: entries are yielded
link by link, and only a bounded memory of names grows. It is an index of a folder if its title says
so; its links are the folder's entries (`index_links.py`). A size is only used if it is exact:
"1.2M" is not. Times in HTML pages are not exact, and not used.

A listing is worthless if the page is cut off. A page that begins with `<html>` must end with
`</html>`, whatever its framing says, since a proxy may frame an incomplete answer of a dead server
as a complete one. So must a page that ends with its connection. A page that continues on another
page, that has no link into the folder, or that names its entries by queries (`?file=NAME`), is one
that relay can't read, not an empty folder.

Decided here: which page is an index, and what it lists. Never here: fetching a page."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from html.parser import HTMLParser
from itertools import chain
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, urljoin

from relay.errors import ConnectionLost, ProtocolViolation, Side, UnsafeKey, Unsupported
from relay.parsing import count, http_date, iso_date, whole_number
from relay.stores.index_links import AWAY, Link, LinkTarget, read_link, segments_of
from relay.stores.interfaces import Entry

ACCEPT: Final = "application/json, text/html;q=0.9"
"""The Accept field: Caddy's JSON listing is exact, its HTML page is not. Other servers ignore
it."""
PENDING_CHARACTERS: Final = 128 << 10
"""Maximum length of one element of a page, of one row of a JSON listing, and of the text before the
title."""
REMEMBERED: Final = 100_000
REMEMBERED_CHARACTERS: Final = 16 << 20
"""Maximum number and total length of the names that are remembered to detect duplicates."""
BEHIND_CHARACTERS: Final = 512
"""Maximum length of the text after a link that is searched for a size."""
_TITLES = re.compile(r"\s*(?:index of|directory listing for|directory:)\s", re.I)
_GOES_ON = re.compile(
    r"[?&;](?:page|offset|start|start-after|marker|cursor|after|skip|continuation-token)=[^&;#]",
    re.I,
)
"""A link to a further page of the same folder."""
_PARTIAL: Final = "There may be additional items to display"
"""What Sonatype Nexus writes before the links of a folder that has more than it shows."""
_VIEWS: Final = frozenset(
    ["sort", "sortby", "order", "orderby", "layout", "style", "theme", "lang", "limit", "raw"]
)
"""Query parameters of links that only change the view of the folder, such as Caddy's."""
_SORTED: Final = frozenset(f"{name}{value}" for name in "conmsd" for value in "nmsda")
"""The same of Apache, each with its value."""
_CADDY_ROWS: Final = 10_000
"""Maximum number of rows of a listing of Caddy, unless its `file_limit` is set
(caddyserver.com, "file_server"). The list does not say that it is cut there."""
_FOLDERS: Final = ("directory", "dir", "folder")
"""Types of a folder in a JSON listing."""
_ELSEWHERE: Final = (LinkTarget.ASTRAY, LinkTarget.ABROAD)
"""Targets that are not in the folder, as its path is known here."""
_EXACT = re.compile(
    r"\s*(?:\d{2}-\w{3}-\d{4}|\d{4}-\d{2}-\d{2})\s\d{2}:\d{2}(?::\d{2})?\s+([0-9]{1,19})\s*?(?:\t|\n|$)"
)


@dataclass(frozen=True, kw_only=True)
class IndexPage:
    """One answer that should be a folder's index. `paths` are the percent-encoded paths that its
    links may begin with, the page's own first; `shown` names the page in a message. `framed`: its
    framing proves its end."""

    shown: str
    side: Side
    paths: tuple[str, ...]
    host: str = ""
    framed: bool = True

    def refuse(self) -> NoReturn:
        """Raise Unsupported: the page is not an index."""
        raise Unsupported(
            f"{self.shown} is a web page, not an index of a folder that relay can read",
            side=self.side,
            hint="Name the object itself, or let the server list the folder (nginx: autoindex on).",
        )

    def refuse_stored_page(self) -> NoReturn:
        """Raise Unsupported: the page is a file, such as a saved copy of an index."""
        raise Unsupported(
            f"{self.shown} is a stored page (index.html), not an index of a folder that the server"
            " made: it may not list what the folder has",
            side=self.side,
            hint="Rename that file at the source, or turn off its use as the folder's page.",
        )

    def refuse_partial_page(self) -> NoReturn:
        """Raise Unsupported: the page links to further pages, or says that it is cut."""
        raise Unsupported(
            f"{self.shown} lists only a part of the folder",
            side=self.side,
            hint="Let the server list the folder on one page, or move a list of URLs.",
        )

    def refuse_hidden_entry(self, href: str) -> NoReturn:
        """Raise Unsupported: the entries have no path below the folder."""
        path = href.partition("?")[0][:200]
        raise Unsupported(
            f"{self.shown} names the folder's entries by queries (to {path!a}), which relay can't"
            " follow",
            side=self.side,
            hint=(
                "Let the server list the folder with a path for each file, or move a list of URLs."
            ),
        )

    def refuse_limited_list(self) -> NoReturn:
        """Raise Unsupported: the server may have omitted the rest of the folder."""
        raise Unsupported(
            f"{self.shown} lists {_CADDY_ROWS} entries, where Caddy cuts a listing without a sign",
            side=self.side,
            hint=(
                "Set file_limit in Caddy's browse to more than the folder has, or move a list of"
                " URLs."
            ),
        )

    def refuse_cut_page(self) -> NoReturn:
        """Raise ConnectionLost: the page has no end."""
        raise ConnectionLost(
            f"{self.shown} is cut off: the list of the folder has no end", side=self.side
        )


def read_entries(pieces: Iterable[bytes], page: IndexPage) -> Generator[Entry, None, None]:
    """Yield the entries of a page, in its order, to its proven end.

    Raises the errors of `pieces`; Unsupported for a page that is not an index, or without any link
    into the folder; ConnectionLost for one that is cut off; ProtocolViolation for one with an
    endless element."""
    texts = _texts(pieces)
    text = next(texts, "")
    while not text.strip() and (more := next(texts, None)) is not None:
        text = more
    reads = _json if text.lstrip()[:1] == "[" else _html
    yield from _unique_entries(reads(chain((text,), texts), page))


def _texts(pieces: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", True)


def _unique_entries(entries: Iterator[Entry]) -> Generator[Entry, None, None]:
    """Yield each name once. A name may come twice in a row (its icon is a link too): then with the
    size of either."""
    seen: set[str] = set()
    characters = 0
    last: Entry | None = None
    for entry in entries:
        if last is not None and last.name == entry.name:
            last = entry if last.size is None else last
            continue
        if last is not None:
            yield last
        last = None if entry.name in seen else entry
        if len(seen) < REMEMBERED and characters < REMEMBERED_CHARACTERS:
            seen.add(entry.name)
            characters += len(entry.name)
    if last is not None:
        yield last


# -- JSON


def _json(texts: Iterator[str], page: IndexPage) -> Iterator[Entry]:
    """Yield the entries of a JSON listing, row by row. Raises Unsupported, after the last row, for
    a list that Caddy may have cut."""
    buffer, begun, number = "", False, 0
    for text in texts:
        buffer = (buffer + text).lstrip()
        if not begun:
            buffer, begun = buffer[1:].lstrip(), True
            if buffer.startswith("]"):
                return _check_end(buffer[1:], texts, page)
        while True:
            row, rest = _row_of(buffer, page)
            if row is None:
                break
            number += 1
            entry = _entry_of_row(row, number, page)
            if entry is not None:
                yield entry
            if rest.startswith("]"):
                # `is_dir` is a member of Caddy's rows; nginx has `type`.
                if number == _CADDY_ROWS and "is_dir" in row:
                    page.refuse_limited_list()
                return _check_end(rest[1:], texts, page)
            buffer = rest[1:].lstrip()
    page.refuse_cut_page()


def _check_end(rest: str, texts: Iterator[str], page: IndexPage) -> None:
    """Read the page to its end. Raises Unsupported if text follows the list."""
    for text in (rest, *texts):
        if text.strip():
            page.refuse()


def _row_of(buffer: str, page: IndexPage) -> tuple[dict[str, Any] | None, str]:
    """Return the first row in the buffer, and the rest from its ',' or ']' on; None if the row is
    not complete yet."""
    if not buffer:
        return None, buffer
    if not buffer.startswith("{"):
        page.refuse()
    try:
        row, end = _DECODER.raw_decode(buffer)
    except (ValueError, RecursionError):
        if len(buffer) > PENDING_CHARACTERS:
            page.refuse()
        return None, buffer
    rest = buffer[end : end + 64].lstrip()
    if not rest:
        return None, buffer
    if rest[0] not in ",]":
        page.refuse()
    return row, buffer[buffer.index(rest[0], end) :]


_DECODER: Final = json.JSONDecoder(parse_int=count)
"""With `count`, since int() raises ValueError for a number of thousands of digits, and the row
would look incomplete."""


def _entry_of_row(row: dict[str, Any], number: int, page: IndexPage) -> Entry | None:
    """Return the entry of a row; None for the folder itself and the one above it. Raises
    Unsupported if the first row has no name."""
    given = row.get("name")
    if not isinstance(given, str):
        if number == 1:
            page.refuse()
        return Entry(
            f"row {number} of the list", error=UnsafeKey("the row has no name", side=page.side)
        )
    folder = row.get("is_dir") is True or row.get("type") in _FOLDERS or given.endswith("/")
    name = given.removesuffix("/")
    if name in ("", ".", ".."):
        return None
    if "/" in name:
        return Entry(
            f"row {number} of the list", error=_unclear_name_error(_redact_link(given), page.side)
        )
    if row.get("type") == "other":  # nginx: a link without a target, a pipe, a device
        return Entry(name, error=_no_file_error(name, page.side))
    when = _when(row.get("mod_time") or row.get("mtime"))
    if folder:
        return Entry(f"{name}/", None, None, when)
    return Entry(name, whole_number(row.get("size")), None, when)


def _no_file_error(name: str, side: Side) -> Unsupported:
    return Unsupported(
        f"{name[:200]!a} is not a file, says the folder's page",
        side=side,
        hint="Only files can be moved. A link needs a target that the server can read.",
    )


def _when(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    return iso_date(text) if text[:1].isdigit() else http_date(text)


# -- HTML


def _html(texts: Iterator[str], page: IndexPage) -> Iterator[Entry]:
    """Yield the entries of an HTML page."""
    folders, astray, found = [segments_of(path) for path in page.paths], 0, False
    parser, links = _Parser(), 0
    for href, inside, behind in _links(parser, texts, page):
        links += 1
        meant = [read_link(href, folder, page.host) for folder in folders]
        if _GOES_ON.search(href) and any(one.leads is LinkTarget.ITSELF for one in meant):
            page.refuse_partial_page()
        link = _choose_meaning(href.strip(), inside.strip(), meant, all(folders))
        asks = _asks_for(href) if link is not None and link.leads is LinkTarget.ITSELF else set()
        if asks:
            if inside.strip() in asks:
                page.refuse_hidden_entry(href)
            astray += 1
        if link is None:
            astray += 1
        elif link.leads not in (LinkTarget.AWAY, LinkTarget.ITSELF):
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
    reported = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return {value or name for name, value in reported if not _is_view(name.lower(), value)}


def _is_view(name: str, value: str) -> bool:
    return (name + value.lower()) in _SORTED or name in _VIEWS or value.lower() in ("asc", "desc")


def _entry(link: Link, behind: str, page: IndexPage) -> Entry:
    if link.leads is LinkTarget.ODD:
        name = _redact_link(link.name)
        return Entry(name, error=_unclear_name_error(name, page.side))
    size = None if link.name.endswith("/") else _EXACT.match(behind)
    return Entry(link.name, count(size[1]) if size else None)


def _redact_link(href: str) -> str:
    """Return a link without its query, which may be a signature, and without the user and password
    before its host (RFC 3986 section 3.2.1). Both are replaced by a hash, so that different links
    stay different."""
    path, mark, query = href.partition("?")
    before, at, after = path.rpartition("@")
    if at and (":" in before or "//" in before):
        path = f"~{_hash_of(before)}@{after}"
    return f"{path}?~{_hash_of(query)}" if mark else path


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]


def _unclear_name_error(name: str, side: Side) -> UnsafeKey:
    return UnsafeKey(
        f"the link {name[:200]!a} on the folder's page is ambiguous",
        side=side,
        hint="Move it by its own URL, under a name that you choose.",
    )


def _links(
    parser: _Parser, texts: Iterator[str], page: IndexPage
) -> Iterator[tuple[str, str, str]]:
    """Yield the links of an index, each with its own text and the text after it. Raises as
    `read_entries`."""
    characters = 0
    for text in texts:
        characters += len(text)
        parser.read(text, page)
        if parser.is_list and parser.is_partial:
            page.refuse_partial_page()
        if parser.is_list:
            yield from parser.take_links()
        elif characters > PENDING_CHARACTERS:
            page.refuse()
    broken = parser.in_markup
    # On a broken page the parser would search the rest again for each '<' without an end.
    if not broken:
        parser.read(None, page)
    if not parser.is_list:
        page.refuse()
    yield from parser.take_links()
    if broken or not (parser.ended or (page.framed and not parser.begun)):
        page.refuse_cut_page()


class _Parser(HTMLParser):
    """Extracts a page's titles, its end, and its links, each with the text up to the next one."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.is_list = self.begun = self.ended = self.is_partial = False
        self.base: str | None = None
        """The base URL of the page's links, if it declares one (HTML, section 4.2.3)."""
        self._has_links = False
        self._before = ""
        """The end of the text before the first link, which comes in pieces."""
        self._title = ""
        self._in_title = self._in_link = self._in_address = False
        self._links: list[tuple[str, str, str]] = []
        self._href: str | None = None
        self._inside = ""
        self._behind: list[str] = []
        self._room = 0

    @property
    def in_markup(self) -> bool:
        """Whether the text so far ends within a tag, a comment or a script."""
        return "<" in self.rawdata or self.cdata_elem is not None

    def read(self, text: str | None, page: IndexPage) -> None:
        """Read a piece of the page, or None, its end. Raises Unsupported, and ProtocolViolation for
        an element without an end."""
        try:
            self.close() if text is None else self.feed(text)
        except (ValueError, AssertionError):
            page.refuse()
        if text is None:
            self._link_ended()
        if len(self.rawdata) > PENDING_CHARACTERS:
            raise ProtocolViolation(f"{page.shown} has an element without an end", side=page.side)

    def take_links(self) -> list[tuple[str, str, str]]:
        """Return the complete links, each once."""
        links, self._links = self._links, []
        return links

    def join_base(self, href: str) -> str:
        """Return a link joined with the page's base URL, if there is one."""
        try:
            return urljoin(self.base, href.strip()) if self.base else href
        except ValueError:
            return href

    def _link_ended(self) -> None:
        if self._href is not None:
            self._links.append((self._href, self._inside, "".join(self._behind)))
        self._href = None
        self._inside = ""
        self._behind = []
        self._room = BEHIND_CHARACTERS

    def _follow(self, text: str) -> None:
        """Keep the beginning of the text after a link."""
        if self._href is not None and self._room > 0:
            self._behind.append(text[: self._room])
            self._room -= len(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the beginning of the page, a title or a link."""
        self.begun = self.begun or tag == "html"
        if tag in ("title", "h1"):
            self._in_title, self._title = True, ""
        if tag == "base" and self.base is None and (base := dict(attrs).get("href")):
            if self._has_links:
                raise ValueError("links before the base element would have another base")
            self.base = base.strip()
        self._in_address = self._in_address or tag == "address"
        if tag == "a" and not (self._in_address and "://" in (dict(attrs).get("href") or "")):
            self._link_ended()
            self._in_link = True
            self.ended = False  # the end before this link was that of an included document
            self._href = self.join_base(dict(attrs).get("href") or "")
            self._has_links = True

    def handle_endtag(self, tag: str) -> None:
        """Note the end of the page, a title or a link."""
        if tag in ("title", "h1"):
            self._in_title = False
        elif tag == "a":
            self._in_link = False
        elif tag == "address":
            # Contact information (HTML, section 4.3.10): a whole URL in it is not an entry.
            self._in_address = False
        elif tag in ("td", "tr"):
            self._follow("\t" if tag == "td" else "\n")
        elif tag == "html":
            self.ended = True

    def handle_data(self, data: str) -> None:
        """Check the text of a title, and keep the text of and after a link."""
        if self._in_title:
            self._title = (self._title + data)[:1000]
            self.is_list = self.is_list or _TITLES.match(f"{self._title} ") is not None
        elif self._in_link:
            self._inside = (self._inside + data)[:BEHIND_CHARACTERS]
        else:
            if not self._has_links:
                text = self._before + data
                self.is_partial = self.is_partial or _PARTIAL in text
                self._before = text[-len(_PARTIAL) :]
            self._follow(data)
