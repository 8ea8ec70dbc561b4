"""The receipt: the versions that were read and written, and how the copy was verified.

Decided here: the levels of proof and the members of a receipt. Never here: how a level is reached
(`engine/transfer/verify.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import Any

from relay.digest import Digests, as_hex


class Level(Enum):
    """The proof of a receipt, the strongest first."""

    READ_BACK = "read_back"
    """After the destination committed, every byte was read back and digested again."""
    WHOLE_DIGEST = "whole_digest"
    """The destination computed a digest of the whole object that equals ours, or the source's."""
    PART_DIGESTS = "part_digests"
    """The destination checked a digest of each part, and the assembled length agrees."""
    SIZE = "size"
    """Only the length agrees, which proves nothing about the bytes: unverified."""


class State(Enum):
    """How a transfer ended, when it did not fail."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SKIPPED = "skipped"


def names_version(tag: str) -> bool:
    """Return whether an entity tag has a value. A server without hashes shows `""` for every object
    (rclone serve s3), which names no version."""
    return tag.removeprefix("W/").strip('"') != ""


@dataclass(frozen=True)
class Version:
    """One version of an object in a store, as far as the store named it; `size` in bytes."""

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    _: KW_ONLY
    digests: Digests = field(default_factory=dict)
    id: str | None = None
    """The store's own name of this version, where it keeps several of one object."""

    @property
    def strong_etag(self) -> str | None:
        """The entity tag if it is a strong one (RFC 9110 section 8.8.1); only that may go into
        If-Match, where '*' and a list of several mean other versions too (section 13.1.1)."""
        tag = self.etag
        if not tag or tag.startswith("W/") or tag == "*" or '",' in tag:
            return None
        return tag if names_version(tag) else None

    def with_size(self, size: int | None) -> Version:
        """The same with its size, in bytes. (`replace` costs twice as much, for each object.)"""
        return Version(size, self.etag, self.last_modified, digests=self.digests, id=self.id)

    def to_json(self) -> dict[str, Any]:
        """Return the version as plain values; None where the store did not report a value."""
        return {
            "etag": self.etag,
            "size": self.size,
            "last_modified": self.last_modified,
            "version": self.id,
            "digests": as_hex(self.digests),
        }


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The proof of one transfer. `bytes` is the object's length, `bytes_resent` those that earlier
    attempts had sent."""

    level: Level
    bytes: int
    digests: Digests
    source: Version
    destination: Version
    attempts: int
    bytes_resent: int
    notes: tuple[str, ...] = ()
    whole: bool = True
    """False where the source's own end can't be proved (a close-delimited answer without a length
    or a digest)."""

    @property
    def state(self) -> State:
        """`verified` when a level above size was proved for the whole object; "could not verify" is
        never success."""
        proved = self.level is not Level.SIZE and self.whole
        return State.VERIFIED if proved else State.UNVERIFIED

    def to_json(self) -> Mapping[str, Any]:
        """Return the receipt as the API and the command line print it."""
        return {
            "level": self.level.value,
            "bytes": self.bytes,
            "digests": as_hex(self.digests),
            "source": self.source.to_json(),
            "destination": self.destination.to_json(),
            "attempts": self.attempts,
            "bytes_resent": self.bytes_resent,
            "notes": list(self.notes),
        }
