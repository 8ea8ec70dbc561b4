"""A ratchet on private idioms: `make check` runs it, and a file may lose some but gain none.

CONTRIBUTING.md ("Plain English") says what to write instead. `tests/words.json` has the count of
each file; a file that is not in it may have none. `python -m tests.words --write` writes the counts
that are lower now."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "tests/words.json"
FOLDERS = ("relay", "simulators", "loadtests", "tests", "deploy", "docs")
SUFFIXES = (".py", ".md", ".toml", ".service", ".conf", ".yaml")
EXEMPT = frozenset({"tests/words.py", "tests/unit/test_words.py", "CONTRIBUTING.md"})
"""Files that name the idioms."""

IDIOMS: Mapping[str, re.Pattern[str]] = {
    "a clause without a noun (who…, whoever…, what…)": re.compile(
        r"(?:^|[.:;,(] |\b(?:and|of|for|by|to) )(?:who|whoever|whatever|what) "
        r"(?:is|are|was|were|has|have|had|may|can|ends|comes)\b"
    ),
    "is no X": re.compile(
        r"(?<![Tt]here )\b(?:is|are|was|were) (?:no|none) (?!longer|more than|less|such|matter)\w+"
    ),
    "so many, so often, so much": re.compile(r"\b[Ss]o (?:many|often|much|long)\b(?! as\b)"),
    "told, tells of": re.compile(r"\btold\b|\btells of\b"),
    "anew, in vain": re.compile(r"\banew\b|\bin vain\b"),
    "go on with": re.compile(r"\b(?:go|goes|gone|going|went) on with\b"),
    "he, his, him of a program": re.compile(r"\b(?:he|his|him)\b"),
}


def count(text: str) -> int:
    """Return how many private idioms a text has."""
    return sum(len(pattern.findall(text)) for pattern in IDIOMS.values())


def find_idioms(text: str) -> Iterable[tuple[int, str, str]]:
    """Yield the line number, the idiom's name and the words of each."""
    for number, line in enumerate(text.splitlines(), 1):
        for name, pattern in IDIOMS.items():
            for match in pattern.finditer(line):
                yield number, name, match[0]


def counts(root: Path) -> dict[str, int]:
    """Return the counts of the text files of a repository that have any, by their paths."""
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*")]
    paths += [path for path in root.iterdir() if path.is_file()]
    names = sorted(str(path.relative_to(root)) for path in paths if path.suffix in SUFFIXES)
    every = {
        name: count((root / name).read_text(encoding="utf-8"))
        for name in names
        if name not in EXEMPT
    }
    return {name: number for name, number in every.items() if number}


def main(words: list[str], root: Path = ROOT, baseline: Path = BASELINE) -> int:
    """Return 1, and print each idiom of a file that has gained some; with `--write`, keep the lower
    counts."""
    now = counts(root)
    before: dict[str, int] = json.loads(baseline.read_text()) if baseline.exists() else now
    worse = [name for name, number in now.items() if number > before.get(name, 0)]
    for name in worse:
        known = before.get(name, 0)
        sys.stderr.write(
            f"{name}: {now[name]} private idioms, {known} before (CONTRIBUTING.md, Plain English)\n"
        )
        for number, idiom, text in find_idioms((root / name).read_text(encoding="utf-8")):
            sys.stderr.write(f"  {name}:{number}: {text!r}: {idiom}\n")
    if "--write" in words:
        lower = {name: min(number, before.get(name, 0)) for name, number in now.items()}
        baseline.write_text(
            json.dumps({name: number for name, number in lower.items() if number}, indent=1) + "\n"
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
