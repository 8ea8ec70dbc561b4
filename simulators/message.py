"""A request as received, and the parts of HTTP that both clouds read: ranges, conditions, wanted
digests.

Pure: bytes and strings in, values out. Strict wherever parsers could disagree (RFC 9112, request
smuggling), since relay's own requests are under test."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Final, Literal
from urllib.parse import parse_qsl

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_WANT: Final = re.compile(r"\s*([a-z0-9-]+)\s*(?:=\s*(\d+))?\s*")

Framing = Literal["length", "chunked", "close"]


class BadRequest(Exception):
    """The bytes are not a request that the server answers; `status` is the reason."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One request head. `path` is as it was sent, without the query; `minor` is the 1.x of its
    version."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Sequence[tuple[str, str]]
    minor: int

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """The fields by lower-case name, repeated ones joined by a comma (RFC 9110 §5.3)."""
        joined: dict[str, str] = {}
        for name, value in self.headers:
            key = name.lower()
            joined[key] = f"{joined[key]}, {value}" if key in joined else value
        return joined

    def get(self, name: str) -> str | None:
        """Return the value of the lower-case field `name`."""
        return self.fields.get(name)

    def without(self, name: str) -> Request:
        """Return the request without the lower-case field `name`."""
        return replace(self, headers=[pair for pair in self.headers if pair[0].lower() != name])

    @property
    def is_kept_open(self) -> bool:
        """Whether the client keeps the connection open (RFC 9112 §9.3)."""
        options = (self.get("connection") or "").lower()
        return "keep-alive" in options if self.minor == 0 else "close" not in options


def parse_request(head: bytes) -> Request:
    """Parse a head without its empty line. Raises BadRequest."""
    first, *rest = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise BadRequest(400, "not an HTTP/1 request line")
    headers = []
    for text in rest:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise BadRequest(400, "not a header field")
        headers.append((field[1].decode("ascii"), field[2].decode("utf-8", "surrogateescape")))
    path, _, query = line[2].decode("utf-8", "surrogateescape").partition("?")
    if path.startswith(("http://", "https://")):  # absolute-form, RFC 9112 §3.2.2
        path = "/" + path.split("/", 3)[3] if path.count("/") >= 3 else "/"
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    return Request(line[1].decode("ascii"), path, pairs, headers, int(line[3]))


def body_length(request: Request) -> int | None:
    """Return the promised bytes of a request body, None when chunked (RFC 9112 §6). Raises
    BadRequest."""
    coding, length = request.get("transfer-encoding"), request.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "both Content-Length and Transfer-Encoding")
        if coding.strip().lower() != "chunked":
            raise BadRequest(501, "a transfer coding other than chunked")
        return None
    if length is None:
        raise BadRequest(411, "Content-Length or chunked is needed")
    if not _DIGITS.fullmatch(length):
        raise BadRequest(400, "not a Content-Length")
    return int(length)


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """Return (offset, length) of a single byte range, None for a whole answer (RFC 9110 §14.1.2).

    Raises BadRequest 416 if no byte of it exists. Several ranges get the whole object, which a
    server may send."""
    match = _RANGE.fullmatch(value.replace(" ", "")) if value else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise BadRequest(416, "an empty suffix")
        return size - length, length
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    # A server may ignore an invalid range (RFC 9110 section 14.2).
    if match[2] and last < first:
        return None
    if first >= size:
        raise BadRequest(416, "beyond the end")
    return first, min(last, size - 1) - first + 1


def if_match_fails(request: Request, etag: str | None) -> bool:
    """Whether If-Match forbids the request; strong comparison, `etag` None for an absent object
    (§13.1.1)."""
    wanted = request.get("if-match")
    if wanted is None:
        return False
    if wanted.strip() == "*":
        return etag is None
    return etag is None or etag.startswith("W/") or etag not in _tags(wanted)


def if_none_match_fails(request: Request, etag: str | None) -> bool:
    """Whether If-None-Match forbids the request; weak comparison (RFC 9110 §13.1.2)."""
    unwanted = request.get("if-none-match")
    if unwanted is None or etag is None:
        return False
    bare = etag.removeprefix("W/")
    return unwanted.strip() == "*" or bare in [tag.removeprefix("W/") for tag in _tags(unwanted)]


def modified_since(value: str | None, modified: str) -> bool | None:
    """Whether `modified` is later than the date of the field; None when the field is absent or not
    a date."""
    try:
        return (
            None
            if value is None
            else parsedate_to_datetime(modified) > parsedate_to_datetime(value)
        )
    except (ValueError, TypeError):
        return None


def range_holds(request: Request, etag: str | None, modified: str) -> bool:
    """Whether If-Range, if present, permits a range; only strong validators do (§13.1.5)."""
    condition = request.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == etag and not condition.startswith("W/")
    return condition == modified


def wanted_digests(request: Request) -> list[str]:
    """Names in Want-Repr-Digest whose preference is not 0 (RFC 9530 §4)."""
    items = (_WANT.fullmatch(item) for item in (request.get("want-repr-digest") or "").split(","))
    return [item[1] for item in items if item is not None and item[2] != "0"]


def repr_digest(digests: Mapping[str, str]) -> str:
    """Write hex digests as the value of Repr-Digest: each as a byte sequence, big-endian (RFC 9530
    §3)."""
    pairs = (
        (name, base64.b64encode(bytes.fromhex(text)).decode()) for name, text in digests.items()
    )
    return ", ".join(f"{name}=:{text}:" for name, text in pairs)


def _tags(value: str) -> list[str]:
    return re.findall(r'(?:W/)?"[^"]*"', value)
