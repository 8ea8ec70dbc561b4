"""Digests: computed while bytes pass, and read from and written to HTTP fields.

Decided here: the algorithms, their order of preference, and the three header fields that carry
them. Never here: when a digest is requested, or what it proves (`engine/transfer/verify.py`).

CRC64NVME and CRC32C cost 0.11 and 0.06 CPU-seconds a GiB, so they are always computed when the
bytes pass through the process. The others (SHA-1 0.65, SHA-256 0.70, MD5 1.7) are computed only
when a store offers nothing cheaper."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

Buffer = bytes | bytearray | memoryview


class _Running(Protocol):
    def update(self, data: Any, /) -> None: ...
    def digest(self) -> bytes: ...


class _CRC:
    """A CRC of `width` bytes with hashlib's interface; the digest is big-endian, as every store
    writes it."""

    __slots__ = ("_step", "_value", "_width")

    def __init__(self, step: Callable[[Any, int], int], width: int) -> None:
        self._step, self._width, self._value = step, width, 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width, "big")


@cache
def _crt() -> Any:
    """Return AWS's library, which takes 40 ms to load: a command that moves nothing does without
    it."""
    from awscrt import checksums  # noqa: PLC0415

    return checksums


@dataclass(frozen=True)
class Algorithm:
    """One digest algorithm: its name, the length of its value in bytes, its constructor, and
    whether it is cheap."""

    name: str
    width: int
    start: Callable[[], _Running]
    cheap: bool


ALGORITHMS: Mapping[str, Algorithm] = {
    a.name: a
    for a in (
        Algorithm("crc64nvme", 8, lambda: _CRC(_crt().crc64nvme, 8), True),
        Algorithm("crc32c", 4, lambda: _CRC(_crt().crc32c, 4), True),
        Algorithm("sha-256", 32, hashlib.sha256, False),
        Algorithm("sha-512", 64, hashlib.sha512, False),
        Algorithm("sha", 20, lambda: hashlib.sha1(usedforsecurity=False), False),
        Algorithm("md5", 16, lambda: hashlib.md5(usedforsecurity=False), False),
    )
}
"""Every algorithm that relay can compute, under its name in the IANA registry of RFC 9530 section
7.2 where it has one (`crc64nvme` has none yet; S3 uses that word), the preferred first."""

ALWAYS: tuple[str, ...] = tuple(a.name for a in ALGORITHMS.values() if a.cheap)
"""The algorithms that are computed whenever the bytes pass through the process."""

WANT = "crc64nvme=10, crc32c=9, sha-256=5, sha-512=4, md5=1"
"""Our `Want-Repr-Digest` (RFC 9530 section 4): cheap ones first, since all detect accidents equally
well."""

Digests = Mapping[str, bytes]
"""Digest values by algorithm name."""


class Digester:
    """Several digests of one sequence of bytes at once."""

    def __init__(self, names: Iterable[str] = ALWAYS) -> None:
        """Start one digest for each name. Raises KeyError for a name that is not in
        `ALGORITHMS`."""
        self._running = {name: ALGORITHMS[name].start() for name in dict.fromkeys(names)}
        self._values: dict[str, bytes] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the algorithms."""
        return tuple(self._running)

    def update(self, data: Buffer) -> None:
        """Add the next bytes. Costs at most about 2 ms for 1 MiB and each expensive algorithm."""
        self._values = None
        for running in self._running.values():
            running.update(data)

    def digests(self) -> Digests:
        """Return the digests of the bytes so far."""
        if self._values is None:
            self._values = {name: running.digest() for name, running in self._running.items()}
        return self._values


def empty_digest(name: str) -> bytes:
    """Return the digest of no bytes at all. Raises KeyError for a name that is not in
    `ALGORITHMS`."""
    return ALGORITHMS[name].start().digest()


def combine_crc64nvme(one: int, other: int, length: int) -> int:
    """Return the CRC64NVME of two pieces by those of each; `length` is that of the second in
    bytes."""
    combined: int = _crt().combine_crc64nvme(one, other, length)
    return combined


def compare(ours: Digests, theirs: Digests) -> tuple[str | None, tuple[str, ...]]:
    """Return the best algorithm in which both agree (or None), and every algorithm in which they
    differ."""
    if not ours or not theirs:
        return None, ()
    common = [name for name in ALGORITHMS if name in ours and name in theirs]
    differing = tuple(name for name in common if ours[name] != theirs[name])
    agreeing = next((name for name in common if name not in differing), None)
    return agreeing, differing


def as_hex(digests: Digests) -> dict[str, str]:
    """Return the digests as a receipt prints them."""
    return {name: value.hex() for name, value in digests.items()}


FIELD_CHARACTERS = 4096
"""Maximum number of characters of a field that are read; the digests of all algorithms together
have some hundred."""


def parse_fields(field: Callable[[str], str | None]) -> dict[str, bytes]:
    """Read the digests of a representation from a response's fields; `field(name)` gives a field's
    value or None.

    Understands `Repr-Digest` (RFC 9530 section 3), the older `Digest` (RFC 3230) and `Content-MD5`
    (RFC 1864, section 14.15 of RFC 2616), and Google's `x-goog-hash`. A digest that is malformed,
    of a wrong width, of an unknown algorithm, or behind the first `FIELD_CHARACTERS` of a field is
    left out: it proves nothing, and the object does not fail. If two fields disagree, the newer one
    counts. Not for a partial answer (206), whose `Digest` and `Content-MD5` may be those of other
    bytes."""
    found: dict[str, bytes] = {}
    text = field("content-md5")
    if text:  # most answers have none of these fields
        found.update(_decode_pairs([("md5", text.strip())]))
    for name in ("x-goog-hash", "digest"):
        text = field(name)
        if text:
            found.update(_decode_pairs((key.lower(), value) for key, value in _members(text)))
    text = field("repr-digest")
    if text:
        members = ((key, value[1:-1]) for key, value in _members(text) if _is_bytes(value))
        found.update(_decode_pairs(members))
    return found


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a field's members, parameters left out. A digest holds neither
    ',' nor ';'."""
    for member in text[:FIELD_CHARACTERS].split(","):
        name, equals, value = member.partition(";")[0].partition("=")
        if equals:
            yield name.strip(" \t"), value.strip(" \t")


def _is_bytes(value: str) -> bool:
    """Return whether this is a byte sequence of RFC 8941 (section 3.3.5), between colons."""
    return len(value) >= 2 and value[0] == value[-1] == ":"


def _decode_pairs(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, bytes]]:
    for name, text in pairs:
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            continue
        if name in ALGORITHMS and len(value) == ALGORITHMS[name].width:
            yield name, value
