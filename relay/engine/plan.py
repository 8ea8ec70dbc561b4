"""The plan of one transfer, checked before any connection is made."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from enum import Enum

from relay.engine.comparison import Compare
from relay.errors import InvalidType, SameObject
from relay.file_names import is_named_by_answer
from relay.identity import same_object
from relay.location import Location


class Verify(Enum):
    """The wanted level of proof."""

    AUTO = "auto"
    """The strongest level without another read; if there is none, read back."""
    READ_BACK = "read_back"
    """Read every byte back from the destination."""
    SIZE = "size"
    """Compare only sizes. The object is unverified. The cheapest level, since the bytes need not
    enter the process."""


class IfExists(Enum):
    """What to do if the destination already has an object."""

    OVERWRITE = "overwrite"
    CHANGED = "changed"
    """Overwrite different objects, and skip unchanged ones (`engine/comparison.py`)."""
    SKIP = "skip"
    FAIL = "fail"

    @property
    def only_if_absent(self) -> bool:
        """True if an existing object must not be overwritten."""
        return self in (IfExists.SKIP, IfExists.FAIL)


class Metadata(Enum):
    """What to do if the destination can't keep all of the object's metadata."""

    KEEP = "keep"
    """Keep as much as possible; the receipt has a note about the rest."""
    STRICT = "strict"
    """Fail the object before anything is sent."""


@dataclass(frozen=True)
class Plan:
    """One transfer to make. Raises SameObject for a source that is its own destination."""

    source: Location
    destination: Location
    _: KW_ONLY
    verify: Verify = Verify.AUTO
    if_exists: IfExists = IfExists.OVERWRITE
    replaces_named: bool = True
    """Whether `if_exists` holds too where the source's answer chose the object's name."""
    server_copy: bool = True
    """Use a server-side copy if source and destination are in one store that has it."""
    metadata: Metadata = Metadata.KEEP
    compare: Compare | None = None
    """How `if_exists: changed` compares."""
    once: bool = False
    """Whether the destination may copy an object of equal content that this migration moved."""
    tree: tuple[Location, Location] | None = None
    """The source's and the destination's folders, if the object belongs to a tree."""
    remotes: tuple[str, str] | None = None
    """The names under which metrics count the source and the destination; None: by the kinds of
    their stores."""

    def __post_init__(self) -> None:
        """Refuse an upload that would truncate its own source."""
        refuse_same_object(self.source, self.destination)

    def if_exists_at(self, place: Location) -> IfExists:
        """Return what to do with an existing object at `place`, the destination with its name. A
        POST creates a new object each time, so none exists: its URL shows the page that accepts
        uploads.

        By default a source does not choose which object is overwritten (CVE-2010-2252)."""
        if self.destination.method == "POST":
            return IfExists.OVERWRITE
        if not self.replaces_named and is_named_by_answer(self.destination, self.source, place):
            return IfExists.FAIL
        return self.if_exists


def existing_of(if_exists: IfExists | None, compare: Compare | None) -> IfExists | None:
    """Return what a caller wants with existing objects: with `compare`, to overwrite the changed
    ones. Raises InvalidType if nothing would be compared."""
    if compare is None or if_exists is IfExists.CHANGED:
        return if_exists
    if if_exists is not None:
        raise InvalidType(
            f"compare: it says which objects are changed, and 'if_exists': {if_exists.value!a}"
            " compares none",
            hint="Leave one of the two out, or choose 'if_exists': 'changed'.",
            pointer="/compare",
        )
    return IfExists.CHANGED


def refuse_same_object(source: Location, destination: Location) -> None:
    """Raise SameObject for a source that is its own destination."""
    if same_object(source, destination):
        raise SameObject(f"{destination} is both source and destination")
