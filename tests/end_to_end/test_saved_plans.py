"""`relay plan --save` and `relay migrate --plan`: what the plan decided is done, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_plan import tree
from tests.faults.scripted_http import Shelf
from tests.scripted import Peer, Talk
from tests.seaweed import KEY, SECRET, Seaweed

LATER = formatdate(time.time() + 3600, usegmt=True).encode()
"""The date of a server's objects."""
FILES = {"same": b"1234", "other": b"12345", "a__new": b"x" * 100, "new2": b""}


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture
def plan(tmp_path: Path, terminal: Terminal) -> Path:
    """Return the saved plan of a small tree."""
    tree(tmp_path / "from", **FILES)
    tree(tmp_path / "to", same=b"1234", other=b"1", elsewhere=b"")
    places = (f"{tmp_path}/from", f"{tmp_path}/to")
    code, _, err = terminal.run("plan", "-r", *places, "--save", f"{tmp_path}/plan")
    assert code == 0, err
    return tmp_path / "plan"


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def failures(terminal: Terminal) -> dict[str, str]:
    """Return the codes of the failed objects of the only migration."""
    rows = terminal.run("report", "1", "--state", "failed", "--format", "jsonl")[1]
    return {row["name"]: row["error"] for row in map(json.loads, rows.splitlines())}


def test_a_saved_plan_has_each_decision(plan: Path) -> None:
    """In the order of names, for its owner alone."""
    head, *rows, end = map(json.loads, plan.read_text().splitlines())
    assert plan.stat().st_mode & 0o777 == 0o600
    assert head["format"] == "relay-plan@1" and end["end"]["objects"] == len(rows) == 4
    assert [(row["name"], row["decision"], row["basis"]) for row in rows] == [
        ("a/new", "copy", "listing"),
        ("new2", "copy", "listing"),
        ("other", "replace", "size"),
        ("same", "skip", "date"),
    ]
    assert os.listdir(plan.parent).count("plan") == 1
    assert not [name for name in os.listdir(plan.parent) if name.endswith(".partial")]


def test_only_what_a_plan_decided_is_done(plan: Path, terminal: Terminal) -> None:
    """A new object is left for the next plan, and one that changed on either side is refused: it
    is neither read nor replaced, also when the command is given again."""
    home = plan.parent
    (home / "from" / "later").write_bytes(b"later")
    (home / "from" / "a" / "new").write_bytes(b"y" * 100)
    (home / "from" / "same").write_bytes(b"5678")  # skipped, so it does not matter
    (home / "to" / "new2").write_bytes(b"another's")
    for _ in range(2):
        assert terminal.run("migrate", "--plan", str(plan))[0] == 1
        assert failures(terminal) == {"a/new": "plan-stale", "new2": "plan-stale"}
        assert names_in(home / "to") == {"elsewhere", "new2", "other", "same"}
        assert (home / "to" / "new2").read_bytes() == b"another's"
        assert (home / "to" / "other").read_bytes() == b"12345"
        assert (home / "to" / "same").read_bytes() == b"1234"


def test_an_object_to_replace_is_the_one_of_the_plan(plan: Path, terminal: Terminal) -> None:
    """Not another one of the same size, and not none."""
    home = plan.parent
    (home / "to" / "other").write_bytes(b"2")
    assert terminal.run("migrate", "--plan", str(plan))[0] == 1
    assert failures(terminal) == {"other": "plan-stale"}
    assert (home / "to" / "other").read_bytes() == b"2"
    (home / "to" / "other").unlink()
    assert terminal.run("migrate", "--plan", str(plan))[0] == 1
    assert failures(terminal) == {"other": "plan-stale"}
    assert not (home / "to" / "other").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('"new2"', '"new3"'), "was changed"),
        (lambda text: text.replace('"skip"', '"copy"'), "was changed"),
        (lambda text: "".join(text.splitlines(True)[:-1]), "is not a whole plan"),
        (lambda text: "".join(text.splitlines(True)[:-2]), "is not a whole plan"),
        (lambda text: text + "{}\n", "lines after its end"),
        (lambda text: text.replace("plan@1", "plan@2"), "is not a plan of the form"),
        (lambda _: "", "is not a whole plan"),
        (lambda _: "[1]\n", "is not a plan"),
    ],
)
def test_a_plan_that_is_not_as_it_was_is_refused(
    plan: Path, terminal: Terminal, change: Callable[[str], str], says: str
) -> None:
    before = names_in(plan.parent / "to")
    plan.write_text(change(plan.read_text()))
    code, out, err = terminal.run("migrate", "--plan", str(plan))
    assert (code, out) == (1, "") and says in err, err
    assert names_in(plan.parent / "to") == before


