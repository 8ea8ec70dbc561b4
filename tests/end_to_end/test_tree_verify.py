"""`relay verify`: what the terminal says about two trees, and with which exit code."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from simulators.content import Content
from simulators.spawn import Spawned
from tests.end_to_end.terminal import Terminal
from tests.scripted import Peer, Talk

NAMES = ("one", "sub/two", "sub-3", "é/f/g", 'Z z,"')
RCLONE = {"download": ("--download",), "checksum": ("--checksum",), "check": ()}
"""The forms of `rclone check`, the strictest first."""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal with the same tree in `from` and in `to`."""
    for name in NAMES:
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of {name}")
    shutil.copytree(tmp_path / "from", tmp_path / "to")
    return Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")


def ends(terminal: Terminal) -> tuple[str, str]:
    return str(terminal.home / "from"), str(terminal.home / "to")


def damage(folder: Path) -> None:
    """Change one byte of a file, and neither its size nor its time."""
    file = folder / "sub" / "two"
    kept = file.stat()
    file.write_text(file.read_text().replace("content", "cOntent"))
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def test_equal_sizes_are_not_a_proof(terminal: Terminal) -> None:
    code, out, err = terminal.run("verify", "-r", *ends(terminal))
    assert (code, "--read missing" in err) == (3, True) and "unproved     5" in out
    assert "unproved  sub/two  (nothing: neither side reports a digest)" in out
    for reads in ("missing", "all"):
        code, out, err = terminal.run("verify", *ends(terminal), "--read", reads)
        assert (code, err) == (0, "")
        assert out.splitlines()[0].startswith("same         5 objects, ") and "5 by read" in out
    assert not terminal.ledger.exists()


def test_a_changed_byte_is_found(terminal: Terminal) -> None:
    damage(terminal.home / "to")
    (terminal.home / "to" / "one").unlink()
    (terminal.home / "to" / "sub" / "new").touch()
    words = ("verify", *ends(terminal), "--read", "all")
    code, out, _ = terminal.run(*words)
    assert code == 1
    assert out.splitlines()[:3] == [
        "differs   sub/two  (read: crc64nvme, crc32c)",
        "missing   one  (listing)",
        "extra     sub/new  (listing)",
    ]
    code, out, err = terminal.run(*words, "--format", "jsonl")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 1 and "differs      1" in err
    assert list(rows)[:-2] == sorted({*NAMES} - {"one"}, key=str.encode)
    assert list(rows)[-2:] == ["one", "sub/new"]  # a folder may change names
    assert rows["sub/new"] == {
        "name": "sub/new",
        "verdict": "extra",
        "basis": "listing",
        "detail": "",
        "source_size": None,
        "destination_size": 0,
    }
    code, out, _ = terminal.run(*words, "--format", "csv", "--only", "same", "--only", "missing")
    table = list(csv.DictReader(out.splitlines()))
    assert {row["name"]: row["verdict"] for row in table} == {
        **{name: "same" for name in NAMES if name != "sub/two"},
        "one": "missing",
    }
    counts = json.loads(terminal.run(*words, "--json")[1])
    assert counts["found"] == {"same": 3, "differs": 1, "missing": 1, "extra": 1, "unproved": 0}
    assert counts["complete"] is True and counts["names"] == 6


def test_filters_are_for_both_sides(terminal: Terminal) -> None:
    damage(terminal.home / "to")
    (terminal.home / "to" / "more.tmp").touch()
    rules = ("--exclude", "*.tmp", "--exclude", "sub/**")
    code, out, _ = terminal.run("verify", *ends(terminal), "--read", "all", *rules)
    assert code == 0 and "same         4 objects" in out
    code, out, err = terminal.run("verify", *ends(terminal), "--include", "nothing")
    assert (code, out) == (1, "") and "the filters exclude everything" in err


def test_names_that_can_not_be_compared(terminal: Terminal) -> None:
    os.mkfifo(terminal.home / "from" / "pipe")
    (terminal.home / "to" / "pipe").touch()
    (terminal.home / "from" / "a\nb").touch()
    (terminal.home / "to" / "a\nb").touch()
    code, out, _ = terminal.run("verify", *ends(terminal), "--read", "all")
    assert code == 3 and "unproved  pipe  (nothing: " in out
    assert "a\nb" not in out


