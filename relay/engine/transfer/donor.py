"""An object of equal content that the destination already has, and that it may copy.

Decided here: which objects have equal content. Never here: which of them is moved first
(`engine/worker/moved_contents.py`), and how a copy is made (`server_copy.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.digest import Digests
from relay.engine.md5_etags import md5_of_etag
from relay.location import Location
from relay.receipt import Version

_ALGORITHMS: Final = ("sha-256", "md5")
"""The digests by which two objects count as equal. Of a CRC some millions of objects have equal
ones by chance."""


@dataclass(frozen=True)
class EqualContent:
    """The content of an object, by its size and a digest that its source tells."""

    size: int
    algorithm: str
    digest: bytes

    @classmethod
    def of_listed(
        cls, size: int | None, etag: str | None, digests: Mapping[str, str], store: str
    ) -> EqualContent | None:
        """Return the content of a listed object, with digests in hex, in a kind of store; None if
        that is not known, or if the object is empty."""
        if not size:
            return None
        for name in _ALGORITHMS:
            if name in digests:
                return cls(size, name, bytes.fromhex(digests[name]))
        md5 = md5_of_etag(etag) if store == "s3" else None
        return None if md5 is None else cls(size, "etag", md5)

    @property
    def is_of_etag(self) -> bool:
        """Whether the digest is an ETag, which looks like an MD5."""
        return self.algorithm == "etag"

    def is_of(self, version: Version) -> bool:
        """Return whether a version certainly has this content, as its store describes it."""
        if version.size != self.size:
            return False
        if self.is_of_etag:
            return md5_of_etag(version.etag) == self.digest
        return version.digests.get(self.algorithm) == self.digest


@dataclass(frozen=True, kw_only=True)
class Donor:
    """A verified object at the destination, with the content of another one that is to be moved."""

    name: str
    """Its name in the tree."""
    place: Location
    content: EqualContent
    version: Version
    """The version that was written."""
    digests: Digests
    """The digests of its receipt."""
