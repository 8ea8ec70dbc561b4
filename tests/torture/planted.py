"""Faults planted into a copy of relay, each a small change that removes a protection: the judge has
to see all of them.

Theory of operation. A fault is found if one of five hundred seeds breaks a rule with it, and does
not without. Seeds with a habit that the protection is for come first; otherwise they are ordinary
seeds.

Decided here: the faults. Never here: the rules."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.torture.cases import Trait, draw
from tests.torture.commands import ROOT, Zygote
from tests.torture.judge import judge
from tests.torture.world import empty_ledger, play

SEEDS = 500
AT_A_TIME = 6


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One fault: `new` replaces `old`, which occurs once in `file`. It matters to these `traits` of
    these `stores`."""

    name: str
    file: str
    old: str
    new: str
    traits: tuple[Trait, ...]
    stores: tuple[str, ...]

    def into(self, checkout: Path) -> None:
        """Apply it to a copy. Raises LookupError if that part of relay has changed: the fault then
        needs another place."""
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
        traits=(("source", "head-short"),),
        stores=(
            "http",
            "webdav",
            "s3",
        ),
    ),
    Planted(
        name="a document that is cut off is whole",
        file="relay/stores/xml_documents.py",
        old="        except (ParseError, ValueError):\n            raise self._cut() from None\n",
        new="        except (ParseError, ValueError):\n            if not self._above:\n"
        "                raise self._cut() from None\n            piece = None\n",
        traits=(("source", "list-cut"),),
        stores=(
            "webdav",
            "s3",
        ),
    ),
    Planted(
        name="an error document in a listing of S3 is an empty page",
        file="relay/stores/s3/client.py",
        old='            if name == "Error":\n                members =',
        new='            if name == "Error":\n                return\n                members =',
        traits=(("source", "list-error"),),
        stores=("s3",),
    ),
    Planted(
        name="a status inside a multistatus does not count",
        file="relay/stores/webdav/properties.py",
        old="        if 200 <= status < 300:\n            return None\n        kind =",
        new="        if True:\n            return None\n        kind =",
        traits=(("source", "status-inside"),),
        stores=("webdav",),
    ),
    Planted(
        name="what is forgotten stands on in the log of the ledger",
        file="relay/ledger/upkeep.py",
        old="access.log.has_secrets = not access.database.wipe_log()",
        new="access.log.has_secrets = False",
        traits=(),
        stores=(),
    ),
    Planted(
        name="a date that Python can't hold crosses the seam",
        file="relay/parsing.py",
        old="except (ValueError, TypeError, IndexError, OverflowError, ArithmeticError):",
        new="except ZeroDivisionError:",
        traits=(("source", "date-odd"), ("destination", "date-odd")),
        stores=("http", "webdav"),
    ),
    Planted(
        name="a listing is asked for once",
        file="relay/stores/listing_retries.py",
        old="        if not error.retryable:",
        new="        if True:",
        traits=(("source", "list-503-once"),),
        stores=(
            "http",
            "webdav",
            "s3",
        ),
    ),
    Planted(
        name="a tag of more than 128 characters is cut",
        file="relay/stores/http_fields.py",
        old="    text = text.strip()\n    if len(text) > TAG_CHARACTERS",
        new="    text = text.strip()[:128]\n    if len(text) > TAG_CHARACTERS",
        traits=(
            ("source", "tag-long"),
            ("destination", "tag-long"),
        ),
        stores=(
            "http",
            "webdav",
        ),
    ),
    Planted(
        name="HEAD 404 is believed of a server that has answered no HEAD",
        file="relay/stores/http_reads.py",
        old=" or (advice and response.head.status in GONE):",
        new=":",
        traits=(("source", "head-404"),),
        stores=(
            "http",
            "webdav",
        ),
    ),
    Planted(
        name="an object that a MOVE has cut has the size that was sent",
        file="relay/engine/transfer/finalize.py",
        old="        if None in (size, version.size) or size == version.size:",
        new="        if True:",
        traits=(("destination", "move-cut"),),
        stores=("webdav",),
    ),
    Planted(
        name="a name that a server takes for another object's is uploaded to",
        file="relay/stores/http_reads.py",
        old='    if side == "source" or other is None:\n        return\n    theirs',
        new="    if True:\n        return\n    theirs",
        traits=(("destination", "negotiates"),),
        stores=("http", "webdav"),
    ),
    Planted(
        name="a checksum behind the bytes that is refused by another code is not left out",
        file="relay/stores/s3/quirks.py",
        old="        if not (refusal.has_checksum and refusal.can_mean_checksum):",
        new="        if True:",
        traits=(
            ("destination", "trailers-401"),
            ("destination", "trailers-400"),
        ),
        stores=("s3",),
    ),
)
"""Every fault."""


def prove() -> Iterator[tuple[Planted, int | None]]:
    """Yield each fault with the seed that found it, or None."""
    for fault in PLANTED:
        with tempfile.TemporaryDirectory() as folder:
            yield fault, _find_seed(fault, Path(folder))


def order(fault: Planted) -> list[int]:
    """Return the seeds, beginning with those that have a trait or store that the fault matters
    to."""

    def foreign(seed: int) -> bool:
        case = draw(seed)
        kinds = {"source": case.source, "destination": case.destination}
        return not any(
            kinds[trait[0]] in fault.stores for trait in fault.traits if trait in case.traits
        )

    return sorted(range(1, SEEDS + 1), key=foreign)


def _find_seed(fault: Planted, folder: Path) -> int | None:
    checkout = folder / "checkout"
    shutil.copytree(
        ROOT / "relay", checkout / "relay", ignore=shutil.ignore_patterns("__pycache__")
    )
    fault.into(checkout)
    with Zygote(checkout) as sick, Zygote() as well, ThreadPoolExecutor(AT_A_TIME) as pool:
        template = empty_ledger(well, checkout)
        seeds = order(fault)
        while seeds:
            now, seeds = seeds[:AT_A_TIME], seeds[AT_A_TIME:]
            for seed, rules in zip(
                now, pool.map(lambda seed: _broken(seed, sick, template), now), strict=True
            ):
                if not rules or _broken(seed, well, template) & rules:
                    continue
                if rules & _broken(seed, sick, template):  # once may be by chance
                    return seed
    return None


def _broken(seed: int, zygote: Zygote, template: Path) -> frozenset[str]:
    return frozenset(violation.rule for violation in judge(play(draw(seed), zygote, template)))
