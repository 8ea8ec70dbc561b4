"""The pages on which web servers list a folder: nginx, Apache, Caddy, Python's http.server.

Decided here: which page is such a list, and which of its links are things in the folder. A link is one only if it leads
to a name right below the page's own path: never up, never elsewhere, never with a query (those sort the list). A size
is one only if it is exact; "1.2M" is not, and no listing of this kind tells times that are.

Never here: fetching a page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote_to_bytes

from relay.foreign import count, http_date, iso_date, whole
from relay.stores.interfaces import Entry

ACCEPT = "application/json, text/html;q=0.9"
"""What is asked for: Caddy's list in JSON is exact, where its page is not; the others do as they are set up."""
_TITLES = re.compile(r"\s*(?:index of|directory listing for|directory:)\s", re.I)
_EXACT = re.compile(
    r"\s*(?:\d{2}-\w{3}-\d{4}|\d{4}-\d{2}-\d{2})\s\d{2}:\d{2}(?::\d{2})?\s+([0-9]{1,19})\s*?(?:\t|\n|$)"
)


def read_index(text: str, path: str) -> list[Entry] | None:
    """Return what a page lists, in its order; `path` is the page's own, percent-encoded and ending in '/'.

    None for a page that is no list of a folder. A name that stands twice counts once.
    """
    found = _json(text) if text.lstrip()[:1] == "[" else _html(text, path)
    return None if found is None else list({entry.name: entry for entry in found}.values())


# -- JSON


def _json(text: str) -> list[Entry] | None:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        return None
    return [entry for row in rows if (entry := _row(row)) is not None]


def _row(row: dict[str, Any]) -> Entry | None:
    folder = row.get("is_dir") is True or row.get("type") == "directory"
    name = row["name"].removesuffix("/")
    if not _is_name(name) or row.get("type") == "other":
        return None
    size = row.get("size")
    exact = None if folder else whole(size)
    return Entry(f"{name}/" if folder else name, exact, None, _when(row.get("mod_time") or row.get("mtime")))


def _when(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    return iso_date(text) if text[:1].isdigit() else http_date(text)


# -- HTML


def _html(text: str, path: str) -> list[Entry] | None:
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except (ValueError, AssertionError):
        return None
    if not any(_TITLES.match(f"{title} ") for title in page.titles):
        return None
    return list(_entries(page, path))


def _entries(page: _Page, path: str) -> Iterator[Entry]:
    for href, behind in page.links:
        name = linked(href, path)
        if name is not None:
            size = _EXACT.match(behind) if not name.endswith("/") else None
            yield Entry(name, count(size[1]) if size else None)


def linked(href: str, path: str) -> str | None:
    """Return the name right below `path` that a link leads to, decoded, a folder's with its '/'; else None."""
    if "?" in href or "#" in href or "\\" in href:
        return None
    rest = href.removeprefix("./")
    if rest.startswith("/"):
        if not rest.startswith(path):
            return None
        rest = rest[len(path) :]
    raw = rest.removesuffix("/")
    if "/" in raw or (":" in raw and not href.startswith(("./", "/"))):
        return None  # deeper, or another scheme
    name = unquote_to_bytes(raw).decode(errors="surrogateescape")  # what is no UTF-8 is told, not passed over
    if not _is_name(name):
        return None
    return f"{name}/" if rest.endswith("/") else name


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name  # what else is odd about it is told, not passed over


class _Page(HTMLParser):
    """The titles of a page, and its links with the text that follows each up to the next."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.titles: list[str] = []
        self.links: list[tuple[str, str]] = []
        self._in_title = self._in_link = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a title's or a link's begin."""
        if tag in ("title", "h1"):
            self._in_title = True
            self.titles.append("")
        if tag == "a":
            self._in_link = True
            self.links.append((dict(attrs).get("href") or "", ""))

    def handle_endtag(self, tag: str) -> None:
        """Note their end."""
        if tag in ("title", "h1"):
            self._in_title = False
        if tag == "a":
            self._in_link = False
        if tag in ("td", "tr") and self.links:
            href, behind = self.links[-1]
            self.links[-1] = (href, behind + ("\t" if tag == "td" else "\n"))

    def handle_data(self, data: str) -> None:
        """Keep the text of a title, and the text behind a link."""
        if self._in_title:
            self.titles[-1] += data
        elif self.links and not self._in_link:
            href, behind = self.links[-1]
            self.links[-1] = (href, behind + data)