def test_a_plan_is_of_its_places_and_options(
    plan: Path, terminal: Terminal, tmp_path: Path
) -> None:
    """Nothing may contradict it."""
    tree(tmp_path / "far", x=b"1")
    for words, code, says in (
        ((f"{tmp_path}/far", f"{tmp_path}/to"), 1, "a plan of another source"),
        (("--if-exists", "overwrite"), 2, "has decided --if-exists"),
        (("--exclude", "*"), 2, "has decided --exclude"),
        ((f"{tmp_path}/from",), 2, "Missing argument 'DST'"),
    ):
        found, _, err = terminal.run("migrate", "--plan", str(plan), *words)
        assert found == code and says in err, err
    assert terminal.run("migrate", f"{tmp_path}/from")[0] == 2
    for words in (("-r", f"list+{plan}", f"{tmp_path}/to"), (f"{plan}", f"{tmp_path}/to/")):
        code, _, err = terminal.run("plan", *words, "--save", f"{tmp_path}/other")
        assert code == 2 and "can" in err and "be saved" in err, err
    places = (f"{tmp_path}/from", f"{tmp_path}/to")
    assert terminal.run("migrate", "--plan", str(plan), *places)[0] == 0


@pytest.mark.parametrize(
    "place", ["after-page", "after-pin", "before-publish", "after-publish", "before-settle"]
)
def test_a_killed_migration_goes_on_by_its_plan(plan: Path, terminal: Terminal, place: str) -> None:
    """What it has written itself is not another's."""
    words = ("migrate", "--plan", str(plan))
    assert terminal.run(*words, RELAY_FAILPOINT=f"{place}:1:kill9")[0] == -9
    code, _, err = terminal.run(*words)
    assert code == 0, err
    home = plan.parent
    assert names_in(home / "to") == {"elsewhere", "same", "other", "a/new", "new2"}
    assert (home / "to" / "other").read_bytes() == b"12345"


def test_a_plan_between_buckets(terminal: Terminal, seaweed: Seaweed, tmp_path: Path) -> None:
    """The versions of a listing are those that a transfer sees; a listing of another order than
    that of names is sorted."""
    (tmp_path / "relay.toml").write_text(
        f'[remotes.weed]\ntype = "s3"\nendpoint = "{seaweed.endpoint}"\naccess_key_id = "k"\n'
        'secret_access_key = "s"\nregion = "us-east-1"\n'.replace('"k"', f'"{KEY}"').replace(
            '"s"', f'"{SECRET}"'
        )
    )
    more = {"RELAY_CONFIG": str(tmp_path / "relay.toml")}
    client = seaweed.client()
    for name in ("a-b", "a/b", "a.b", "c", "stale"):
        client.put_object(Bucket=seaweed.bucket, Key=f"one/{name}", Body=name.encode())
    client.put_object(Bucket=seaweed.bucket, Key="two/c", Body=b"longer")
    places = (f"weed:{seaweed.bucket}/one", f"weed:{seaweed.bucket}/two")
    saved = str(tmp_path / "plan")
    words = ("-r", *places, "--save", saved, "--no-server-copy", "--json")
    code, out, err = terminal.run("plan", *words, **more)
    found = json.loads(out)
    assert code == 0 and found["complete"], err
    assert {name: one["objects"] for name, one in found["decisions"].items()} == {
        "copy": 4,
        "replace": 1,
    }
    client.put_object(Bucket=seaweed.bucket, Key="one/stale", Body=b"later")
    assert terminal.run("migrate", "--plan", saved, **more)[0] == 1
    assert failures(terminal) == {"stale": "plan-stale"}
    listed = client.list_objects_v2(Bucket=seaweed.bucket, Prefix="two/")["Contents"]
    assert {(one["Key"], one["Size"]) for one in listed} == {
        ("two/a-b", 3),
        ("two/a/b", 3),
        ("two/a.b", 3),
        ("two/c", 1),
    }


