"""A Location: where one object lives, parsed once and strictly.

Decided here: which URLs are acceptable, and how a Location prints. Never here: whether an address
may be dialled (`egress.py`), when two Locations are one object (`identity.py`), and any second
parser. We dial `host` and `port` of the Location ourselves and send `target`
unchanged, so the connection goes to the checked address.

Why not `urlsplit` and not urllib3: they disagree about `http://127.0.0.1\\@evil.com/` and delete or
keep a tab, and `requests` rewrites `%7E`, `%zz`, `|` and `..`, which breaks signatures and folds
two keys into one. The grammar below is RFC 3986 for http and https, less everything that two
readers could take differently, plus the visible ASCII characters that stores' own presigned URLs
are known to carry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

from relay.errors import (
    CredentialsInURL,
    InvalidType,
    InvalidURL,
    RequestError,
    UnsafeKey,
    UnsupportedScheme,
    URLTooLong,
)
from relay.headers import Headers, parse_headers
from relay.hosts import is_host_name, literal_address
from relay.parsing import UNSAFE_CHARACTERS

URL_BYTES: Final = 8 * 1024
DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
UPLOAD_METHODS: Final = frozenset({"PUT", "POST"})

KEYED: Final = frozenset({"s3"})
"""The stores whose keys are plain texts: an empty segment is a name like any other there."""

DECODINGS: Final = 4
"""How often a path is percent-decoded: each server and proxy on its way may do it once."""

SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PARTS: Final = re.compile(
    r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?", re.S
)
_REFUSED: Final = re.compile(r"[^!-\[\]-~]")  # all but visible ASCII, and the backslash
# A name that needs no quoting, and that no server folds onto another: no segment begins with '.',
# or is empty.
_PLAIN_NAME: Final = re.compile(
    r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*+"
)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
FRAGMENT_HINT: Final = "Write a '#' in a name as %23, or leave out what begins with it."
_FRAGMENT: Final = re.compile(r"(?:list\+)?(?:https?|webdav(?:\+https)?)://[^#]*#", re.I)
"""A URL with a fragment; after other schemes a '#' is an ordinary character."""


class Origin(NamedTuple):
    """The origin of a URL (RFC 6454): connections and credentials belong to one."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """'https://host[:port]', the default port left out and IPv6 in brackets."""
        return f"{self.scheme}://{_authority_of(self)}"


class Account(Protocol):
    """Access to one location of a store, with its secrets. Only that store reads its content."""

    @property
    def store(self) -> str:
        """The store's name in the table of stores."""

    @property
    def owner(self) -> str:
        """The owner of the account, if it is known without the headers: part of the identity of a
        migration."""

    def printed_form(self, path: str) -> str:
        """Return the printed form of a path at this place, without secrets."""

    def check(self, path: str) -> None:
        """Raise UnsafeKey for the path of a destination that is too long for this store, or that it
        reserves."""


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """One object's address, with the caller's headers.

    `host` is lower-case ASCII, IPv6 without brackets. `target` is the path and the query, byte for
    byte as they were given. `headers`, the query and `url` are secret: a presigned URL is a
    password. Printing a Location leaves them out; a token in the *path* stays readable, for it
    can't be distinguished from a name."""

    scheme: str
    host: str
    port: int
    target: str
    _: KW_ONLY
    method: str | None = None
    headers: Headers = ()
    account: Account | None = None
    """None for a plain HTTP server."""
    origin: Origin = field(init=False, compare=False)
    """The scheme, host and port."""
    path: str = field(init=False, compare=False)
    """The target up to its '?', as given."""
    store: str = field(init=False, compare=False)
    """The name of its store."""

    def __post_init__(self) -> None:
        """Derive what every object needs a dozen times."""
        object.__setattr__(self, "origin", Origin(self.scheme, self.host, self.port))
        object.__setattr__(self, "path", self.target.partition("?")[0])
        object.__setattr__(self, "store", self.account.store if self.account else "http")

    @property
    def url(self) -> str:
        """The whole URL. SECRET: never in a log, an error or an answer."""
        return f"{self.origin}{self.target}"

    @property
    def query(self) -> str:
        """The target after its '?', as given. SECRET."""
        return self.target.partition("?")[2]

    @property
    def name(self) -> str:
        """The last path segment, percent-decoded; '' if the path ends in '/'.

        A segment that is not UTF-8 stays percent-encoded. `relay.file_names.safe_name` says if it
        is usable."""
        segment = self.path.rpartition("/")[2]
        try:
            return unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            return segment

    @property
    def host_header(self) -> str:
        """The value of the Host header (RFC 9110 §7.2)."""
        return _authority_of(self.origin)

    def with_target(self, target: str) -> Location:
        """Return this Location with another target, which may have dot segments. Raises InvalidURL
        or UnsafeKey if it cannot be sent."""
        _check_characters(target, path_end=len(target.partition("?")[0]))
        if not target.startswith("/") or "#" in target:
            raise InvalidURL("a target begins with '/' and has no fragment")
        return self._with_checked_target(target)

    def object_named(self, name: str) -> Location:
        """Return the object `name` inside this folder: the path must end in '/'; the query is kept.

        Raises UnsafeKey for a name that is empty, '.' or '..', or holds a separator or a control
        character."""
        assert self.path.endswith("/"), "only a folder can be given a name"
        if name == "" or "/" in name or UNSAFE_CHARACTERS.search(name):
            raise UnsafeKey("the object's name is empty, or has a '/' or a control character in it")
        path = self.path + quote(name, safe="")
        check_path(path, destination=True, keyed=self.store in KEYED)
        return replace(self, target=path + self.target[len(self.path) :]).as_destination()

    def below(self, name: str, *, destination: bool = False) -> Location:
        """Return the object `name` ('folder/object') anywhere below this folder: the path must end
        in '/'; the query is kept.

        Raises UnsafeKey for a name that would not stay below it, or that servers may fold onto
        another one."""
        base, keyed = self.path, self.store in KEYED
        assert base.endswith("/"), "only a folder has something below it"
        # As nearly all are: nothing to quote, nothing to check but the folder.
        if _PLAIN_NAME.fullmatch(name):
            _check_folder(base, destination, keyed)
            there = self._with_checked_target(base + name + self.target[len(base) :])
            return there.as_destination() if destination else there
        if name == "" or (name.startswith("/") and not keyed) or UNSAFE_CHARACTERS.search(name):
            raise UnsafeKey(
                "the object's name is empty, begins with '/', or has a character in it that is not"
                " safe"
            )
        path = base + quote(name, safe="/")
        check_path(path, destination=destination, keyed=keyed)
        there = self._with_checked_target(path + self.target[len(base) :])
        return there.as_destination() if destination else there

    def _with_checked_target(self, target: str) -> Location:
        """Return this Location with another target, already checked. (`replace` costs three times
        as much.)"""
        return Location(
            self.scheme,
            self.host,
            self.port,
            target,
            method=self.method,
            headers=self.headers,
            account=self.account,
        )

    def as_destination(self) -> Location:
        """Return this Location, if its store can hold an object of this name. Raises UnsafeKey."""
        if self.account is not None:
            self.account.check(self.path)
        return self

    def folder(self) -> Location:
        """Return this Location as a folder: its path ends in '/'."""
        path = self.path if self.path.endswith("/") else f"{self.path}/"
        return self._with_checked_target(path + self.target[len(self.path) :])

    def __str__(self) -> str:
        """Return the URL without its secrets: no query, no headers."""
        if self.account is not None:
            return self.account.printed_form(self.path)
        return f"{self.origin}{self.path}" + ("?…" if "?" in self.target else "")

    @property
    def in_full(self) -> str:
        """The printed form, with the endpoint of a bucket that is not at AWS: another endpoint may
        have a bucket of that name."""
        endpoint = getattr(self.account, "own_endpoint", "")
        return f"{self} at {endpoint}" if endpoint else str(self)

    def __repr__(self) -> str:
        """Return `<Location …>` with the same text as `str`."""
        return f"<Location {self}>"


