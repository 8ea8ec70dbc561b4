"""The crash campaign at relay's failpoints: relay is killed at each of them, and started again.

Theory of operation. Each place has a tree of its own. Relay runs with
`RELAY_FAILPOINT=place:visit:kill9`; it must die there, because a place that is never reached proves
nothing. Then the same command runs to its end, with the same checks as after the random kills. Some
places are only reached after another crash, or if the source has changed since. Decided here: the
preconditions of each place, and the visits at which it is tried. Never here: relay's behaviour
there."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.checker import Reader, judge, migrate, plant, run
from loadtests.destinations import FLIGHT, MIB, PART, STORES, Destination, sha256

LARGE = 2 * PART + MIB
"""The size of three parts."""
SMALL = 5
SMALL_BYTES = 50_000
SLOTS = 2
HEADS = 512 * 1024
"""Tolerance in bytes: requests without payload, and the heads of the others, add to the count."""
HEADING = (
    "| store | place | killed at visit | looks of a reader | sent again | lost, twice, or in pieces"
    " |\n|---|---|---:|---:|---:|---|"
)


@dataclass(frozen=True)
class Place:
    """A failpoint, and the preconditions to reach it."""

    name: str
    stores: tuple[str, ...] = STORES
    visits: tuple[int, ...] = (1,)
    first: tuple[str, ...] = ()
    """Places at which relay is killed first, each at its first visit."""
    changed: bool = False
    """Whether the large object changes at the source after those kills."""
    late: str = ""
    """A failpoint of the last run, with its visit and action: it delays a part of that run."""
    words: tuple[str, ...] = ()
    """Further words of the command."""
    verb: str = "migrate"
    """The command."""

    @property
    def full_name(self) -> str:
        """The name, after those of the earlier kills."""
        changes = ("the source changes",) if self.changed else ()
        return ", then ".join((*self.first, *changes, self.name))


NAMED, PARTED = ("local", "webdav"), ("s3",)
"""Stores that publish by a name, and those that accept parts."""
PLACES: tuple[Place, ...] = (
    Place("after-accept"),
    Place("before-page"),
    Place("after-page"),
    Place("after-claim"),
    Place("after-pin", visits=(1, 3)),
    Place("before-begin", PARTED),
    Place("after-begin-sent", PARTED),
    Place("after-begin", PARTED),
    Place("after-begin-row", PARTED),
    Place("mid-part", visits=(1, 5)),
    Place("after-put-sent", ("webdav", "s3"), visits=(1, 4)),
    Place("after-part", PARTED, visits=(1, 3)),
    Place("after-part-row", PARTED, visits=(1, 3)),
    Place("before-complete", PARTED),
    Place("after-complete-sent", PARTED),
    Place("after-complete", PARTED),
    Place("before-verify", visits=(1, 3)),
    Place("during-verify", NAMED, visits=(1, 3)),
    Place("before-publish", NAMED, visits=(1, 3)),
    Place("after-move-sent", ("webdav",), visits=(1, 3)),
    Place("mid-publish", ("local",), words=("--if-exists", "skip")),
    Place("after-publish", NAMED, visits=(1, 3)),
    Place("before-settle"),
    Place("after-settle"),
    Place("after-delete-intent", verb="move"),
    Place("before-delete", visits=(1, 3), verb="move"),
    Place("after-delete", visits=(1, 3), verb="move"),
    Place("before-delete-row", verb="move"),
    Place("before-abort", PARTED, first=("after-part-row",), changed=True),
    Place("after-abort-sent", PARTED, first=("after-part-row",), changed=True),
    Place("after-abort", PARTED, first=("after-part-row",), changed=True),
    # The last run lists the changed object while its transfer runs.
    Place(
        "before-page",
        PARTED,
        first=("after-part-row",),
        changed=True,
        late="before-page:1:sleep:1",
        words=("--bytes-per-second", "4M"),
    ),
    Place("before-abort", PARTED, first=("after-begin",)),
    Place("after-abort", PARTED, first=("after-begin-sent",)),
    Place("during-sweep", NAMED, first=("before-publish",)),
    Place("during-sweep", NAMED, first=("mid-part",), visits=(1,)),
)
"""Every failpoint of relay, each with the kinds of store that have it."""


@dataclass
class Row:
    """The result of one place at one visit."""

    store: str
    place: Place
    visit: int
    looks: int = 0
    again: int | None = None
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        again = "not counted" if self.again is None else f"{max(self.again, 0) / MIB:.1f} MiB"
        said = "; ".join(self.wrong[:5]) or "none"
        return (
            f"| {self.store} | {self.place.full_name} | {self.visit} | {self.looks:,} | {again} |"
            f" {said} |"
        )


def campaign(
    store: str,
    destination: Destination,
    home: Path,
    environment: dict[str, str],
    wanted: Sequence[str] | None,
    first_visits: bool,
) -> Iterator[Row]:
    """Yield a row for each place and visit; `wanted` names some places, None wants all."""
    for place in PLACES:
        if store not in place.stores or (wanted is not None and place.name not in wanted):
            continue
        for visit in place.visits[:1] if first_visits else place.visits:
            row = Row(store, place, visit)
            _Trial(destination, home, environment, row).run()
            yield row


class _Trial:
    """One place at one visit."""

    def __init__(
        self, destination: Destination, home: Path, environment: dict[str, str], row: Row
    ) -> None:
        self._destination, self._environment, self._row = destination, environment, row
        self._tree = f"{'-'.join((*row.place.first, row.place.name))}-{row.visit}"
        self._source = home / "from" / self._tree
        self._command = migrate(
            self._source,
            destination.target(self._tree),
            SLOTS,
            *row.place.words,
            verb=row.place.verb,
        )
        self._sizes = {"a large one": LARGE} | {
            f"b small/{index}": SMALL_BYTES + index for index in range(SMALL)
        }

    def run(self) -> None:
        """Kill relay there, let it finish, and judge."""
        chance, place = random.Random(self._tree), self._row.place
        objects = plant(self._source, self._sizes, chance)
        reader = Reader(self._destination, self._tree, self._sizes)
        before = self._destination.bytes_received()
        try:
            for name in place.first:
                self._kill_at(name, 1)
            if place.changed:
                objects |= plant(self._source, {"a large one": LARGE}, chance)
            self._kill_at(place.name, self._row.visit)
            self._run_to_end()
        finally:
            reader.stop()
        self._row.looks = reader.looks
        digests = {name: sha256(data) for name, data in objects.items()}
        self._row.wrong += judge(self._destination, self._tree, digests, reader)
        self._count(before)
        self._destination.remove(self._tree)
        shutil.rmtree(self._source)

    def _kill_at(self, name: str, visit: int) -> None:
        ended = run(self._command, self._environment | {"RELAY_FAILPOINT": f"{name}:{visit}:kill9"})
        if ended.code == 0:
            self._row.wrong.append(f"{name} was never reached {visit} times")
        elif ended.code != -signal.SIGKILL:
            self._row.wrong.append(f"on the way to {name}: exit code {ended.code}: {ended.said}")

    def _run_to_end(self) -> None:
        late = {"RELAY_FAILPOINT": self._row.place.late} if self._row.place.late else {}
        ended = run(self._command, self._environment | late)
        if ended.code != 0:
            self._row.wrong.append(f"{self._tree}: exit code {ended.code}: {ended.said}")

    def _count(self, before: int | None) -> None:
        """Compare the sent bytes with the limit: the bytes in flight at each crash, and no more."""
        place, sent = self._row.place, self._destination.bytes_received()
        if before is None or sent is None:
            return
        self._row.again = sent - before - sum(self._sizes.values())
        # Only S3 has parts: elsewhere a crash costs the whole large object. One that has changed at
        # the source is sent in full once more.
        large = PART * FLIGHT if self._row.store == "s3" else LARGE
        most = (
            (len(place.first) + 1) * (large + SLOTS * SMALL_BYTES) + HEADS + LARGE * place.changed
        )
        if self._row.again > most:
            self._row.wrong.append(
                f"{self._row.again} bytes were sent again, and at most {most} were under way"
            )
