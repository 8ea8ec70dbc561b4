"""Lists of URLs as sources of trees: a text, a CSV file, or Google's list format.

Theory of operation. `list+URL` or `list+PATH` names the list itself, which is read line by line
from wherever it lies, so that nothing grows with its length. What a line tells of an object (its
size, its digests) is a promise that the object must keep. An object's name is its URL's host and
path, unless a CSV file has a column `name`.

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
from relay.stores.interfaces import ByteRange, Entry, ObjectInfo, OpenedObject, Source
from relay.stores.listing_retries import ListingRetries
from relay.stores.pieces import pieces_of
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog

SCHEME: Final = "list+"
GOOGLE: Final = "TsvHttpData-1.0"
"""The first line of a list as Google's Storage Transfer Service takes it: URL, size and MD5 in
base64, tab-separated (cloud.google.com, "Create a URL list")."""
LINE_BYTES: Final = 64 << 10
"""The longest line."""
COLUMNS: Final = frozenset({"url", "name", "size", *ALGORITHMS})

Opens = Mapping[str, Callable[[Wire, Side, Watchdog], Source]]


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

    def __init__(self, wire: Wire, side: Side, meter: Watchdog, stores: Opens) -> None:
        self._wire, self._side, self._meter, self._stores = wire, side, meter, stores

    def head(self, location: Location) -> ObjectInfo:
        """There is no object at a list's own address."""
        raise self._no_object(location)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As `head`."""
        raise self._no_object(location)

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list: one entry a line, with its URL; a line that can't be used is one with its
        error.

        Begins anew whatever `after` says. Raises ProtocolViolation for a list that is no text;
        Unsupported, when all of it was given, for one of which nothing says that it is whole."""
        patience = ListingRetries(self._wire.limits.listing_seconds, self._meter)
        return patience.entries(partial(self._listed, location))

    def _listed(self, location: Location) -> Generator[Entry, None, None]:
        """Read the list once."""
        assert isinstance(location.account, ListAccount), "who asks has the location of a list"
        inner = location.account.inner
        opened = self._stores[inner.store](self._wire, self._side, self._meter).get(inner)
        assert opened.body is not None  # an Opened has one
        with closing(pieces_of(opened.body, self._meter)) as pieces:
            yield from entries(self._lines(pieces, location))
        if opened.body.ends_by_close:
            raise Unsupported(
                f"{location} ends with its connection, and nothing says that it is whole",
                side=self._side,
                hint=(
                    "Let its server send a Content-Length; or get the list, look at its end, and"
                    " name the file."
                ),
            )

    def _lines(self, pieces: Iterator[bytes], location: Location) -> Iterator[str]:
        """Yield the lines without their ends, as long as they come; of one that is too long its
        begin. Raises ProtocolViolation where the first is no text."""
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
            rest = rest[: LINE_BYTES + 1]  # more of it says no more than that it is too long

    def _text(self, line: bytes, location: Location, first: bool) -> str:
        if len(line) > LINE_BYTES:
            return line.decode(
                "latin-1"
            )  # as many characters: that it is too long is all that counts
        text = line.decode("utf-8-sig" if first else "utf-8", "surrogateescape").removesuffix("\r")
        if first and (reason := _unreadable(text)):
            raise ProtocolViolation(
                f"{location} can't be read as a list: {reason}", side=self._side
            )
        return text

    def _no_object(self, location: Location) -> RelayError:
        return NotFound(
            f"{location} is a list of objects, and none itself", side=self._side, hint=_RECURSIVE
        )


_RECURSIVE = "A list is moved as a tree: -r in the terminal, `recursive` in a request."


def entries(lines: Iterator[str]) -> Iterator[Entry]:
    """Return what a list names. What it is shows in its first line: Google's own word, or a CSV's
    `url` column."""
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
    """Yield the rows of a CSV file, each of which is one line: no URL and no name that can be moved
    has two."""
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
            wrong = wrong or (None if len(cells) == len(columns) else "it has other columns")
            yield _entry(number, dict(zip(columns, cells, strict=False)), wrong)


def _cells(line: str) -> list[str] | None:
    """Return the cells of one line of a CSV file (RFC 4180), or None where its quotes don't
    match."""
    try:
        return [
            cell.strip()
            for row in csv.reader([line], strict=True, skipinitialspace=True)
            for cell in row
        ]
    except csv.Error:
        return None


def _unreadable(line: str) -> str | None:
    """Return why a line is none that a list may have, or None."""
    if len(line) > LINE_BYTES:
        return f"it has more than {LINE_BYTES} bytes"
    if "\0" in line or not line.isascii() and any("\udc80" <= char <= "\udcff" for char in line):
        return "it is no text in UTF-8"
    return None


def _entry(number: int, row: Mapping[str, str], wrong: str | None = None) -> Entry:
    """Return what a line names; one that can't be used under its number, with the reason."""
    try:
        if wrong is not None:
            raise InvalidURL(wrong)
        location = parse_location(row.get("url", ""))
        if "#" in row["url"]:  # a part of a name, of which the server would never hear
            raise InvalidURL(
                "the URL has a '#' in it, and nothing behind that is sent", hint=FRAGMENT_HINT
            )
        size = count(row.get("size"))
        if size is None and row.get("size"):
            raise InvalidURL("its size is no number of bytes")
        digests = _digests(row)
        name = row.get("name") or _name(location)
        if name.endswith("/"):
            raise InvalidURL("its name is that of a folder")
    except RequestError as error:
        error.message = f"line {number} of the list: {error.message}"
        return Entry(f"line {number}", error=error)
    return Entry(name, size, url=row["url"], digests=digests)


def _name(location: Location) -> str:
    """Return the host and the path. A query that is more than a signature is told apart by a few
    letters of it."""
    path = location.path.lstrip("/")
    if not path or path.endswith("/"):
        raise InvalidURL("the URL names no object: its path is empty, or ends in '/'")
    host = (
        location.host
        if location.host_header == location.host
        else location.host_header.replace(":", "_")
    )
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
        with suppress(ValueError):  # binascii.Error is one
            if len(value := read(text)) == width:
                return value
    return None
