"""`relay verify --receipts`: what changed at a destination since a migration wrote it, and samples and
inventories in the terminal."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal

NAMES = ("flipped", "good", "gone", "empty", "stale", "sub/é", "truncated", "zero-tailed")
PLANTED = {
    "flipped": "differs",
    "gone": "missing",
    "stale": "differs",
    "truncated": "differs",
    "zero-tailed": "differs",
}
"""The verdicts of the objects that `damage` changes."""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    write_tree(tmp_path / "from")
    return Terminal(tmp_path)


def write_tree(folder: Path) -> None:
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else name.encode() * 200)


def damage(folder: Path) -> None:
    """Plant one fault of each kind; a flipped byte keeps the size and the time of its file."""
    file = folder / "flipped"
    kept = file.stat()
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (folder / "gone").unlink()
    (folder / "stale").write_bytes(b"other" * 200)
    (folder / "truncated").write_bytes((folder / "truncated").read_bytes()[:-1])
    (folder / "zero-tailed").write_bytes((folder / "zero-tailed").read_bytes()[:-100] + bytes(100))
    (folder / "new").touch()


def rows_of(out: str) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in map(json.loads, out.splitlines())}


def test_what_changed_since_is_found(terminal: Terminal) -> None:
    tree = terminal.home / "to"
    assert terminal.tree(terminal.home / "from", tree)[0] == 0
    for reads in ("none", "missing", "all"):
        code, out, err = terminal.run("verify", "--receipts", "1", "--read", reads)
        assert (code, err) == (0, ""), out
        assert out.startswith("same         8 objects, ")
    damage(tree)
    code, out, _ = terminal.run("verify", "--receipts", "1", "--format", "jsonl")
    found = rows_of(out)
    assert code == 1 and {name for name in found if found[name] != "same"} == set(PLANTED)
    for reads in ("missing", "all"):
        words = ("--receipts", "1", "--read", reads, "--format", "jsonl")
        code, out, err = terminal.run("verify", str(tree), *words)
        assert code == 1 and "others       1 that" in err
        assert rows_of(out) == {name: PLANTED.get(name, "same") for name in NAMES}


def test_receipts_of_a_bucket_are_compared(clouds: Terminal) -> None:
    write_tree(clouds.home / "from")
    there = f"near:relay-tests/{clouds.home.name}/r"
    assert clouds.tree(clouds.home / "from", there)[0] == 0
    code, out, err = clouds.run("verify", "--receipts", "1", "--json")
    assert (code, json.loads(out)["found"]["same"]) == (0, 8), err
    other = clouds.home / "other"
    other.write_bytes(b"other" * 200)
    assert clouds.run("migrate", str(other), f"{there}/stale")[0] == 0
    code, out, _ = clouds.run("verify", "--receipts", "1")
    assert code == 1 and out.startswith("differs   stale")


def test_names_without_a_receipt_are_not_proved(terminal: Terminal) -> None:
    tree = terminal.home / "to"
    tree.mkdir()
    (tree / "good").write_bytes(b"older")
    words = ("--if-exists", "skip")
    assert terminal.tree(terminal.home / "from", tree, *words)[0] == 0
    code, out, _ = terminal.run("verify", "--receipts", "1")
    assert code == 3 and "unproved  good  (nothing: it was there before: the migration" in out


def test_a_later_run_has_the_earlier_receipts(terminal: Terminal) -> None:
    """A command that runs each night skips what has not changed."""
    tree = terminal.home / "to"
    assert terminal.tree(terminal.home / "from", tree)[0] == 0
    (terminal.home / "from" / "late").write_bytes(b"late" * 200)
    assert terminal.tree(terminal.home / "from", tree)[0] == 0
    assert terminal.tree(terminal.home / "from", tree, "--if-exists", "skip")[0] == 0
    assert terminal.query("SELECT count(*) FROM transfers WHERE state = 'skipped'") == 8 + 9
    for number in ("1", "2", "3"):
        code, out, err = terminal.run("verify", "--receipts", number)
        assert (code, err) == (0, ""), out
    damage(tree)
    code, out, _ = terminal.run("verify", "--receipts", "3", "--read", "missing", "--json")
    found = json.loads(out)["found"]
    assert (code, found["differs"], found["missing"], found["same"]) == (1, 4, 1, 4)


def test_an_unfinished_listing_proves_nothing(terminal: Terminal) -> None:
    """Objects that the migration has not listed yet have no row, and so no receipt."""
    assert terminal.tree(terminal.home / "from", terminal.home / "to")[0] == 0
    with sqlite3.connect(terminal.ledger) as ledger:
        ledger.execute("UPDATE migrations SET listing = 'failed'")
    code, out, err = terminal.run("verify", "--receipts", "1")
    assert code == 3 and "incomplete   1 listings are not complete" in out
    assert "migration 1 is not complete: its listing is failed" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--receipts", "7"), 1, "no migration"),
        (("{}/other", "--receipts", "1"), 2, "is not the destination of migration 1"),
        (("{}/from", "{}/to", "--receipts", "1"), 2, "takes the place of SRC"),
        (("--receipts", "1", "--include", "*"), 2, "leave the filters out"),
        (("--receipts", "1", "--seed", "s"), 2, "need --sample"),
        (("--receipts", "1", "--below", "x"), 2, "--below needs --inventory"),
        (("{}/from",), 2, "give SRC and DST"),
        (("--inventory", "{}/a"), 2, "give --inventory two times"),
        (("--inventory", "{}/a", "{}/b"), 2, "--inventory FILE --inventory FILE"),
        (("--inventory", "{}/a", "--inventory", "{}/a"), 1, "can't be read"),
        (("{}/from", "{}/to", "--sample", "5", "--defects", "1%"), 2, "give one of them"),
        (("{}/from", "{}/to", "--defects", "0.00001%"), 2, "the maximum is 1,000,000"),
        (("{}/from", "{}/to", "--defects", "100%"), 2, "not a share"),
    ],
)
def test_what_can_not_be_verified_says_why(
    terminal: Terminal, words: tuple[str, ...], code: int, said: str
) -> None:
    assert terminal.tree(terminal.home / "from", terminal.home / "to")[0] == 0
    found, out, err = terminal.run("verify", *(word.format(terminal.home) for word in words))
    assert (found, out) == (code, ""), err
    assert said in err


def test_a_sample_is_read_and_stated(terminal: Terminal) -> None:
    tree = terminal.home / "to"
    assert terminal.tree(terminal.home / "from", tree)[0] == 0
    words = ("verify", f"{terminal.home}/from", str(tree), "--read", "all", "--seed", "s")
    code, out, err = terminal.run(*words, "--sample", "3", "--json")
    sample = json.loads(out)["sample"]
    assert (code, sample["population"], sample["examined"]) == (0, 8, 3), err
    again = json.loads(terminal.run(*words, "--sample", "3", "--json")[1])["sample"]
    assert again == sample and sample["fewer_than"] == pytest.approx(0.784557, abs=1e-6)
    code, out, _ = terminal.run(*words, "--sample", "3")
    assert code == 0 and "not asked    5 outside of the sample" in out
    assert "with 99 % confidence fewer than 78.5 % of the objects differ" in out
    damage(tree)
    # What the listings show is found without the sample: it is about the other names alone.
    code, out, _ = terminal.run(*words, "--defects", "1%", "--confidence", "95%", "--json")
    counts = json.loads(out)
    assert code == 1 and counts["found"]["missing"] == 1 and counts["found"]["extra"] == 1
    assert counts["sample"]["population"] == 6 and counts["sample"]["defects"] == 3
    words = ("verify", "--receipts", "1", "--read", "all", "--seed", "s", "--sample", "6")
    code, out, _ = terminal.run(*words, "--json")
    assert code == 1 and json.loads(out)["sample"]["defects"] == 3


def test_two_inventories_need_no_store(terminal: Terminal) -> None:
    one, other = "ab" * 16, "cd" * 16
    (terminal.home / "a.csv").write_text(f"name,size,md5\nx,3,{one}\ny,3,{one}\n")
    (terminal.home / "b.csv").write_text(f"name,size,md5\nx,3,{one}\ny,3,{other}\n")
    same = ("verify", "--inventory", f"{terminal.home}/a.csv", "--inventory")
    code, out, err = terminal.run(*same, f"{terminal.home}/a.csv")
    assert (code, err) == (0, "") and out.startswith("same         2 objects")
    code, out, err = terminal.run(*same, f"{terminal.home}/b.csv", "--format", "html")
    assert (code, err) == (1, "") and out.rstrip().endswith("</html>")
    assert "<td><bdi>y</bdi></td><td><bdi>differs</bdi></td>" in out and "<bdi>x</bdi>" not in out
    code, out, _ = terminal.run(*same, f"{terminal.home}/b.csv", "--format", "jsonl")
    assert code == 1 and rows_of(out) == {"x": "same", "y": "differs"}
    (terminal.home / "b.csv").write_text(f"name,size,md5\nx,3,{one}\n,\n")
    code, out, err = terminal.run(*same, f"{terminal.home}/b.csv")
    assert code == 3 and "destination: b.csv is not complete: b.csv: line 3 has 2 columns" in err
