"""What becomes of one object of a tree, as a plan decides it, and the counts of all.

Decided here: the decision that follows from `if_exists`, and what a plan counts. Never here: how an
object is compared (`comparison.py`), and which requests show that (`object_inspection.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Final

from relay.engine.plan import IfExists
from relay.errors import Side
from relay.ledger.planned_values import SeenVersion
from relay.parsing import UNSAFE_CHARACTERS
from relay.transfer_limits import Limits

NAMED: Final = 20
"""Maximum number of names that a report has of one kind."""
FOLDER_UNLISTED: Final = "folder-unlisted"
"""The basis of a folder of the source that could not be listed."""
LONGEST_NAME: Final = 1024
"""Number of letters of a name in a report: the longest that most stores take."""


class PlanDecision(StrEnum):
    """What becomes of an object, in the order in which decisions are shown."""

    COPY = "copy"
    """The destination does not have it."""
    SKIP = "skip"
    REPLACE = "replace"
    REFUSE = "refuse"
    """It would fail; nothing of it is sent."""
    UNKNOWN = "unknown"
    """A store did not answer for it."""


class DestinationAnswer(StrEnum):
    """The state of an object at its destination."""

    NEW = "new"
    UNCHANGED = "unchanged"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


DECISIONS: Final[Mapping[IfExists, Mapping[DestinationAnswer, PlanDecision]]] = {
    IfExists.OVERWRITE: {
        DestinationAnswer.NEW: PlanDecision.COPY,
        DestinationAnswer.UNCHANGED: PlanDecision.REPLACE,
        DestinationAnswer.DIFFERS: PlanDecision.REPLACE,
    },
    IfExists.CHANGED: {
        DestinationAnswer.NEW: PlanDecision.COPY,
        DestinationAnswer.UNCHANGED: PlanDecision.SKIP,
        DestinationAnswer.DIFFERS: PlanDecision.REPLACE,
    },
    IfExists.SKIP: {
        DestinationAnswer.NEW: PlanDecision.COPY,
        DestinationAnswer.UNCHANGED: PlanDecision.SKIP,
        DestinationAnswer.DIFFERS: PlanDecision.SKIP,
    },
    IfExists.FAIL: {
        DestinationAnswer.NEW: PlanDecision.COPY,
        DestinationAnswer.UNCHANGED: PlanDecision.REFUSE,
        DestinationAnswer.DIFFERS: PlanDecision.REFUSE,
    },
}
"""The decision about an object by the answer of its destination."""


def shown_name(name: str) -> str:
    """Return a name as a report has it: printable, so that every database and page takes it, and of
    limited length."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    if not UNSAFE_CHARACTERS.search(shown):
        return shown
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


def decide(if_exists: IfExists, answer: str) -> PlanDecision:
    """Return the decision about an object that would not be refused for another reason."""
    return DECISIONS[if_exists].get(DestinationAnswer(answer), PlanDecision.UNKNOWN)


@dataclass(frozen=True)
class PlannedObject:
    """The decision about one object."""

    name: str
    decision: PlanDecision
    basis: str
    """What it rests on: `listing` (one side's listing lacks it), a `PairBasis`, `asked`
    (`if_exists`), or the code of the error of an object that is refused."""
    detail: str = ""
    """Why it is refused, or why it is unknown."""
    _: KW_ONLY
    source: SeenVersion = SeenVersion()
    destination: SeenVersion | None = None
    """None where it has no such object, or does not say."""