def parse_location(
    text: str,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    pointer: str | None = None,
    destination: bool = False,
    limit_bytes: int = URL_BYTES,
) -> Location:
    """Read one absolute http or https URL; the fragment is dropped, the rest kept byte for byte.

    No fragment is ever sent (RFC 9110 section 7.1): a destination with one is refused, since it is
    mostly a part of a name, and `img#1.jpg` and `img#2.jpg` would overwrite each other.
    `destination` adds the rules for names that are *written* (`check_path`). `pointer` is where the
    URL stands in the request ('/source' or '/source/url'), and every error carries it. Raises a
    RequestError: UnsupportedScheme, InvalidURL, CredentialsInURL, URLTooLong, UnsafeKey,
    InvalidType (the method), and what `parse_headers` raises. No error repeats any part of the URL
    but its scheme."""
    # In a request, the method and the headers are beside the `url`.
    parent = None if pointer is None else pointer.removesuffix("/url")
    if method is not None and method not in UPLOAD_METHODS:
        where = None if parent is None else f"{parent}/method"
        raise InvalidType(
            "the method of an upload is PUT or POST", hint="Use PUT or POST.", pointer=where
        )
    checked = parse_headers(headers, None if parent is None else f"{parent}/headers")
    try:
        scheme, host, port, target = _parse(text, destination, limit_bytes)
    except RequestError as error:
        error.pointer = pointer
        raise
    return Location(scheme, host, port, target, method=method, headers=checked)


