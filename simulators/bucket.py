"""A bucket of very many objects that can only be listed: S3's ListObjectsV2, and nothing else.

The objects are not stored: the n-th key, its size and its entity tag follow from n, and keys are in
the order of their bytes, so that a page costs the same at any position. Any signature is
accepted."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Thread
from typing import Any, Final, Self, overload
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

FOLDER: Final = 1000
"""The number of objects in each folder."""
PAGE: Final = 1000
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


class Keys(Sequence[str]):
    """The keys, in the order of their bytes."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return f"photos/{index // FOLDER:06}/IMG_{index % FOLDER:04} & more.jpg"


def size_of(index: int) -> int:
    """Return the size of the n-th object in bytes."""
    return (index * 2_654_435_761) % 5_000_000


def etag_of(index: int) -> str:
    """Return the entity tag of the n-th object, without its quotes."""
    # An odd factor maps the numbers below 2^128 one to one, so each tag is unique.
    return f"{(index + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"


class Bucket:
    """A listing server on a port, from construction until `stop`. Raises OSError when the port is
    taken."""

    def __init__(
        self, objects: int, port: int = 0, bind: str = "127.0.0.1", page_seconds: float = 0.0
    ) -> None:
        """`page_seconds` is the time that each page takes besides its own computation."""
        self.keys = Keys(objects)
        self._server = ThreadingHTTPServer((bind, port), _answer_class(self.keys, page_seconds))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._bind = bind
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def url(self) -> str:
        """Return the endpoint."""
        return f"http://{self._bind}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer_class(keys: Keys, page_seconds: float) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802 - the name that the library asks for
            parts = urlsplit(self.path)
            asked = {
                name: values[0]
                for name, values in parse_qs(parts.query, keep_blank_values=True).items()
            }
            time.sleep(page_seconds)
            listing = asked.get("list-type") == "2" and parts.path.count("/") <= 2
            data = (
                page(keys, parts.path.strip("/"), asked).encode()
                if listing
                else b"<Error><Code>NotImplemented</Code></Error>"
            )
            self.send_response(200 if listing else 501)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_HEAD(self) -> None:  # noqa: N802 - the name that the library asks for
            bucket = self.path.count("/") <= 2 and "?" not in self.path
            self.send_response(200 if bucket else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    return Answer


def page(keys: Keys, bucket: str, asked: dict[str, str]) -> str:
    """Return one page of the listing, as the API reference of ListObjectsV2 has it."""
    most = min(int(asked.get("max-keys") or PAGE), PAGE)
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    start = bisect_left(keys, prefix)
    if "continuation-token" in asked:
        start = max(start, int(asked["continuation-token"]))
    elif asked.get("start-after"):
        after = asked["start-after"]
        start = max(start, bisect_right(keys, after))
    found = list(islice(_rows(keys, prefix, delimiter, start), most))
    rows, following = [row for row, _ in found], found[-1][1] if found else start
    rest = following < len(keys) and keys[following].startswith(prefix)
    code = quote if asked.get("encoding-type") == "url" else escape
    token = f"<NextContinuationToken>{following}</NextContinuationToken>" if rest else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult'
        f' xmlns="{_NAMESPACE}"><Name>{escape(bucket)}</Name>'
        f"<Prefix>{code(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount><MaxKeys>{most}</MaxKeys>"
        + ("<EncodingType>url</EncodingType>" if code is quote else "")
        + f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated>{token}"
        + "".join(_row(keys, row, code) for row in rows)
        + "</ListBucketResult>"
    )


def _rows(keys: Keys, prefix: str, delimiter: str, start: int) -> Iterator[tuple[int | str, int]]:
    """Yield objects by their numbers and folders by their names, each with the position after
    it."""
    while start < len(keys) and keys[start].startswith(prefix):
        key = keys[start]
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        if end < 0:
            start += 1
            yield start - 1, start
        else:
            folder = key[: end + 1]
            # The position after all keys of the folder: theirs sort before this text.
            start = bisect_left(keys, folder[:-1] + chr(ord(folder[-1]) + 1))
            yield folder, start


def _row(keys: Keys, row: int | str, code: Any) -> str:
    if isinstance(row, str):
        return f"<CommonPrefixes><Prefix>{code(row)}</Prefix></CommonPrefixes>"
    return (
        f"<Contents><Key>{code(keys[row])}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
        f"<ETag>&quot;{etag_of(row)}&quot;</ETag><Size>{size_of(row)}</Size><StorageClass>STANDARD</StorageClass>"
        "</Contents>"
    )
