"""Lists of URLs as sources of trees: a text, a CSV file, or Google's list format.

Theory of operation. `list+URL` or `list+PATH` names the list itself, which is read line by line, so
memory does not grow with its length. The size and digests in a line must match the object. An
object's name is its URL's host and path, unless a CSV file has a column `name`.

Decided here: what a line means. Never here: how the objects are read (each is an ordinary HTTP
source)."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Final

from relay.digest import ALGORITHMS, Digests
from relay.errors import (
    InvalidURL,
    NotFound,
    ProtocolViolation,
    RelayError,
    RequestError,
    Side,
    Unsupported,
)
from relay.identity import query_of_identity
from relay.location import FRAGMENT_HINT, Location, parse_location
from relay.parsing import count
from relay.receipt import Version
from relay.stores.interfaces import (
    ByteRange,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    Source,
    UnknownObject,
)
from relay.stores.listing_retries import ListingRetries
from relay.stores.pieces import pieces_of
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog

SCHEME: Final = "list+"
GOOGLE: Final = "TsvHttpData-1.0"
"""The first line of a list in the format of Google's Storage Transfer Service: URL, size and MD5 in
base64, tab-separated (cloud.google.com, "Create a URL list")."""
LINE_BYTES: Final = 64 << 10
"""Maximum length of a line, in bytes."""
COLUMNS: Final = frozenset({"url", "name", "size", *ALGORITHMS})

Opens = Mapping[str, Callable[[Wire, Side, Watchdog], Source]]


def as_list(text: str) -> str:
    """Return the text with `list+` before it, unless it has that already."""
    return text if text[: len(SCHEME)].lower() == SCHEME else SCHEME + text


@dataclass(frozen=True)
class ListAccount:
    """A list of URLs; `inner` is the location of the list itself."""

    inner: Location = field(repr=False)
    store: str = "list"

    @property
    def owner(self) -> str:
        """As Account.owner: that of the list itself."""
        return self.inner.account.owner if self.inner.account else ""

    def printed_form(self, path: str) -> str:
        """Return `list+https://host/urls.txt`."""
        return f"{SCHEME}{self.inner}"

    def check(self, path: str) -> None:
        """As Account.check. A list is never a destination."""


def list_location(inner: Location) -> Location:
    """Return the Location of the tree that the list at `inner` names."""
    return replace(inner, account=ListAccount(inner))


class ListStore:
    """One list, for one migration. Its objects are in other stores."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog, stores: Opens) -> None:
        self._wire = wire
        self._side = side
        self._meter = meter
        self._stores = stores

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head, for the location of a line. Raises NotFound for the list itself: it is
        not an object."""
        return self._store_of(location).head(location)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get, and as `head`."""
        return self._store_of(location).get(location, pinned, span)

    def _store_of(self, location: Location) -> Source:
        if isinstance(location.account, ListAccount):
            raise self._no_object(location)
        return self._stores[location.store](self._wire, self._side, self._meter)

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source.list: one entry for each line, with its URL, or with an error if the line is
        invalid.

        Ignores `after` and starts at the beginning. Raises ProtocolViolation for a list that is not
        text; Unsupported, after the last entry, if the list may have been cut off."""
        patience = ListingRetries(self._wire.limits.listing_seconds, self._meter)
        return patience.entries(partial(self._read_entries, location))

    def _read_entries(self, location: Location) -> Generator[Entry, None, None]:
        """Read the list once."""
        assert isinstance(location.account, ListAccount), "a ListStore only gets lists"
        inner = location.account.inner
        opened = self._stores[inner.store](self._wire, self._side, self._meter).get(inner)
        assert opened.body is not None  # `get` always opens one
        with closing(pieces_of(opened.body, self._meter)) as pieces:
            yield from entries(self._lines(pieces, location))
        if opened.body.ends_by_close:
            raise Unsupported(
                f"{location} ends with its connection, so it is unknown if it is complete",
                side=self._side,
                hint=(
                    "Let its server send a Content-Length; or download the list, check its end, and"
                    " use the file."
                ),
            )

    def _lines(self, pieces: Iterator[bytes], location: Location) -> Iterator[str]:
        """Yield the lines without their ends; of a line that is too long only its beginning. Raises
        ProtocolViolation if the first line is not text."""
        rest, first = b"", True
        for piece in chain(pieces, (b"",)):
            *lines, rest = (rest + piece).split(b"\n")
            if not piece and rest:
                lines = [rest]
            for line in lines:
                yield self._text(line[: LINE_BYTES + 1], location, first)
                first = False
            if first and len(rest) > LINE_BYTES:
                raise ProtocolViolation(
                    f"{location} begins with a line of more than {LINE_BYTES} bytes",
                    side=self._side,
                )
            rest = rest[: LINE_BYTES + 1]  # enough to see that the line is too long

    def _text(self, line: bytes, location: Location, first: bool) -> str:
        if len(line) > LINE_BYTES:
            return line.decode("latin-1")  # one character for each byte: it stays too long
        text = line.decode("utf-8-sig" if first else "utf-8", "surrogateescape").removesuffix("\r")
        if first and (reason := _unreadable(text)):
            raise ProtocolViolation(
                f"{location} can't be read as a list: {reason}", side=self._side
            )
        return text

    def _no_object(self, location: Location) -> RelayError:
        return NotFound(
            f"{location} is a list of objects, not an object", side=self._side, hint=_RECURSIVE
        )


_RECURSIVE = "Move a list as a tree: -r in the terminal, `recursive` in a request."


def entries(lines: Iterator[str]) -> Iterator[Entry]:
    """Yield the entries of a list. Its first line shows its format: `TsvHttpData-1.0` for Google's,
    a column `url` for CSV; otherwise it is a plain text."""
    first = next(lines, None)
    if first is None:
        return iter(())
    if first.strip() == GOOGLE:
        return _google(lines)
    columns = [name.lower() for name in _cells(first) or ()]
    if "url" in columns and len(columns) == len(set(columns)):
        return _table(columns, lines)
    return _plain(chain([first], lines))


def _plain(lines: Iterator[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _entry(number, {"url": line.strip()}, _unreadable(line))


def _google(lines: Iterator[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=2):
        if line.strip():
            cells = map(str.strip, line.split("\t"))
            yield _entry(
                number, dict(zip(("url", "size", "md5"), cells, strict=False)), _unreadable(line)
            )


def _table(columns: list[str], lines: Iterator[str]) -> Iterator[Entry]:
    """Yield the entries of a CSV file. Each row is one line, since URLs and valid names don't have
    line breaks."""
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise Unsupported(
            f"the list has a column {unknown[0][:50]!a}",
            hint=f"The columns are {', '.join(sorted(COLUMNS))}.",
        )
    for number, line in enumerate(lines, start=2):
        cells, wrong = _cells(line), _unreadable(line)
        if cells is None:
            yield _entry(number, {}, wrong or "its quotes don't match")
        elif any(cells):
            if wrong is None and len(cells) != len(columns):
                wrong = f"it has {len(cells)} columns instead of {len(columns)}"
            yield _entry(number, dict(zip(columns, cells, strict=False)), wrong)


def _cells(line: str) -> list[str] | None:
    """Return the cells of one line of a CSV file (RFC 4180), or None if its quotes don't match."""
    try:
        return [
            cell.strip()
            for row in csv.reader([line], strict=True, skipinitialspace=True)
            for cell in row
        ]
    except csv.Error:
        return None


