"""Lists of URLs as sources of trees: a text with one a line, a CSV file, or Google's list format.

Theory of operation. `list+URL` or `list+PATH` names the list itself, which is read line by line from wherever it lies,
so that nothing grows with its length. What a line tells of an object (its size, its digests) is a promise that the
object must keep. An object's name is its URL's host and path, unless a CSV file has a column `name`.

Decided here: what a line means. Never here: how the objects are read (each is an ordinary HTTP source).
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from relay.digest import ALGORITHMS, Digests
from relay.errors import InvalidURL, NotFound, ProtocolViolation, RelayError, RequestError, Side, Unsupported
from relay.foreign import count
from relay.identity import query_of_identity
from relay.location import Location, parse_location
from relay.receipt import Version
from relay.stores.interfaces import Entry, Found, Opened, Source, Span
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.meter import Meter

SCHEME: Final = "list+"
GOOGLE: Final = "TsvHttpData-1.0"
"""The first line of a list as Google's Storage Transfer Service takes it: URL, size and MD5 in base64, tab-separated
(cloud.google.com, "Create a URL list")."""
LINE_BYTES: Final = 64 << 10
COLUMNS: Final = frozenset({"url", "name", "size", *ALGORITHMS})
_PIECE: Final = 1 << 16

Opens = Mapping[str, Callable[[Wire, Side, Meter], Source]]


def as_list(text: str) -> str:
    """Return where a list is as a list: with `list+` before it, whether it was said or not."""
    return text if text[: len(SCHEME)].lower() == SCHEME else SCHEME + text


@dataclass(frozen=True)
class ListAccount:
    """A list, and where it lies."""

    inner: Location = field(repr=False)
    store: str = "list"

    @property
    def owner(self) -> str:
        """As Account.owner: the list's own."""
        return self.inner.account.owner if self.inner.account else ""

    def shown(self, path: str) -> str:
        """Return `list+https://host/urls.txt`."""
        return f"{SCHEME}{self.inner}"

    def check(self, path: str) -> None:
        """As Account.check; a list is no destination."""


def list_location(inner: Location) -> Location:
    """Return the Location of the tree that the list at `inner` names."""
    return replace(inner, account=ListAccount(inner))


class ListStore:
    """One list, for one migration. Only `list` has a meaning: the objects lie elsewhere."""

    def __init__(self, wire: Wire, side: Side, meter: Meter, stores: Opens) -> None:
        self._wire, self._side, self._meter, self._stores = wire, side, meter, stores

    def head(self, location: Location) -> Found:
        """There is no object at a list's own address."""
        raise self._no_object(location)

    def get(self, location: Location, pinned: Version | None = None, span: Span | None = None) -> Opened:
        """As `head`."""
        raise self._no_object(location)

    def list(self, location: Location, recursive: bool = False, after: str | None = None) -> Iterator[Entry]:
        """As Source.list: one entry a line, with its URL; a line that can't be used is one with its error.

        Begins anew whatever `after` says. Raises ProtocolViolation for a list that is no text.
        """
        assert isinstance(location.account, ListAccount), "who asks has the location of a list"
        opened = self._stores[location.account.inner.store](self._wire, self._side, self._meter).get(
            location.account.inner
        )
        assert opened.body is not None  # an Opened has one
        try:
            yield from entries(self._lines(opened.body, location))
        finally:
            opened.body.close()

    def _lines(self, body: Body, location: Location) -> Iterator[str]:
        """Yield the lines without their ends, as long as they come. Raises ProtocolViolation for what is no text."""
        rest, first = b"", True
        while piece := body.read(_PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield self._text(line, location, first)
                first = False
            if len(rest) > LINE_BYTES:
                raise ProtocolViolation(f"{location} has a line of more than {LINE_BYTES} bytes", side=self._side)
        if rest:
            yield self._text(rest, location, first)

    def _text(self, line: bytes, location: Location, first: bool) -> str:
        try:
            text = line.decode("utf-8-sig" if first else "utf-8")
        except UnicodeDecodeError:
            raise ProtocolViolation(f"{location} is no text in UTF-8", side=self._side) from None
        if "\0" in text:
            raise ProtocolViolation(f"{location} is no text", side=self._side)
        return text.removesuffix("\r")

    def _no_object(self, location: Location) -> RelayError:
        return NotFound(f"{location} is a list of objects, and none itself", side=self._side, hint=_RECURSIVE)


_RECURSIVE = "A list is moved as a tree: -r in the terminal, `recursive` in a request."


def entries(lines: Iterator[str]) -> Iterator[Entry]:
    """Return what a list names. What it is shows in its first line: Google's own word, or a CSV's `url` column."""
    first = next(lines, None)
    if first is None:
        return iter(())
    if first.strip() == GOOGLE:
        return _google(lines)
    columns = [name.strip().lower() for name in first.split(",")]
    if "url" in columns and len(columns) == len(set(columns)):
        return _table(columns, lines)
    return _plain(chain([first], lines))


def _plain(lines: Iterator[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _entry(number, {"url": line.strip()})


def _google(lines: Iterator[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=2):
        if line.strip():
            cells = line.split("\t")
            yield _entry(number, dict(zip(("url", "size", "md5"), map(str.strip, cells), strict=False)))


def _table(columns: list[str], lines: Iterator[str]) -> Iterator[Entry]:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise Unsupported(
            f"the list has a column {unknown[0][:50]!a}", hint=f"The columns are {', '.join(sorted(COLUMNS))}."
        )
    rows = csv.reader(f"{line}\n" for line in lines)
    for cells in rows:
        if any(cell.strip() for cell in cells):
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
            yield _entry(rows.line_num + 1, row, None if len(cells) == len(columns) else "it has other columns")


def _entry(number: int, row: Mapping[str, str], wrong: str | None = None) -> Entry:
    """Return what a line names; one that can't be used under its number, with the reason."""
    try:
        if wrong is not None:
            raise InvalidURL(wrong)
        location = parse_location(row.get("url", ""))
        size = count(row.get("size"))
        if size is None and row.get("size"):
            raise InvalidURL("its size is no number of bytes")
        digests = _digests(row)
        name = row.get("name") or _name(location)
    except RequestError as error:
        error.message = f"line {number} of the list: {error.message}"
        return Entry(f"line {number}", error=error)
    return Entry(name, size, url=row["url"], digests=digests)


def _name(location: Location) -> str:
    """Return the host and the path. A query that is more than a signature is told apart by a few letters of it."""
    path = location.path.lstrip("/")
    if not path or path.endswith("/"):
        raise InvalidURL("the URL names no object: its path is empty, or ends in '/'")
    host = location.host if location.host_header == location.host else location.host_header.replace(":", "_")
    plain = location.with_target(f"/{path}")
    segments = [plain.with_target("/" + segment).name for segment in path.split("/")]
    query = query_of_identity(location)
    mark = f"~{hashlib.sha256(repr(query).encode()).hexdigest()[:16]}" if query else ""
    return "/".join([host, *segments]) + mark


def _digests(row: Mapping[str, str]) -> Digests:
    """Read the digests of a line, in hex or in base64. Raises InvalidURL for one that is neither."""
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
    try:
        value = bytes.fromhex(text) if len(text) == 2 * width else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return value if len(value) == width else None