def test_names_below_a_link_to_a_folder_are_not_extra(terminal: Terminal) -> None:
    (terminal.home / "from" / "link").symlink_to(terminal.home / "from" / "sub")
    shutil.copytree(terminal.home / "from" / "sub", terminal.home / "to" / "link")
    words = ("verify", *ends(terminal), "--read", "all")
    for rules, wanted in (((), 3), (("--include", "link/**"), 3), (("--exclude", "link/**"), 0)):
        code, out, _ = terminal.run(*words, *rules)
        assert code == wanted and "extra" not in out
        assert ("1 folders could not be listed" in out) is (wanted == 3)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{}/from", "{}/nosuch"), 1, "relay: destination: "),
        (("{}/nosuch", "{}/to"), 1, "relay: source: "),
        (("{}/empty", "{}/void"), 1, "relay: nothing was found on either side"),
        (("{}/from", "{}/from/sub"), 2, "overlap"),
        (("{}/from", "{}/to", "--json", "--format", "csv"), 2, "give one of them"),
        (("{}/from", "{}/to", "--read", "some"), 2, "some"),
        (("{}/from", "{}/to", "--min-size", "1Q"), 2, "unknown unit"),
        (("{}/from", "{}/to", "--hash-filter", "@/2"), 2, "can't know the part"),
        (("{}/from",), 2, "DST"),
    ],
)
def test_what_fails_says_why(
    terminal: Terminal, words: tuple[str, ...], code: int, said: str
) -> None:
    for name in ("empty", "void"):
        (terminal.home / name).mkdir()
    found, out, err = terminal.run("verify", *(word.format(terminal.home) for word in words))
    assert (found, out) == (code, ""), err
    assert said in err


def test_buckets_are_compared_by_their_digests(clouds: Terminal) -> None:
    """Two buckets that report digests need no reading: a changed object is found without."""
    for name in NAMES[:3]:
        path = clouds.home / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of {name}")
    here, there = (f"near:relay-tests/{clouds.home.name}/{side}" for side in ("a", "b"))
    for place in (here, there):
        assert clouds.tree(clouds.home / "from", place)[0] == 0
    code, out, _ = clouds.run("verify", here, there, "--json")
    counts = json.loads(out)
    assert (code, counts["found"]["same"], counts["bytes_read"]) == (0, 3, 0)
    code, out, _ = clouds.run("verify", str(clouds.home / "from"), there, "--read", "missing")
    assert code == 0 and "3 by read" in out
    damage(clouds.home / "from")
    assert clouds.run("migrate", f"{clouds.home}/from/sub/two", f"{there}/sub/two")[0] == 0
    code, out, _ = clouds.run("verify", here, there, "--read", "missing")
    assert code == 1 and "differs   sub/two" in out
    assert clouds.run("verify", here, there)[0] in (1, 3)


def test_a_list_of_urls_is_compared(
    terminal: Terminal, source: Spawned, contents: Content, tmp_path: Path
) -> None:
    """A list comes in any order, and what it promises is compared."""
    lines = ["name,url,size,md5"]
    for name in ("z", "m/x", "a"):
        digest = contents.digest("md5", f"/objects/{name}", 5000)
        lines.append(f"{name},{source.url(f'/objects/{name}?size=5000')},5000,{digest}")
    (tmp_path / "urls.csv").write_text("\n".join(lines))
    listed = f"list+{tmp_path}/urls.csv"
    assert terminal.tree(listed, tmp_path / "new")[0] == 0
    code, out, err = terminal.run("verify", listed, str(tmp_path / "new"), "--read", "missing")
    assert code == 0 and "3 by read" in out, err
    (tmp_path / "new" / "a").write_bytes(bytes(5000))
    code, out, _ = terminal.run("verify", listed, str(tmp_path / "new"), "--read", "missing")
    assert code == 1 and out.startswith("differs   a  (read: ")


def test_a_listed_name_that_no_side_has_is_not_proved(terminal: Terminal) -> None:
    (terminal.home / "names").write_text("one\n./sub/two\n")
    words = ("verify", *ends(terminal), "--read", "all", "--files-from", f"{terminal.home}/names")
    code, out, err = terminal.run(*words)
    assert code == 3 and "same         1 objects" in out
    assert "1 of 2 names of the list are not on either side: ./sub/two" in err
    (terminal.home / "names").write_text("one\nhere\n")
    (terminal.home / "from" / "here").touch()
    code, out, err = terminal.run(*words)
    assert code == 1 and "missing   here" in out and "names of the list" not in err


def test_names_are_no_formulas(terminal: Terminal) -> None:
    for side in ("from", "to"):
        (terminal.home / side / "=1+1").touch()
    code, out, _ = terminal.run("verify", *ends(terminal), "--format", "csv", "--include", "=*")
    assert code == 0 and out.splitlines()[1:] == ["'=1+1,same,size,,0,0"]