def _unreadable(line: str) -> str | None:
    """Return why a line is invalid, or None."""
    if len(line) > LINE_BYTES:
        return f"it has more than {LINE_BYTES} bytes"
    if "\0" in line or not line.isascii() and any("\udc80" <= char <= "\udcff" for char in line):
        return "it is not text in UTF-8"
    return None


def _entry(number: int, row: Mapping[str, str], wrong: str | None = None) -> Entry:
    """Return the entry of a line; an invalid line gets its number as name, and an error."""
    try:
        if wrong is not None:
            raise InvalidURL(wrong)
        location = parse_location(row.get("url", ""))
        if "#" in row["url"]:  # it may be part of a name, but a fragment is never sent
            raise InvalidURL(
                "the URL has a '#' in it, and text after that is not sent", hint=FRAGMENT_HINT
            )
        size = count(row.get("size"))
        if size is None and row.get("size"):
            raise InvalidURL("its size is not a number of bytes")
        digests = _digests(row)
        name = row.get("name") or _name(location)
        if name.endswith("/"):
            raise InvalidURL("its name is that of a folder")
    except RequestError as error:
        error.message = f"line {number} of the list: {error.message}"
        return Entry(f"line {number}", error=error, judged_as=("",))
    return Entry(name, size, url=row["url"], digests=digests)


def _name(location: Location) -> str:
    """Return an object's name: the host and the path of its URL, and a hash of the query if that is
    more than a signature."""
    path = location.path.lstrip("/")
    if not path or path.endswith("/"):
        raise InvalidURL("the URL names no object: its path is empty, or ends in '/'")
    host = location.host
    if location.host_header != host:  # it has a port, or is an IPv6 address
        host = location.host_header.replace(":", "_")
    plain = location.with_target(f"/{path}")
    segments = [plain.with_target("/" + segment).name for segment in path.split("/")]
    query = query_of_identity(location)
    mark = f"~{hashlib.sha256(repr(query).encode()).hexdigest()[:16]}" if query else ""
    return "/".join([host, *segments]) + mark


def _digests(row: Mapping[str, str]) -> Digests:
    """Read the digests of a line, in hex or in base64. Raises InvalidURL for one that is
    neither."""
    found = {}
    for name, algorithm in ALGORITHMS.items():
        text = row.get(name)
        if not text:
            continue
        value = _bytes(text, algorithm.width)
        if value is None:
            raise InvalidURL(f"its {name} is not {algorithm.width} bytes in hex or base64")
        found[name] = value
    return found


def _bytes(text: str, width: int) -> bytes | None:
    for read in (bytes.fromhex, partial(base64.b64decode, validate=True)):
        with suppress(ValueError):  # binascii.Error is a ValueError
            value = read(text)
            if len(value) == width:
                return value
    return None


def location_of_url(source: Location, url: str) -> Location:
    """Return the location of an object of the list `source`. The list's credentials are sent only
    to the list's own origin. Raises RequestError for an invalid URL."""
    found = parse_location(url)
    return replace(found, headers=source.headers) if found.origin == source.origin else found