def test_a_plan_to_a_server_that_lists_nothing(
    plan: Path, terminal: Terminal, tmp_path: Path
) -> None:
    """Its objects are asked for one by one, and the plan says so."""
    shelf = Shelf({b"/to/same": b"1234", b"/to/other": b"1"}, dated=LATER)
    with Peer(shelf) as there:
        words = ("-r", f"{tmp_path}/from", there.url("/to/"), "--save", f"{tmp_path}/web", "--json")
        code, out, err = terminal.run("plan", *words)
        found = json.loads(out)
        assert code == 0, err
        counts = {name: one["objects"] for name, one in found["decisions"].items()}
        assert counts == {"copy": 2, "skip": 1, "replace": 1}
        assert found["bases"]["copy"] == {"head": 2}
        shelf.objects[b"/to/new2"] = b"late"
        assert terminal.run("migrate", "--plan", f"{tmp_path}/web")[0] == 1
    assert failures(terminal) == {"new2": "plan-stale"}
    assert shelf.objects == {
        b"/to/same": b"1234",
        b"/to/other": b"12345",
        b"/to/a/new": b"x" * 100,
        b"/to/new2": b"late",
    }


def test_only_a_plan_is_replaced_by_a_plan(plan: Path, terminal: Terminal, tmp_path: Path) -> None:
    """Not another file, nor a device; and none is made in the source."""
    places = ("-r", f"{tmp_path}/from", f"{tmp_path}/to")
    (tmp_path / "text").write_text("my thesis\n")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("text")
    for name, code in (("plan", 0), ("empty", 0), ("text", 1), ("link", 1), ("to", 1)):
        found, _, err = terminal.run("plan", *places, "--save", f"{tmp_path}/{name}")
        assert found == code and (not code or "is not a plan" in err), err
    assert (tmp_path / "text").read_text() == "my thesis\n"
    inside = f"{tmp_path}/to/../from/a/my.plan"
    code, _, err = terminal.run("plan", *places, "--save", inside)
    assert code == 2 and "which is in the source" in err, err
    assert names_in(tmp_path / "from") == {"a/new", "new2", "other", "same"}


class BusyShelf(Shelf):
    """A server that is too busy for some questions about one object."""

    busy: int = 0

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if path == b"/to/other" and self.busy:
            self.busy -= 1
            talk.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            return True
        return super()._other(talk, method, path, request)


def test_a_plan_asks_a_busy_server_again(plan: Path, terminal: Terminal) -> None:
    home, shelf = plan.parent, BusyShelf({b"/to/other": b"1"}, dated=LATER)
    shelf.busy = 1
    with Peer(shelf) as there:
        words = ("-r", f"{home}/from", there.url("/to/"), "--save", f"{home}/web", "--json")
        code, out, err = terminal.run("plan", *words)
    found = json.loads(out)
    assert (code, found["complete"], shelf.busy) == (0, True, 0), err
    assert found["first"]["replace"] == ["other"]