def has_fragment(text: str) -> bool:
    """Return whether a location has a fragment, which is never sent to a server (RFC 9110 section
    7.1)."""
    return _FRAGMENT.match(text) is not None


def is_base(url: str) -> bool:
    """Return whether names can be joined to a URL: behind a query or a fragment they would not
    belong to the path, and all of them would be one object."""
    return "?" not in url and "#" not in url


def check_path(path: str, *, destination: bool, keyed: bool = False) -> None:
    """Raise UnsafeKey for a path that servers and proxies fold onto another one.

    For both sides: '.' and '..' segments, percent-encoded ones too, between slashes of any kind,
    and with the ';parameter' that Java servers cut off. For a destination also: backslashes, and
    control or bidi characters, all of them also percent-encoded. Unless its names are `keyed`:
    empty segments, and '.' and '..' percent-encoded more than once, since each proxy may decode
    a path."""
    decoded = unquote_to_bytes(path)
    if _has_dot_segment(decoded):
        raise UnsafeKey("the path has a '.' or '..' segment, plain or percent-encoded")
    if not destination:
        return
    if b"\\" in decoded:
        raise UnsafeKey("the path has a backslash, plain or percent-encoded")
    if b"%" in decoded and not keyed and _has_hidden_dots(decoded):
        raise UnsafeKey("the path has a '.' or '..' segment, percent-encoded more than once")
    if b"" in decoded.split(b"/")[1:-1] and not keyed:
        raise UnsafeKey("the path has an empty segment")
    if UNSAFE_CHARACTERS.search(decoded.decode(errors="replace")):
        raise UnsafeKey("the path has a control or bidi character in it")


def _has_dot_segment(path: bytes) -> bool:
    pieces = re.split(rb"[/\\]", path)
    return any(piece.partition(b";")[0] in (b".", b"..") for piece in pieces)


def _has_hidden_dots(path: bytes) -> bool:
    """Return whether servers that decode a path again may see a '.' or '..' segment."""
    for _ in range(DECODINGS - 1):
        path = unquote_to_bytes(path)
        if _has_dot_segment(path):
            return True
    return False


@lru_cache(maxsize=256)
def _check_folder(path: str, destination: bool, keyed: bool) -> None:
    """As `check_path`, for a folder; cached, since thousands of objects have the same one."""
    check_path(path, destination=destination, keyed=keyed)


