"""Lists of URLs as a user gives them: the promised objects arrive, and the rest is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulators.content import Content
from simulators.spawn import Spawned
from tests.end_to_end.terminal import Terminal

SIZE = 70_000


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")


def rows(terminal: Terminal) -> dict[str, Any]:
    code, out, _ = terminal.run("report", "1", "--format", "jsonl")
    assert code == 0
    return {row["name"]: row for row in map(json.loads, out.splitlines())}


def test_a_list_with_promises(
    terminal: Terminal, source: Spawned, contents: Content, tmp_path: Path
) -> None:
    def line(name: str, url: str, size: int | str = SIZE, md5: str | None = None) -> str:
        digest = contents.digest("md5", f"/objects/{name}", SIZE) if md5 is None else md5
        return f"{name},{url},{size},{digest}"

    def url_of(name: str) -> str:
        return source.url(f"/objects/{name}?size={SIZE}")

    lines = [
        "name,url,size,md5",
        line("good", url_of("good")),
        line("deep/er", url_of("deep/er"), ""),
        line("short", url_of("short"), SIZE - 1),
        line("damaged", url_of("damaged"), md5="0" * 32),
        line("gone", source.url("/objects/gone?fault=status(404)")),
        line("good", url_of("other")),
        "odd,no url,1,",
        "../up,https://a.example/x,,",
    ]
    (tmp_path / "urls.csv").write_text("\n".join(lines))
    code, report = terminal.tree(
        f"list+{tmp_path}/urls.csv", tmp_path / "new", "--retry-budget", "1"
    )
    assert (code, report["state"]) == (1, "partial")
    assert report["objects"] == {"verified": 1, "failed": 7}
    found = rows(terminal)
    assert found["deep/er"]["state"] == "verified"
    assert (tmp_path / "new/deep/er").read_bytes() == contents.read("/objects/deep/er", 0, SIZE)
    assert "the list says 69999 bytes" in found["short"]["detail"]
    assert found["damaged"]["error"] in (
        "source-digest-wrong",
        "digest-mismatch",
    )  # the budget is for one reading, or two
    assert found["gone"]["error"] == "not-found"
    assert (
        "no URL" not in found["line 8"]["detail"]
        and "line 8 of the list" in found["line 8"]["detail"]
    )
    clashes = [row for name, row in found.items() if name.startswith("good ~")]
    assert len(clashes) == 2
    assert all("same name" in row["detail"] for row in clashes)
    assert found["../up"]["error"] == "unsafe-key"
    assert sorted(path.name for path in (tmp_path / "new").rglob("*") if path.is_file()) == ["er"]


def test_a_plain_list_again_sends_nothing_again(
    terminal: Terminal, source: Spawned, tmp_path: Path
) -> None:
    """And keeps no URL of an arrived object: it may be signed."""
    count = 1100  # a page of the ledger has 1,000
    urls = [source.url(f"/objects/{i}?size=1000&X-Amz-Signature=secret{i}") for i in range(count)]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    code, report = terminal.tree(f"list+{tmp_path}/urls.txt", tmp_path / "new")
    assert (code, report["objects"]) == (0, {"verified": count})
    assert (
        b"secret" not in terminal.ledger.read_bytes()
        or terminal.query("SELECT count(url) FROM transfers") == 0
    )
    code, report = terminal.tree(f"list+{tmp_path}/urls.txt", tmp_path / "new")
    assert (code, report["state"]) == (0, "succeeded")


def test_f25_fresh_urls_are_taken_by_their_names(
    terminal: Terminal, source: Spawned, contents: Content, tmp_path: Path
) -> None:
    """Objects that the list does not name keep their URLs; arrived objects are not sent again."""

    def write(file: str, **signatures: str) -> str:
        faults = {"stale": "status(403)", "fresh": ""}
        lines = [
            f"{name},{source.url(f'/objects/{name}?size={SIZE}&X-Amz-Signature={sign}secret&fault={faults[sign]}')}"
            for name, sign in signatures.items()
        ]
        (tmp_path / file).write_text("\n".join(["name,url", *lines]))
        return f"list+{tmp_path}/{file}"

    def states() -> dict[str, str]:
        return {name: row["state"] for name, row in rows(terminal).items()}

    words = (
        write("urls.csv", one="fresh", two="stale", three="stale"),
        tmp_path / "new",
        "--retry-budget",
        "0",
    )
    assert terminal.tree(*words)[0] == 1
    assert states() == {"one": "verified", "two": "failed", "three": "failed"}

    write("other.csv", two="fresh", four="fresh")
    code, out, err = terminal.run("retry", "1", "--list", str(tmp_path / "other.csv"))
    assert (code, out) == (2, "")
    assert "not in the migration: 'four'" in err and "secret" not in err
    assert states()["two"] == "failed"

    before = (tmp_path / "new/one").stat().st_mtime_ns
    for name in ("two", "three"):
        write("fresh.csv", **{name: "fresh"})
        code, _, err = terminal.run("retry", "1", "--list", str(tmp_path / "fresh.csv"))
        assert code == 0, err
        code, report = terminal.tree(*words)
        assert states()[name] == "verified"
    assert (code, report["objects"]) == (0, {"verified": 3})
    assert (tmp_path / "new/one").stat().st_mtime_ns == before
    for name in ("one", "two", "three"):
        assert (tmp_path / "new" / name).read_bytes() == contents.read(f"/objects/{name}", 0, SIZE)


def test_f25_an_invalid_list_of_fresh_urls_is_refused(
    terminal: Terminal, source: Spawned, tmp_path: Path
) -> None:
    url = source.url("/objects/a?size=10&X-Amz-Signature=secret&fault=status(403)")
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "x").write_bytes(b"x")
    (tmp_path / "to").write_bytes(b"in the way")
    assert terminal.tree(tmp_path / "from", tmp_path / "to")[0] == 1
    (tmp_path / "urls.csv").write_text(f"name,url\na,{url}\n")
    assert (
        terminal.tree(f"list+{tmp_path}/urls.csv", tmp_path / "new", "--retry-budget", "0")[0] == 1
    )

    def refusal(number: str, text: str | None) -> str:
        if text is not None:
            (tmp_path / "fresh").write_text(text)
        code, _, err = terminal.run(
            "retry", number, "--list", str(tmp_path / ("fresh" if text else "nowhere"))
        )
        assert code in (1, 2), err
        assert "secret" not in err
        return err

    assert "was not made from a list" in refusal("1", f"name,url\nx,{url}\n")
    assert "is in the list twice" in refusal("2", f"name,url\na,{url}\na,{url}\n")
    assert "line 2 of the list" in refusal("2", "name,url\na,https://user:secret@a.example/a\n")
    assert "is not text" in refusal("2", "\0")
    assert "nowhere" in refusal("2", None)
    assert rows_of(terminal, "2") == {"a": "failed"}


def rows_of(terminal: Terminal, number: str) -> dict[str, str]:
    code, out, _ = terminal.run("report", number, "--format", "jsonl")
    assert code == 0
    return {row["name"]: row["state"] for row in map(json.loads, out.splitlines())}


def test_googles_list_from_a_server(
    terminal: Terminal, source: Spawned, contents: Content, tmp_path: Path
) -> None:
    (tmp_path / "google.tsv").write_text(
        f"TsvHttpData-1.0\n{source.url('/objects/a?size=500')}\t500\t\n"
    )
    code, report = terminal.tree(f"list+{tmp_path}/google.tsv", tmp_path / "new")
    assert (code, report["objects"]) == (0, {"verified": 1})
    (arrived,) = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert arrived.read_bytes() == contents.read("/objects/a", 0, 500)


def test_an_invalid_list(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"\xff\xfe\x00binary")
    code, report = terminal.tree(f"list+{tmp_path}/photo", tmp_path / "new")
    assert (code, report["state"]) == (1, "failed")
    assert "not text" in report["error"]["detail"]
    code, _, err = terminal.run("migrate", f"list+{tmp_path}/photo", str(tmp_path / "new"))
    assert code == 2
    assert "-r" in err
