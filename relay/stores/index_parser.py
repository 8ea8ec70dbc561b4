"""Parse the markup of an index page: its titles, its links with the text after each, and its end.

A listing is worthless if the page is cut off. A page that begins with `<html>` must end with
`</html>`, whatever its framing says, since a proxy may frame an incomplete answer of a dead server
as a complete one. So must a page that ends with its connection.

Decided here: whether a page is an index, and whether it is whole. Never here: what its links mean
(`index_html.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

from relay.errors import ProtocolViolation
from relay.stores.index_refusals import PENDING_CHARACTERS, IndexPage

BEHIND_CHARACTERS: Final = 512
"""Maximum length of the text after a link that is searched for a size."""
_LINK: Final = '<a href="'
_LINE: Final = re.compile(
    _LINK + r'([A-Za-z0-9._~%/-]{1,255})">([^<>&]{1,255})</a>([^<>&]{0,255}\n)'
)
"""A line of nginx's index, in which nothing needs a parser of HTML."""
_TITLES = re.compile(r"\s*(?:index of|directory listing for|directory:)\s", re.I)
_PARTIAL: Final = "There may be additional items to display"
"""What Sonatype Nexus writes before the links of a folder that has more than it shows."""


def read_links(
    parser: IndexParser, texts: Iterator[str], page: IndexPage
) -> Iterator[tuple[str, str, str]]:
    """Yield the links of an index, each with its own text and the text after it. Raises as
    `index_pages.read_entries`."""
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


class IndexParser(HTMLParser):
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
            self.close() if text is None else self._feed(text)
        except (ValueError, AssertionError):
            page.refuse()
        if text is None:
            self._link_ended()
        if len(self.rawdata) > PENDING_CHARACTERS:
            raise ProtocolViolation(f"{page.shown} has an element without an end", side=page.side)

    def _feed(self, text: str) -> None:
        """As `feed`; lines of nginx's index are read by an expression, at a tenth of the cost."""
        at, begin = 0, text.find(_LINK)
        while begin >= 0:
            self.feed(text[at:begin])
            at = self._read_lines(text, begin) if self._is_between_links else begin
            if at == begin:
                break  # another element; most pages have either only such lines, or none
            begin = text.find(_LINK, at)
        self.feed(text[at:])

    @property
    def _is_between_links(self) -> bool:
        """Whether a link may begin here, and counts as it is written."""
        is_within = self.rawdata or self.cdata_elem is not None or self._in_title or self._in_link
        return not is_within and self.base is None

    def _read_lines(self, text: str, at: int) -> int:
        """Read the lines that begin at a place of a text; return the end of the last one."""
        while (found := _LINE.match(text, at)) is not None:
            self._link_ended()
            self.ended, self._has_links = False, True
            self._href, self._inside = found[1], found[2]
            self._follow(found[3])
            at = found.end()
        return at

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
