"""The plan of one transfer, checked before any connection is made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relay.errors import SameObject
from relay.identity import same_object
from relay.location import Location


class Verify(Enum):
    """How much proof is wanted."""

    AUTO = "auto"
    """The strongest level without reading again; where there is none, read back."""
    READ_BACK = "read_back"
    """Read every byte back from the destination."""
    SIZE = "size"
    """Only compare sizes: unverified, and the cheapest, since the bytes need not enter the
    process."""


class IfExists(Enum):
    """What to do where the destination has an object already."""

    OVERWRITE = "overwrite"
    CHANGED = "changed"
    """Overwrite what differs, and skip what is there unchanged (`engine/unchanged.py`)."""
    SKIP = "skip"
    FAIL = "fail"


class Metadata(Enum):
    """What becomes of what describes an object, where its destination can't keep all of it."""

    KEEP = "keep"
    """What can be kept is; of the rest the receipt has a note."""
    STRICT = "strict"
    """The object fails before anything of it is sent."""


@dataclass(frozen=True)
class Plan:
    """One transfer to make. Raises SameObject for a source that is its own destination."""

    source: Location
    destination: Location
    verify: Verify = Verify.AUTO
    if_exists: IfExists = IfExists.OVERWRITE
    server_copy: bool = True
    """Where both ends are one store that can copy by itself, let it."""
    metadata: Metadata = Metadata.KEEP
    tree: tuple[Location, Location] | None = None
    """The folders of the source and of the destination, where it is one of a tree."""

    def __post_init__(self) -> None:
        """Refuse what would truncate the only copy."""
        if same_object(self.source, self.destination):
            raise SameObject(f"{self.destination} is both source and destination")
