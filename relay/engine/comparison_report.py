"""The findings of a comparison of two trees, and their counts.

Decided here: the verdicts, their bases, and which of them leave something unproved. Never here:
how a verdict is reached (`tree_comparison.py`)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Final

from relay.errors import Side

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
    READ = "read"
    """The bytes of one side or of both were read."""
    NOTHING = "nothing"


class Reads(StrEnum):
    """Which objects are read."""

    NONE = "none"
    MISSING = "missing"
    """Those that no digest decides."""
    ALL = "all"


@dataclass(frozen=True)
class NameFinding:
    """What was found about one name. Sizes are in bytes, None where the side has no such object or
    does not say."""

    verdict: TreeVerdict
    name: str
    basis: Basis
    detail: str = ""
    _: KW_ONLY
    source_size: int | None = None
    destination_size: int | None = None


@dataclass(eq=False, kw_only=True)
class ComparisonReport:
    """The counts of a comparison."""

    counts: dict[TreeVerdict, int] = field(default_factory=lambda: dict.fromkeys(TreeVerdict, 0))
    bases: dict[Basis, int] = field(default_factory=dict)
    """The number of objects that are the same, by what proves it."""
    same_bytes: int = 0
    excluded: int = 0
    """Names that the filters left out."""
    bytes_read: int = 0
    unlisted: int = 0
    """The number of folders that could not be listed."""
    folders: list[tuple[Side, str, str]] = field(default_factory=list)
    """The first of them: the side, the name, and the reason."""

    @property
    def names(self) -> int:
        """The number of names that were compared."""
        return sum(self.counts.values())

    @property
    def has_differences(self) -> bool:
        """Whether any name differs, is missing or is extra."""
        bad = (TreeVerdict.DIFFERS, TreeVerdict.MISSING, TreeVerdict.EXTRA)
        return any(self.counts[verdict] for verdict in bad)

    @property
    def is_proved(self) -> bool:
        """Whether everything was listed, and every object is the same."""
        is_certain = not self.unlisted and not self.counts[TreeVerdict.UNPROVED]
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
