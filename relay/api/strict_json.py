"""Parse one JSON object of a request's body, or refuse it with one clear error.

Decided here: how much of a body is read, for how long, and which JSON is valid. Never here: the
meaning of members.

It is strict because two parsers may read one body differently: one checks it, and the other acts on
it. `json.loads` alone takes the last of two equal members, NaN, infinity, and half of a surrogate
pair."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import gevent
from gunicorn.http.errors import ParseException

from relay.errors import (
    DuplicateMember,
    JsonTooDeep,
    MalformedRequest,
    RequestError,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)

DEPTH_LIMIT = 20
BRACKETS_LIMIT = 1000
"""Objects and arrays in one body. A normal request has five; a limit keeps the parse short on the
hub."""
MEMBERS_LIMIT = 1000
"""Members of one object. A normal request has a hundred headers at most, and each wrong member
costs microseconds."""
STEP_BYTES = 4096
"""Number of bytes that are read at once. Chunks of one byte cost microseconds each, and other
greenlets need the hub between them."""
EXACT = 2**53
"""Integers below it are exact as floats (RFC 8259 section 6)."""
BODY_READ = "relay.body_read"
"""Key of the environ that is set when the body was read to its end: only then may the connection
carry another request."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MEDIA_TYPE = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.I)


def read_object(environ: dict[str, Any], limit_bytes: int, seconds: float) -> Mapping[str, Any]:
    """Return the request's JSON object. Raises a RequestError."""
    _check_declared(environ)
    raw = read_body(environ, limit_bytes, seconds)
    value = parse(raw)
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", pointer="")
    return value


def parse(raw: bytes) -> Any:
    """Parse strict JSON (RFC 8259, and RFC 7493 on duplicates and surrogates). Raises a
    RequestError."""
    text = _text_of(raw)
    if raw.count(b"[") + raw.count(b"{") > BRACKETS_LIMIT:
        raise JsonTooDeep(f"the JSON has more than {BRACKETS_LIMIT} opening brackets")
    try:
        value = json.loads(
            text, object_pairs_hook=_members, parse_constant=_constant, parse_float=_float
        )
        # UTF-8 can't hold a surrogate, so only an escape brings one. Two halves that belong
        # together are one character now; the encoder refuses any other.
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedRequest("a string holds half of a surrogate pair") from None
    except RecursionError:
        raise JsonTooDeep(f"the JSON is nested deeper than {DEPTH_LIMIT} levels") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(
            f"{error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:  # an integer of more than 4,300 digits, which Python refuses to convert
        raise MalformedRequest("a number has too many digits") from None
    _check_depth(value)
    return value


# -- the declaration, and the bytes


def check_media_type(environ: Mapping[str, Any]) -> None:
    """Raise UnsupportedMediaType for a request without content that names another type than JSON,
    as forms do."""
    if environ.get("CONTENT_TYPE", "").strip():
        _check_declared(environ)


def _check_declared(environ: Mapping[str, Any]) -> None:
    if not _MEDIA_TYPE.fullmatch(environ.get("CONTENT_TYPE", "").strip()):
        raise UnsupportedMediaType("the Content-Type is not application/json in UTF-8")
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("a request body with a Content-Encoding is not taken")


def announced_length(environ: Mapping[str, Any]) -> int | None:
    """Return the announced length of the body: 0 if it has no body, None if it comes in chunks."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None
    text = environ.get("CONTENT_LENGTH") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MalformedRequest("the Content-Length is not a number")
    return int(text)


def read_body(environ: dict[str, Any], limit_bytes: int, seconds: float) -> bytes:
    """Return the whole body of a request. Raises a RequestError: RequestTooLarge, RequestTimeout,
    MalformedRequest."""
    length = announced_length(environ)
    if length is not None and length > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    # The deadline raises inside gunicorn's read, which notices, and closes the connection after the
    # answer. This frame keeps no name for the error, whose traceback has the frame: that cycle
    # would keep the whole request until a collection of garbage.
    with gevent.Timeout(seconds, RequestTimeout(f"the body did not arrive within {seconds:g} s")):
        try:
            for piece in _pieces(environ["wsgi.input"], length):
                body += piece
                if len(body) > limit_bytes:
                    raise _too_large(limit_bytes)
        except ParseException:
            raise MalformedRequest("the body is not framed as HTTP/1.1 requires") from None
        except OSError:
            raise MalformedRequest("the body broke off") from None
    if length is not None and len(body) != length:
        raise MalformedRequest(f"the body ended after {len(body)} of {length} bytes")
    environ[BODY_READ] = True
    return bytes(body)


def _pieces(stream: Any, length: int | None) -> Iterator[bytes]:
    # A chunked body has no length: gunicorn's stream returns b"" at its end.
    left = STEP_BYTES if length is None else length
    while left and (piece := stream.read(min(left, STEP_BYTES))):
        yield piece
        left = left if length is None else left - len(piece)
        gevent.sleep(0)


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than {limit_bytes} bytes")


# -- the document


def _text_of(raw: bytes) -> str:
    if not raw.strip():
        raise MalformedRequest("the body is empty")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise MalformedRequest("the body begins with a byte order mark")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise MalformedRequest("the body is not UTF-8") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MEMBERS_LIMIT:  # before anything is done for each
        raise RequestTooLarge(f"a JSON object has more than {MEMBERS_LIMIT} members")
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise DuplicateMember(f"the member {twice[:64]!a} is repeated in one object")


def _constant(name: str) -> NoReturn:
    raise MalformedRequest(f"{name} is not JSON")


def _float(text: str) -> float | int:
    """Return a number with a fraction or an exponent: 70.0 is the integer 70 (JSON Schema 2020-12
    section 4.2.2), as far as a float is exact."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise MalformedRequest("a number is too large")
    return int(value) if value.is_integer() and abs(value) < EXACT else value


def _check_depth(value: Any) -> None:
    # Level by level, without recursion: the parser may have accepted hundreds of levels.
    level = _containers([value])
    for _ in range(DEPTH_LIMIT):
        level = [item for outer in level for item in _containers(outer)]
        if not level:
            return
    raise JsonTooDeep(f"the JSON is nested deeper than {DEPTH_LIMIT} levels")


def _containers(outer: dict[str, Any] | list[Any]) -> list[Any]:
    items = outer.values() if isinstance(outer, dict) else outer
    return [item for item in items if isinstance(item, dict | list)]
