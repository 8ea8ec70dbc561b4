"""Faults planted into a copy of relay, each a small one that takes a protection away: the judge has to see all of them.

Theory of operation. A fault is found when one of five hundred seeds breaks a rule with it, and does not without. Those
seeds come first that have a habit against which the protection is; all the same they are seeds as any other.

Decided here: the faults. Never here: what is judged.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.torture.cases import draw
from tests.torture.commands import ROOT, Zygote
from tests.torture.judge import judge
from tests.torture.world import empty_ledger, play

SEEDS = 500
AT_A_TIME = 6


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One fault: `new` in the place of `old`, which stands once in `file`; `habits` are those that it matters to."""

    name: str
    file: str
    old: str
    new: str
    habits: tuple[str, ...]

    def into(self, checkout: Path) -> None:
        """Put it into a copy. Raises LookupError where relay has changed there: the fault wants another place then."""
        path = checkout / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise LookupError(f"{self.name}: {self.file} does not hold this once: {self.old}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


PLANTED: tuple[Planted, ...] = (
    Planted(
        name="the last promised byte goes out before the framing's own end",
        file="relay/wire/body.py",
        old="count = self._read_framed(view) if by_length else self._read_held(view)",
        new="count = self._read_framed(view if by_length or self.remaining is None else view[: self.remaining])",
        habits=("head-short",),
    ),
    Planted(
        name="a document that is cut off is whole",
        file="relay/stores/documents.py",
        old="        except (expat.ExpatError, ValueError):\n            self._cut()\n",
        new="        except (expat.ExpatError, ValueError):\n            if self._root is None:\n"
        "                self._cut()\n            piece = None\n",
        habits=("list-cut",),
    ),
    Planted(
        name="an error document in a listing of S3 is an empty page",
        file="relay/stores/s3_exchange.py",
        old='            if name == "Error":\n                told =',
        new='            if name == "Error":\n                return\n                told =',
        habits=("list-error",),
    ),
    Planted(
        name="a multistatus without a word of its folder is an empty folder",
        file="relay/stores/webdav.py",
        old="        if not found:\n            message =",
        new="        if False:\n            message =",
        habits=("list-error",),
    ),
    Planted(
        name="a page of links that is cut off is whole",
        file="relay/stores/indexes.py",
        old='        raise ConnectionLost(f"{self.shown} is cut off',
        new='        return\n        raise ConnectionLost(f"{self.shown} is cut off',
        habits=("list-cut",),
    ),
    Planted(
        name="a page of which no link is understood is an empty folder",
        file="relay/stores/indexes.py",
        old="    if astray and not found:",
        new="    if False:",
        habits=("href-query",),
    ),
    Planted(
        name="what a page of plain HTTP does not list is not there",
        file="relay/stores/http.py",
        old='a page may leave names out, and most servers have none."""\n        return False',
        new='as if none did."""\n        return True',
        habits=("hides-names", "folder-404"),
    ),
    Planted(
        name="a listing is asked for once",
        file="relay/stores/relisting.py",
        old="        if not error.retryable:",
        new="        if True:",
        habits=("list-503-once",),
    ),
    Planted(
        name="a tag of more than 128 characters is cut",
        file="relay/stores/fields.py",
        old="    return text if 0 < len(text) <= TAG_CHARACTERS and text.isprintable() else None",
        new="    return text[:128] or None",
        habits=("tag-long",),
    ),
    Planted(
        name="HEAD 404 is believed of a server that has answered no HEAD",
        file="relay/stores/http.py",
        old="        if self._untold(response.head.status) or (advice and response.head.status in GONE):",
        new="        if self._untold(response.head.status):",
        habits=("head-404",),
    ),
    Planted(
        name="a checksum behind the bytes that is refused by another code is no reason to leave it out",
        file="relay/stores/s3_endpoint.py",
        old="        if not (refusal.checked and refusal.doubtful):",
        new="        if True:",
        habits=("trailers-401", "trailers-400"),
    ),
)
"""Every fault."""


def prove() -> Iterator[tuple[Planted, int | None]]:
    """Yield each fault with the seed that found it, or None."""
    for fault in PLANTED:
        with tempfile.TemporaryDirectory() as folder:
            yield fault, _found(fault, Path(folder))


def order(fault: Planted) -> list[int]:
    """Return the seeds, those first that have one of a fault's habits."""

    def foreign(seed: int) -> bool:
        return not any(name in fault.habits for _, name in draw(seed).traits)

    return sorted(range(1, SEEDS + 1), key=foreign)


def _found(fault: Planted, folder: Path) -> int | None:
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "relay", checkout / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    fault.into(checkout)
    with Zygote(checkout) as sick, Zygote() as well, ThreadPoolExecutor(AT_A_TIME) as pool:
        template = empty_ledger(well, checkout)
        seeds = order(fault)
        while seeds:
            now, seeds = seeds[:AT_A_TIME], seeds[AT_A_TIME:]
            for seed, rules in zip(now, pool.map(lambda seed: _broken(seed, sick, template), now), strict=True):
                if rules - (_broken(seed, well, template) if rules else frozenset()):
                    return seed
    return None


def _broken(seed: int, zygote: Zygote, template: Path) -> frozenset[str]:
    return frozenset(violation.rule for violation in judge(play(draw(seed), zygote, template)))
