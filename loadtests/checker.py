"""The checks of the crash campaigns: a continuous reader, and the verdict in the end.

Decided here: when an object counts as lost, committed twice, seen in pieces, or left over. Never
here: when relay is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from loadtests.destinations import MIB, MISSING, Destination

RUN_SECONDS = 120.0
"""Maximum time of one run of relay in seconds."""


@dataclass
class Reader:
    """Reads a tree's objects continuously, and keeps every version that it saw."""

    destination: Destination
    tree: str
    sizes: dict[str, int]
    seen: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    pieces: set[str] = field(default_factory=set)
    looks: int = 0
    pause: ClassVar[float] = 0.01
    """Seconds between two rounds of reads, the same for a whole campaign."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            for name, size in self.sizes.items():
                if (found := self.destination.look(self.tree, name)) is not None:
                    self.seen[name].add(found.version)
                    if found.size != size:
                        self.pieces.add(f"{name}: {found.size} of {size} bytes")
                self.looks += 1
            self._over.wait(self.pause)

    def stop(self) -> None:
        """Stop reading."""
        self._over.set()
        self._thread.join()


def plant(folder: Path, sizes: dict[str, int], chance: random.Random) -> dict[str, bytes]:
    """Write objects of these sizes; return them by name."""
    objects = {}
    for name, size in sizes.items():
        data = chance.randbytes(min(size, MIB)) * (size // MIB + 1)
        objects[name] = data[:size]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects[name])
    return objects


def judge(
    destination: Destination, tree: str, digests: dict[str, str], reader: Reader
) -> list[str]:
    """Return the defects of a tree that relay reports as arrived."""
    wrong = []
    for name, digest in digests.items():
        try:
            found = destination.digest(tree, name)
        except MISSING as error:
            wrong.append(f"{tree}/{name} is not there: {error}")
            continue
        if found != digest:
            wrong.append(f"{tree}/{name} is another one")
        # The reader may not have come to the last version.
        last = destination.look(tree, name)
        versions = reader.seen[name] | ({last.version} if last else set())
        if len(versions) != 1:
            wrong.append(f"{tree}/{name} was committed {len(versions)} times")
    wrong += [f"{tree}: a piece was seen: {piece}" for piece in sorted(reader.pieces)]
    if left := destination.leftovers(tree):
        wrong.append(f"{tree}: {left} unfinished uploads are left")
    return wrong


@dataclass(frozen=True)
class Ended:
    """The end of one run of relay: its exit code, None if it was killed from outside, and its last
    output."""

    code: int | None
    said: str


def run(command: Sequence[str], environment: dict[str, str], seconds: float = RUN_SECONDS) -> Ended:
    """Run relay, and kill it after `seconds`."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        return Ended(code, said.read()[-600:].decode(errors="replace"))


def migrate(source: Path, target: str, slots: int, *words: str, verb: str = "migrate") -> list[str]:
    """Return the command that moves a tree."""
    command = [sys.executable, "-m", "relay", verb, "-r", "-q", "--slots", str(slots), *words]
    return [*command, f"{source}/", target]
