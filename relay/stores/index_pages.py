"""Read the index pages of web servers: nginx, Apache, Caddy, Python's http.server.

Theory of operation. A page is parsed as it arrives and may have any length: entries are yielded
link by link, and only a bounded memory of names grows. A list in JSON (`index_json.py`) is exact;
an HTML page (`index_html.py`) is an index if its title says so (`index_parser.py`), and its links
are the folder's entries (`index_links.py`).

Decided here: which format a page has, and that a name is yielded once. Never here: fetching a
page."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import Final

from relay.stores.index_html import read_html
from relay.stores.index_json import read_json
from relay.stores.index_refusals import IndexPage
from relay.stores.interfaces import Entry

ACCEPT: Final = "application/json, text/html;q=0.9"
"""The Accept field: Caddy's JSON listing is exact, its HTML page is not. Other servers ignore
it."""
REMEMBERED: Final = 100_000
REMEMBERED_CHARACTERS: Final = 16 << 20
"""Maximum number and total length of the names that are remembered to detect duplicates."""


def read_entries(pieces: Iterable[bytes], page: IndexPage) -> Generator[Entry, None, None]:
    """Yield the entries of a page, in its order, to its proven end.

    Raises the errors of `pieces`; Unsupported for a page that is not an index, or without any link
    into the folder; ConnectionLost for one that is cut off; ProtocolViolation for one with an
    endless element."""
    texts = _texts(pieces)
    text = next(texts, "")
    while not text.strip() and (more := next(texts, None)) is not None:
        text = more
    reads = read_json if text.lstrip()[:1] == "[" else read_html
    yield from _unique_entries(reads(chain((text,), texts), page))


def _texts(pieces: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
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