def test_what_a_plan_did_not_learn_is_no_success(plan: Path, terminal: Terminal) -> None:
    """Neither of the plan, nor of its migration, which leaves the object, also when the command is
    given again."""
    home, shelf = plan.parent, BusyShelf({b"/to/other": b"1"}, dated=LATER)
    shelf.busy = 1000
    with Peer(shelf) as there:
        words = ("-r", f"{home}/from", there.url("/to/"), "--save", f"{home}/web", "--json")
        code, out, err = terminal.run("plan", *words, RELAY_RETRY_BUDGET="0")
        found = json.loads(out)
        assert (code, found["complete"]) == (3, False), err
        assert "undecided objects: 1, such as other: " in found["incomplete"][0]
        assert json.loads((home / "web").read_text().splitlines()[-1])["end"]["unknown"] == 1
        shelf.busy = 0
        for _ in range(2):
            assert terminal.run("migrate", "--plan", f"{home}/web")[0] == 1
            assert failures(terminal) == {"other": "plan-stale"}
    assert shelf.objects[b"/to/other"] == b"1" and len(shelf.objects) == 4


def test_a_folder_that_is_not_listed_is_in_the_plan(terminal: Terminal, tmp_path: Path) -> None:
    """The migration by it fails for the folder, and moves the rest."""
    page = (
        b'<html><title>Index of /from/</title><a href="sub/">sub/</a><a href="one">one</a></html>'
    )

    def serve(talk: Talk) -> None:
        while request := talk.head():
            method, path = request.split(b" ", 2)[:2]
            body = {b"/from/": page, b"/from/one": b"1"}.get(path)
            if body is None:
                talk.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
                continue
            kind = b"text/html" if body is page else b"text/plain"
            talk.send(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Type: %s\r\n' % kind)
            talk.send(b"Content-Length: %d\r\n\r\n" % len(body), body if method == b"GET" else b"")

    with Peer([serve] * 40) as there:
        saved = f"{tmp_path}/plan"
        assert terminal.run("plan", "-r", there.url("/from/"), f"{tmp_path}/to", "--save", saved)[0]
        assert terminal.run("migrate", "--plan", saved)[0] == 1
    assert failures(terminal) == {"sub/": "plan-stale"}
    assert names_in(tmp_path / "to") == {"one"}


def test_what_a_plan_refuses_fails_in_its_migration(terminal: Terminal, tmp_path: Path) -> None:
    """An object as well as a folder that could not be listed."""
    tree(tmp_path / "from", **FILES)
    tree(tmp_path / "to", same=b"1234")
    places = (f"{tmp_path}/from", f"{tmp_path}/to")
    words = ("plan", "-r", *places, "--if-exists", "fail", "--save", f"{tmp_path}/plan")
    assert terminal.run(*words)[0] == 1
    line = {"basis": "folder-unlisted", "decision": "refuse", "destination": None, "name": "deep/"}
    line |= {"source": {"etag": None, "modified": None, "size": None}, "detail": "403"}
    text = (tmp_path / "plan").read_text()
    head, rest = text.split("\n", 1)
    (tmp_path / "plan").write_text(seal_again(f"{head}\n{json.dumps(line)}\n{rest}", "", ""))
    for _ in range(2):
        assert terminal.run("migrate", "--plan", f"{tmp_path}/plan")[0] == 1
        assert failures(terminal) == {"same": "plan-stale", "deep/": "plan-stale"}
    assert names_in(tmp_path / "to") == {"same", "other", "a/new", "new2"}


@pytest.mark.parametrize(
    ("compare", "sent"),
    [("size", {"longer"}), ("always", {"longer", "other", "same"}), ("time", {"longer", "other"})],
)
def test_a_tree_is_compared_as_asked(
    terminal: Terminal, tmp_path: Path, compare: str, sent: set[str]
) -> None:
    """A plan and its migration agree."""
    tree(tmp_path / "from", same=b"1234", other=b"1234", longer=b"12345")
    tree(tmp_path / "to", same=b"1234", other=b"5678", longer=b"1")
    moved = (tmp_path / "from" / "same").stat().st_mtime_ns
    os.utime(tmp_path / "to" / "same", ns=(moved, moved))
    os.utime(tmp_path / "to" / "other", ns=(moved, moved - 10**10))
    words = ("-r", f"{tmp_path}/from", f"{tmp_path}/to", "--compare", compare)
    found = json.loads(terminal.run("plan", *words, "--json")[1])
    assert set(found["first"]["replace"]) == sent
    assert terminal.run("migrate", *words)[0] == 0
    rows = terminal.run("report", "1", "--state", "verified", "--format", "jsonl")[1]
    assert {json.loads(row)["name"] for row in rows.splitlines()} == sent


def test_the_receipt_of_an_earlier_migration_counts(terminal: Terminal, tmp_path: Path) -> None:
    """With `auto`, where neither a digest nor a time that both have kept says more: both versions
    must still be those of the receipt."""
    shelf = Shelf({f"/from/{name}".encode(): name.encode() for name in ("one", "two")}, dated=LATER)
    with Peer(shelf) as there:
        (tmp_path / "list").write_text(
            "".join(f"{there.url(f'/from/{n}')}\n" for n in ("one", "two"))
        )
        words = ("-r", f"list+{tmp_path}/list", f"{tmp_path}/to", "--compare", "auto")
        allowed = {"RELAY_EGRESS_ALLOW": "127.0.0.0/8"}
        for skipped in (0, 2):
            found = json.loads(terminal.run("plan", *words, "--json", **allowed)[1])
            assert found["bases"].get("skip", {}) == ({"receipt": 2} if skipped else {}), found
            code, out, err = terminal.run("migrate", *words, "--json", **allowed)
            assert code == 0, err
            assert json.loads(out)["objects"].get("skipped", 0) == skipped
        (
            tmp_path / "to" / there.url("").partition("//")[2].replace(":", "_") / "from" / "one"
        ).write_bytes(b"ONE")
        assert terminal.run("migrate", *words, "--json", **allowed)[0] == 0
        rows = terminal.run("report", "3", "--state", "verified", "--format", "jsonl")[1]
        assert [json.loads(row)["name"][-3:] for row in rows.splitlines()] == ["one"]


def seal_again(text: str, old: str, new: str) -> str:
    """Return a plan with a change, as whoever wrote it might have made it."""
    lines = text.replace(old, new).splitlines(True)[:-1]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    end = {"end": {"objects": len(lines) - 1, "sha256": digest}}
    return "".join(lines) + json.dumps(end) + "\n"


def test_a_plan_keeps_its_options(terminal: Terminal, tmp_path: Path) -> None:
    """One with an option that this relay does not know might have decided otherwise."""
    tree(tmp_path / "from", **FILES)
    places = ("-r", f"{tmp_path}/from", f"{tmp_path}/to")
    rules = ("--exclude", "other", "--max-size", "3", "--min-age", "0s", "--compare", "digest")
    saved = tmp_path / "plan"
    assert terminal.run("plan", *places, *rules, "--save", str(saved))[0] == 0
    text = saved.read_text()
    for old, new in (
        ('"recursive":true', '"recursive":true,"mirror":true'),
        ('"recursive":true', '"move":true,"recursive":true'),
        ('"recursive":true', '"later":true,"recursive":true'),
        ('"recursive":true', '"recursive":false'),
        ('"verify":"auto"', '"verify":"guess"'),
        ('"verify":"auto"', '"verify":[]'),
    ):
        assert old in text
        saved.write_text(seal_again(text, old, new))
        code, _, err = terminal.run("migrate", "--plan", str(saved))
        assert code == 1 and "has options that" in err, err
    saved.write_text(seal_again(text, '"name":"same"', '"name":"../out"'))
    assert terminal.run("migrate", "--plan", str(saved))[0] == 1
    assert not (tmp_path / "out").exists() and names_in(tmp_path / "to") == {"a/new", "new2"}
    saved.write_text(text)
    assert terminal.run("migrate", "--plan", str(saved))[0] == 1, "two are there now"
    assert names_in(tmp_path / "to") == {"a/new", "new2", "same"}