@pytest.mark.parametrize("kept", [2500, 5000])
def test_a_source_without_an_end_is_not_proved(terminal: Terminal, kept: int) -> None:
    """Its bytes may break off where those of the copy did; a length in the list proves the end."""
    data = bytes(range(250)) * 20
    (terminal.home / "to" / "film").write_bytes(data[:kept])

    def script(talk: Talk) -> None:
        is_head = talk.head().startswith(b"HEAD ")
        talk.send(b"HTTP/1.0 200 OK\r\n\r\n", b"" if is_head else data[:2500])

    with Peer([script] * 50) as there:
        for size, wanted in (("", 3), (2500, 0 if kept == 2500 else 1)):
            (terminal.home / "l.csv").write_text(f"url,name,size\n{there.url()},film,{size}\n")
            words = ("verify", f"list+{terminal.home}/l.csv", f"{terminal.home}/to")
            for reads in ("missing", "all"):
                code, out, err = terminal.run(*words, "--read", reads, "--include", "film")
                assert code == wanted, (out, err)
                assert ("the source declared neither a length" in out) is (wanted == 3)


PAGE = b"<!doctype html><title>Sign in</title><form></form>" + b" " * 200
INDEX = b'<h1>Index of /</h1><a href="../">..</a> <a href="film.mp4">film.mp4</a>'


@pytest.mark.parametrize("redirects", [True, False])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_login_page_is_not_the_object(terminal: Terminal, side: str, redirects: bool) -> None:
    """Whoever copied the object without credentials has the page in its place."""
    (terminal.home / "to" / "film.mp4").write_bytes(PAGE)

    def script(talk: Talk) -> None:
        while head := talk.head():
            path = head.split()[1]
            if redirects and path != b"/login" and path != b"/":
                talk.send(b"HTTP/1.1 302 X\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
                continue
            page = INDEX if path == b"/" else PAGE
            talk.send(b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\n")
            talk.send(b"Content-Length: %d\r\n\r\n" % len(page))
            talk.send(b"" if head.startswith(b"HEAD ") else page)

    with Peer([script] * 50) as there:
        places = (there.url("/"), f"{terminal.home}/to")
        places = places if side == "source" else places[::-1]
        for reads in ("none", "missing", "all"):
            words = ("verify", *places, "--include", "film.mp4", "--read", reads)
            code, out, err = terminal.run(*words)
            assert code == 3 and "unproved  film.mp4" in out, (out, err)
            if reads != "none":
                assert f"(nothing: {side}: " in out
                assert "HTML page" in out or "is a folder" in out


def test_a_head_of_no_bytes_proves_no_size(terminal: Terminal) -> None:
    """Many web servers answer HEAD so for a body that they make."""
    (terminal.home / "to" / "film").write_bytes(b"data")

    def script(talk: Talk) -> None:
        while head := talk.head():
            data = b"" if head.startswith(b"HEAD ") else b"data"
            talk.send(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(data), data)

    with Peer([script] * 50) as there:
        (terminal.home / "l.csv").write_text(f"url,name\n{there.url()}/1,film\n")
        words = ("verify", f"list+{terminal.home}/l.csv", f"{terminal.home}/to")
        for reads, wanted in (("none", 3), ("missing", 0), ("all", 0)):
            code, out, err = terminal.run(*words, "--include", "film", "--read", reads)
            assert code == wanted, (out, err)


@pytest.mark.campaign
@pytest.mark.parametrize("form", RCLONE)
def test_whatever_rclone_finds_is_found(terminal: Terminal, form: str) -> None:
    program = shutil.which("rclone")
    if program is None:
        pytest.skip("rclone is not installed (Debian: rclone)")
    tree = terminal.home / "to"
    damage(tree)
    (tree / "one").write_text("short")
    (tree / "sub-3").unlink()
    (tree / "extra").touch()
    report = terminal.home / "combined"
    words = [program, "--config", "", "check", *ends(terminal), "--combined", str(report)]
    done = subprocess.run([*words, *RCLONE[form]], capture_output=True, timeout=60, check=False)
    theirs = {line[2:] for line in report.read_text().splitlines() if line[0] != "="}
    assert done.returncode == 1 and len(theirs) >= 3
    words = ["verify", *ends(terminal), "--read", "all", "--format", "jsonl"]
    rows = [json.loads(line) for line in terminal.run(*words)[1].splitlines()]
    ours = {row["name"] for row in rows if row["verdict"] != "same"}
    assert ours == {"one", "sub/two", "sub-3", "extra"} and theirs <= ours
