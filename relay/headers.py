"""Headers that a caller may send along with a location.

Decided here: which of them can be sent safely, and which relay sets itself. Never here: the values
that relay sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from relay.errors import ForbiddenHeader, InvalidHeader

Headers = tuple[tuple[str, str], ...]

COUNT_LIMIT: Final = 100
VALUE_BYTES: Final = 8 * 1024
NAME_BYTES: Final = 256

# A token, RFC 9110 §5.6.2. Servers disagree on anything else, and a colon or a space in a name is
# smuggling.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Visible ASCII and Latin-1 with single or many spaces inside. RFC 9110 §5.5 also has HTAB, which no
# field needs.
_VALUE: Final = re.compile(r"[!-~\xa1-\xff](?:[ -~\xa1-\xff]*[!-~\xa1-\xff])?")

_FRAMING: Final = "it frames the message, and a second opinion on that is request smuggling"
_HOP: Final = "it belongs to one connection, and the connection is relay's"
_RANGE: Final = "relay chooses which bytes it reads"
_PRECONDITION: Final = "relay pins the version itself"
_DIGEST: Final = "relay computes and asks for digests itself"
_FORWARDED: Final = "it names a forwarding proxy, and this request was not forwarded"
_METHOD: Final = "it turns one method into another"
_WEBDAV: Final = "it belongs to a WebDAV request that relay composes"

FORBIDDEN: Final[Mapping[str, str]] = {
    "host": "relay takes it from the URL, which the address policy has checked",
    "content-length": _FRAMING,
    "transfer-encoding": _FRAMING,
    "trailer": _FRAMING,
    "content-range": _FRAMING,
    "connection": _HOP,
    "keep-alive": _HOP,
    "te": _HOP,
    "upgrade": _HOP,
    "http2-settings": _HOP,
    "expect": _HOP,
    "max-forwards": _HOP,
    "range": _RANGE,
    "accept-encoding": "relay moves the bytes as they are stored",
    "if-range": _PRECONDITION,
    "if-match": _PRECONDITION,
    "if-none-match": _PRECONDITION,
    "if-modified-since": _PRECONDITION,
    "if-unmodified-since": _PRECONDITION,
    "repr-digest": _DIGEST,
    "content-digest": _DIGEST,
    "digest": _DIGEST,
    "want-repr-digest": _DIGEST,
    "want-content-digest": _DIGEST,
    "want-digest": _DIGEST,
    "cookie": (
        "relay keeps no session with a store; send an Authorization header or a presigned URL"
    ),
    "set-cookie": "only a server sends it",
    "forwarded": _FORWARDED,
    "via": _FORWARDED,
    "x-real-ip": _FORWARDED,
    "x-http-method": _METHOD,
    "x-http-method-override": _METHOD,
    "x-method-override": _METHOD,
    "destination": _WEBDAV,
    "overwrite": _WEBDAV,
    "depth": _WEBDAV,
}
FORBIDDEN_PREFIXES: Final[Mapping[str, str]] = {
    "proxy-": "it is for a proxy, and relay speaks to the store itself",
    "x-forwarded-": _FORWARDED,
}
# Content-Encoding and Content-MD5 are free on purpose: the first is the object's metadata (relay
# sends the bytes untouched), the second may be part of a presigned URL's signature.


_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


def is_idempotency_key(text: str) -> bool:
    """Return whether a text is 1 to 255 visible ASCII characters, with spaces between them."""
    return _KEY.fullmatch(text) is not None


def parse_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    pointer: str | None = None,
    *,
    count_limit: int = COUNT_LIMIT,
    value_bytes: int = VALUE_BYTES,
) -> Headers:
    """Check the caller's headers and return them in order; `pointer` is their place in the request.
    Raises InvalidHeader for a name that is not a token, a value that is not visible Latin-1, a
    repeated name, too many headers or too many bytes; ForbiddenHeader for a header that relay sets
    itself. The error never has a value, nor a name that is not a token: it may be a whole
    'Authorization: …' line, pasted in the wrong place."""
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    if len(pairs) > count_limit:
        raise InvalidHeader(f"{len(pairs)} headers; the limit is {count_limit}", pointer=pointer)
    seen: set[str] = set()
    for name, value in pairs:
        _check_name(name, pointer)
        # RFC 6901 section 3; a token has no '/', which would be escaped too.
        here = None if pointer is None else f"{pointer}/{name.replace('~', '~0')}"
        if name.lower() in seen:
            raise InvalidHeader(
                f"{name!r} is repeated, and servers disagree on which value counts", pointer=here
            )
        seen.add(name.lower())
        _check_allowed(name, here)
        _check_value(name, value, value_bytes, here)
    return pairs


def _check_name(name: str, pointer: str | None) -> None:
    if not isinstance(name, str) or len(name) > NAME_BYTES or not _NAME.fullmatch(name):
        hint = (
            f"A name has 1 to {NAME_BYTES} letters, digits and hyphens, without a space or a colon."
        )
        raise InvalidHeader("the name of a header can't be sent", hint=hint, pointer=pointer)


def _check_allowed(name: str, pointer: str | None) -> None:
    # CGI-like servers fold '_' into '-', so 'Content_Length' would become the forbidden one behind
    # our back.
    folded = name.lower().replace("_", "-")
    reason = FORBIDDEN.get(folded)
    for prefix, why in FORBIDDEN_PREFIXES.items():
        if folded.startswith(prefix):
            reason = why
    if reason is not None:
        raise ForbiddenHeader(f"{name!r} can't be set here: {reason}", pointer=pointer)


def _check_value(name: str, value: str, value_bytes: int, pointer: str | None) -> None:
    if not isinstance(value, str):
        raise InvalidHeader(f"the value of {name!r} is not a string", pointer=pointer)
    if value == "":
        hint = "Leave the header out; an empty value is mostly a variable that was not set."
        raise InvalidHeader(f"the value of {name!r} is empty", hint=hint, pointer=pointer)
    if len(value) > value_bytes:
        message = f"the value of {name!r} has {len(value)} bytes; the limit is {value_bytes}"
        raise InvalidHeader(message, pointer=pointer)
    if not _VALUE.fullmatch(value):
        hint = (
            "Use visible ASCII or Latin-1 characters, no line breaks, and no spaces around the"
            " value."
        )
        raise InvalidHeader(
            f"the value of {name!r} cannot be sent as it is", hint=hint, pointer=pointer
        )
