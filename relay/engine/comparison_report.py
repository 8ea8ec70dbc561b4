"""The findings of a comparison of two trees, and their counts.

Decided here: the verdicts, their bases, and which of them leave something unproved. Never here:
how a verdict is reached (`tree_comparison.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from relay.engine.sampling import NameSample
from relay.errors import Side
from relay.sorting.merge import Pair

NAMED: Final = 20
"""Maximum number of folders that are named in a report."""


class TreeVerdict(StrEnum):
    """What is known about one name."""

    SAME = "same"
    DIFFERS = "differs"
    MISSING = "missing"
    """The source has it, and the destination has not."""
    EXTRA = "extra"
    """The destination has it, and the source has not."""
    UNPROVED = "unproved"
    """Both sides have it, or may have it, and nothing proves that they are the same."""
    TOO_NEW = "too-new"
    """It was written after the older one of two inventories was begun."""


DEFECTS: Final = (TreeVerdict.DIFFERS, TreeVerdict.MISSING, TreeVerdict.EXTRA)
"""The verdicts that are differences."""
UNCERTAIN: Final = (TreeVerdict.UNPROVED, TreeVerdict.TOO_NEW)
"""The verdicts that leave open whether there is a difference."""


class Basis(StrEnum):
    """What a verdict rests on."""

    LISTING = "listing"
    """One listing has the name, and the other has not."""
    HEAD = "head"
    """The destination says that the object does not exist."""
    SIZE = "size"
    """The sizes differ, or both are 0."""
    DIGEST = "digest"
    """A digest of the whole object that both stores report."""
    ETAG = "etag"
    """Two buckets show the same MD5 as ETag."""
    RECEIPT = "receipt"
    """The destination shows the version that the receipt names."""
    READ = "read"
    """The bytes of one side or of both were read."""
    NOTHING = "nothing"


class Reads(StrEnum):
    """Which objects are read."""

    NONE = "none"
    MISSING = "missing"
    """Those that no digest decides."""
    ALL = "all"


class NameFinding(NamedTuple):
    """What was found about one name. Sizes are in bytes, None where the side has no such object or
    does not say."""

    verdict: TreeVerdict
    name: str
    basis: Basis
    detail: str = ""
    source_size: int | None = None
    destination_size: int | None = None


def finding_of_pair(
    pair: Pair, verdict: TreeVerdict, basis: Basis, detail: str = ""
) -> NameFinding:
    """Return a finding about the name of a pair."""
    ours, theirs = pair
    row = ours or theirs
    assert row is not None  # a pair has a row
    return NameFinding(
        verdict,
        row.name,
        basis,
        detail,
        None if ours is None else ours.size,
        None if theirs is None else theirs.size,
    )


@dataclass(eq=False, kw_only=True)
class ComparisonReport:
    """The counts of a comparison."""

    counts: dict[TreeVerdict, int] = field(default_factory=lambda: dict.fromkeys(TreeVerdict, 0))
    bases: dict[Basis, int] = field(default_factory=dict)
    """The number of objects that are the same, by what proves it."""
    same_bytes: int = 0
    excluded: int = 0
    """Names that the filters left out."""
    others: int = 0
    """Names of the destination that the migration did not write, where receipts are compared."""
    unsampled: int = 0
    """Names that the listings do not decide, and that the sample does not have."""
    sample: NameSample | None = None
    bytes_read: int = 0
    unlisted: int = 0
    """The number of folders that could not be listed."""
    folders: list[tuple[Side, str, str]] = field(default_factory=list)
    """The first of them: the side, the name, and the reason."""

    @property
    def names(self) -> int:
        """The number of names that were compared, with those outside of the sample."""
        return sum(self.counts.values()) + self.unsampled

    @property
    def has_differences(self) -> bool:
        """Whether any name differs, is missing or is extra."""
        return any(self.counts[verdict] for verdict in DEFECTS)

    @property
    def is_proved(self) -> bool:
        """Whether everything was listed, and every object is the same, as far as a sample can
        prove that."""
        is_certain = not self.unlisted and not any(self.counts[verdict] for verdict in UNCERTAIN)
        return is_certain and not self.has_differences and self.names > 0

    def count(self, found: NameFinding) -> None:
        """Count one finding."""
        self.counts[found.verdict] += 1
        if found.verdict is TreeVerdict.SAME:
            self.bases[found.basis] = self.bases.get(found.basis, 0) + 1
            self.same_bytes += found.source_size or 0

    def note_folder(self, side: Side, name: str, why: str) -> None:
        """Count a folder that could not be listed."""
        self.unlisted += 1
        if len(self.folders) < NAMED:
            self.folders.append((side, name, why))