# -- the parse
# -----------------------------------------------------------------------------------------------


def _parse(text: str, destination: bool, limit_bytes: int) -> tuple[str, str, int, str]:
    if len(text) > limit_bytes:
        raise URLTooLong(f"the URL has {len(text)} characters; the limit is {limit_bytes}")
    scheme = _scheme(text)
    rest = text[len(scheme) + 3 :]
    parts = _PARTS.fullmatch(rest)
    assert parts is not None, "the pattern has a place for every character"
    authority, path, query, fragment = parts.group("authority", "path", "query", "fragment")
    _check_characters(rest, path_start=parts.start("path"), path_end=parts.end("path"))
    if fragment is not None and not path and query is None:
        raise InvalidURL("a '#' follows the host directly")  # http://evil.com#@127.0.0.1
    if fragment is not None and destination:
        raise InvalidURL(
            "the URL has a '#', and the part after it would not be sent", hint=FRAGMENT_HINT
        )
    host, port = _host_and_port(authority, DEFAULT_PORTS[scheme])
    check_path(path, destination=destination)
    return scheme, host, port, (path or "/") + (query or "")


def _scheme(text: str) -> str:
    head, colon, rest = text.partition(":")
    if not colon or re.search(r"[/?#]", head):
        raise InvalidURL("the URL is not absolute")
    if head.lower() not in DEFAULT_PORTS:
        # Repeat a scheme only if it can't be anything else: 'user:password@host' begins like one.
        if rest.startswith("//") and len(head) <= 20 and SCHEME.fullmatch(head + ":"):
            raise UnsupportedScheme(f"the scheme {head!r} is not supported")
        raise UnsupportedScheme("the scheme is not supported")
    if not rest.startswith("//"):
        raise InvalidURL("'//' must follow the scheme")
    return head.lower()


def _check_characters(text: str, path_start: int = 0, path_end: int = 0) -> None:
    found = _REFUSED.search(text)
    if found is None:
        return
    if found.group() == "\\" and path_start <= found.start() < path_end:
        raise UnsafeKey("the path has a backslash, plain or percent-encoded")
    raise InvalidURL(f"the URL has U+{ord(found.group()):04X} in it, which must be percent-encoded")


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    userinfo, at, authority = authority.rpartition("@")
    if at:
        _refuse_userinfo(userinfo)
    host, bracket, tail = authority.partition("]")
    if authority.startswith("["):
        if not bracket or "%" in host or literal_address(host[1:]) is None or ":" not in host:
            raise InvalidURL("the text in brackets is not an IPv6 address, or has a zone")
        return host[1:].lower(), _port(tail, default)
    host, colon, digits = authority.partition(":")
    if not is_host_name(host.lower()):
        hint = (
            "Use labels of 1 to 63 letters, digits and hyphens, 253 in all; for other scripts"
            " punycode."
        )
        raise InvalidURL("the host is missing, or is not a name or an address", hint=hint)
    return host.lower(), _port(colon + digits, default)


def _refuse_userinfo(userinfo: str) -> None:
    # http://evil.com%2f@127.0.0.1 and http://a@b@c have no user; they target the differences
    # between parsers.
    if "@" in userinfo or (":" not in userinfo and re.search(r"%(?:2f|5c|23|3f)", userinfo, re.I)):
        raise InvalidURL("there is an '@' before the host that can be read in two ways")
    raise CredentialsInURL("the URL has a user name or a password in it")


def _port(text: str, default: int) -> int:
    if text == "":
        return default
    if not text.startswith(":") or not _PORT.fullmatch(text, 1) or int(text[1:]) > 65535:
        raise InvalidURL("the port is not a number from 1 to 65535 without leading zeros")
    return int(text[1:])


@lru_cache(maxsize=1024)
def _authority_of(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == DEFAULT_PORTS.get(origin.scheme) else f"{host}:{origin.port}"