@dataclass(eq=False)
class Amount:
    """A number of objects, and the sum of their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int | None) -> None:
        """Count one more object."""
        self.objects += 1
        self.bytes += size or 0


@dataclass(eq=False)
class RefusalReason:
    """The objects that are refused for one reason, by the code of its error."""

    amount: Amount = field(default_factory=Amount)
    names: list[tuple[str, str]] = field(default_factory=list)
    """The first of their names, each with the sentence of its error."""


@dataclass(eq=False, kw_only=True)
class DryRunReport:
    """The counts of a dry run. Sizes are in bytes; `unsized` objects have no declared size."""

    objects: int = 0
    bytes: int = 0
    unsized: int = 0
    large: int = 0
    large_bytes: int = 0
    large_parts: int = 0
    """Objects large enough for a multipart upload, their bytes, and the parts of usual size."""
    excluded: int = 0
    excluded_folders: int = 0
    """Entries of the listing that the filters left out, and folders that were not listed for
    them."""
    refused: int = 0
    names: list[tuple[str, str]] = field(default_factory=list)
    """The first refused names, with the reason."""
    reasons: dict[str, RefusalReason] = field(default_factory=dict)
    """The refused objects by the code of the reason."""
    exact: dict[PlanDecision, Amount] = field(default_factory=dict)
    """The objects about which the listings decide."""
    looks: dict[str, int] = field(default_factory=dict)
    """The number of inspected objects by their `DestinationAnswer`."""
    decided: dict[str, Amount] = field(default_factory=dict)
    """Those of the other objects that were compared by requests, by their `DestinationAnswer`,
    except for those that would be refused."""
    declined: Amount = field(default_factory=Amount)
    """The compared objects that would be refused."""
    described: Amount = field(default_factory=Amount)
    undescribed: Amount = field(default_factory=Amount)
    """Those of the `exact` ones whose source was asked, and those of them that it would refuse."""
    bases: dict[PlanDecision, dict[str, int]] = field(default_factory=dict)
    """The number of decided objects by what their decision rests on."""
    first: dict[PlanDecision, list[str]] = field(default_factory=dict)
    """The first names of each decision, of the objects about which something was decided."""
    lost: dict[str, int] = field(default_factory=dict)
    """What the destination can't keep, and of how many inspected objects."""
    extra: int = 0
    """Names that only the destination has. A migration leaves them."""
    folds: int = 0
    folded: list[tuple[str, ...]] = field(default_factory=list)
    """The number of groups of names that a store may fold into one name, and the first groups."""
    unlisted: int = 0
    folders: list[tuple[Side, str, str]] = field(default_factory=list)
    """The number of folders that could not be listed, and the first of them with the reason."""
    takes_folder: Callable[[PlannedObject], None] = lambda _: None
    """Is called with each folder of the source that could not be listed."""
    silent: tuple[str, str] | None = None
    """The first object for which a store did not answer, and the reason."""
    destination_error: str | None = None
    """Why the destination could not be listed."""
    sorted: set[Side] = field(default_factory=set)
    """The sides whose listings came in another order than that of names, and were sorted."""
    destination_empty: bool = False
    """Whether the destination's folder had nothing."""
    is_listed: bool = False
    """Whether the source was listed to its end."""
    ranges: int = 0
    digested: int = 0
    unkept: int = 0

    @property
    def inspected_count(self) -> int:
        """The number of inspected objects."""
        return sum(self.looks.values())

    @property
    def unknown(self) -> int:
        """The number of objects for which a store did not answer."""
        return self.decided.get(DestinationAnswer.UNKNOWN, Amount()).objects

    @property
    def incomplete(self) -> list[str]:
        """Why the plan does not show all that a migration would do, in sentences; [] if it does."""
        why = [
            f"the {side}'s folder {name!a} could not be listed: {text}"
            for side, name, text in self.folders
        ]
        if self.unlisted > len(self.folders):
            why.append(f"{self.unlisted - len(self.folders):,} more folders could not be listed")
        if self.destination_error is not None:
            why.append(f"the destination could not be listed: {self.destination_error}")
        if not self.is_listed:
            why.append("the source was not listed to its end")
        if self.unknown:
            example = f", such as {self.silent[0]}: {self.silent[1]}" if self.silent else ""
            why.append(f"undecided objects: {self.unknown:,}{example}")
        return why

    def count(self, size: int | None, limits: Limits) -> None:
        """Count an object that can be moved."""
        self.objects += 1
        if size is None:
            self.unsized += 1
            return
        self.bytes += size
        if size >= limits.parted_bytes:
            self.large += 1
            self.large_bytes += size
            self.large_parts += -(-size // limits.part_bytes)

    def count_look(
        self, answer: str, ranges: bool, digested: bool, unkept: tuple[str, ...]
    ) -> None:
        """Count an object that was inspected."""
        self.looks[answer] = self.looks.get(answer, 0) + 1
        self.ranges += ranges
        self.digested += digested
        self.unkept += bool(unkept)
        for text in unkept:
            if text in self.lost or len(self.lost) < NAMED:
                self.lost[text] = self.lost.get(text, 0) + 1

    def note_refusal(self, size: int, *, is_exact: bool) -> None:
        """Count an inspected object that would be refused, for the share of such ones."""
        (self.undescribed if is_exact else self.declined).add(size)

    def count_exact(self, one: PlannedObject) -> None:
        """Count an object about which the listings decide."""
        amount = self.exact.get(one.decision)
        if amount is None:
            amount = self.exact[one.decision] = Amount()
        amount.objects += 1
        amount.bytes += one.source.size or 0
        self.note(one)
        if one.decision is PlanDecision.REFUSE:
            self.note_reason(one.basis, one.name, one.detail, one.source.size)

    def note(self, one: PlannedObject) -> None:
        """Note what a decision rests on, and the first names."""
        bases = self.bases.get(one.decision)
        if bases is None:
            bases = self.bases[one.decision] = {}
            self.first[one.decision] = []
        bases[one.basis] = bases.get(one.basis, 0) + 1
        if one.decision is PlanDecision.UNKNOWN and self.silent is None:
            self.silent = (shown_name(one.name), one.detail)
        names = self.first[one.decision]
        if len(names) < NAMED:
            names.append(shown_name(one.name))

    def refuse(self, name: str, code: str, why: str, size: int | None = 0) -> None:
        """Count an object that can't be moved."""
        self.refused += 1
        if len(self.names) < NAMED:
            self.names.append((shown_name(name), why))
        self.note_reason(code, name, why, size)

    def note_reason(self, code: str, name: str, why: str, size: int | None) -> None:
        """Count an object that is refused for a reason."""
        reason = self.reasons.setdefault(code, RefusalReason())
        reason.amount.add(size)
        if len(reason.names) < NAMED:
            reason.names.append((shown_name(name), why))

    def note_folder(self, side: Side, name: str, why: str) -> None:
        """Count a folder that could not be listed. At the source its objects would fail."""
        self.unlisted += 1
        if len(self.folders) < NAMED:
            self.folders.append((side, shown_name(name), why))
        if side == "source":
            self.refuse(name, FOLDER_UNLISTED, why)
            self.takes_folder(PlannedObject(name, PlanDecision.REFUSE, FOLDER_UNLISTED, why))
