"""The input of every rung: the objects to move, and a folder to write to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

AT_ONCE = 10
"""The article's semaphore."""
LOOPS = 8
"""The article's threads."""


class Job(NamedTuple):
    """One object: its source, its destination, and a path of its own on the disk."""

    source: str
    destination: str
    path: Path


def read_jobs() -> list[Job]:
    """Return the jobs of the file that is the first argument; the second is the folder for their
    paths."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: python -m {Path(sys.argv[0]).stem} JOBS.json FOLDER")
    folder = Path(sys.argv[2])
    pairs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return [
        Job(source, destination, folder / f"{number}.part")
        for number, (source, destination) in enumerate(pairs)
    ]
