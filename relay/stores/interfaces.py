"""What a store promises, whatever it speaks (law 9: one contract, one suite, every store).

**Contract.** A destination either has the whole object after `put` returned, or, as far as the store's protocol lets
anybody promise that, what it had before. No call retries. No call returns an answer that it does not believe: every
status that is not in the verb's explicit set raises a StoreError with `side` set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from relay.digest import Digests
from relay.location import Location
from relay.receipt import Version
from relay.wire.body import Body


@dataclass(frozen=True)
class Found:
    """An object that is there: its version, where it was found after redirects, and what describes it.

    `disposition` is its Content-Disposition; `metadata` the fields that belong to the object and go with it.
    """

    version: Version
    location: Location
    disposition: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Opened(Found):
    """An object being read. Whoever holds it must read `body` to its end or close it."""

    body: Body | None = None


@dataclass(frozen=True)
class Stored:
    """A destination's yes: what it said about the object, and where the object can be read.

    `readable` is None where the protocol names no place (a POST without a Location). `digests` are the
    destination's own words about the bytes it took; `ambiguous` says that they may be about its answer's text
    instead, so that only their agreeing means anything.
    """

    version: Version
    readable: Location | None
    digests: Digests
    ambiguous: bool = False


class Source(Protocol):
    """Something that objects are read from."""

    def head(self, location: Location) -> Found | None:
        """Return what is there without reading it, or None where the store can't tell (it allows only GET).

        Raises StoreError. Leaves nothing open.
        """

    def get(self, location: Location, pinned: Version | None = None) -> Opened:
        """Open the object; with `pinned`, that version or SourceChanged.

        Raises StoreError, SourceChanged. On failure nothing is left open.
        """


class Destination(Protocol):
    """Something that objects are written to."""

    def head(self, location: Location) -> Found | None:
        """As Source's. Raises NotFound where there is none."""

    def get(self, location: Location, pinned: Version | None = None) -> Opened:
        """As Source's; for reading back."""

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
    ) -> Stored:
        """Store the whole of `body`; with `if_absent` only where nothing is.

        Raises PreconditionFailed (with `if_absent`: something is there), StoreError, and the body's errors. On
        failure the upload was broken off before its end, so that a store that keeps to its protocol has nothing.
        """

    def delete(self, location: Location, version: Version) -> None:
        """Delete the object if it is still `version` (where the store can tell). Raises StoreError."""
