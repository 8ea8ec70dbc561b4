"""`relay plan` reports what a migration would do, and changes nothing."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from relay.engine.dry_run import RandomSample
from simulators.proxy import Proxy
from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_client import run
from tests.faults.scripted_http import Shelf
from tests.faults.scripted_peers import DATA, Cloud, destination_script
from tests.scripted import Peer, Script, Talk, length_of
from tests.seaweed import KEY, REGION, SECRET, Seaweed

MIB = 1 << 20


def plan_move(tmp_path: Path, *words: str, **more: str) -> tuple[int, dict[str, Any]]:
    """Plan, and assert that no ledger exists afterwards."""
    ledger = tmp_path / "relay.db"
    code, out, err = run("plan", *words, "--json", RELAY_LEDGER=f"sqlite:///{ledger}", **more)
    assert out, err
    assert not ledger.exists()
    return code, json.loads(out)


def tree(folder: Path, **files: bytes) -> None:
    """Write files; a name's `__` is a slash."""
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content of a folder, with times."""
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize(
    ("exists", "code", "fates"),
    [
        ("changed", 0, {"moved": 2, "overwritten": 1, "skipped": 1}),
        ("overwrite", 0, {"moved": 2, "overwritten": 2}),
        ("skip", 0, {"moved": 2, "skipped": 2}),
        ("fail", 1, {"failed": 2, "moved": 2}),
    ],
)
def test_the_fate_of_each_object(
    tmp_path: Path, exists: str, code: int, fates: dict[str, int]
) -> None:
    tree(tmp_path / "from", same=b"1234", other=b"12345", a__new=b"x" * 100, a__new2=b"")
    tree(tmp_path / "to", same=b"1234", other=b"1", elsewhere=b"")
    before = contents(tmp_path)
    places = (str(tmp_path / "from"), str(tmp_path / "to"))
    found, report = plan_move(tmp_path, "-r", *places, "--if-exists", exists)
    assert (found, report["fates"]) == (code, fates)
    assert (report["objects"], report["bytes"], report["extra"]) == (4, 109, 1)
    assert (report["complete"], report["incomplete"], report["estimated"]) == (True, [], False)
    if exists == "changed":  # the other options do not compare
        assert report["looked"] == 4
        assert report["found"] == {"differs": 1, "new": 2, "unchanged": 1}
        assert report["bases"]["skip"] == {"date": 1}
    assert (report["level"], report["server_copy"], report["in_parts"]["objects"]) == (
        "read_back",
        False,
        0,
    )
    assert contents(tmp_path) == before
    moved, _, err = run(
        "migrate", "-r", *places, "--if-exists", exists, RELAY_LEDGER=f"sqlite:///{tmp_path}/x.db"
    )
    assert moved == code, err


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--fail-on-empty",), 1)])
def test_an_empty_source_is_reported(tmp_path: Path, flags: tuple[str, ...], code: int) -> None:
    """And fails if the migration would."""
    (tmp_path / "from").mkdir()
    words = ("-r", str(tmp_path / "from"), str(tmp_path / "to"), *flags)
    found, report = plan_move(tmp_path, *words)
    assert (found, report["objects"]) == (code, 0)
    found, out, _ = run("plan", *words)
    assert (found, "nothing was found" in out) == (code, True)
    moved, _, err = run("migrate", *words, RELAY_LEDGER=f"sqlite:///{tmp_path}/x.db")
    assert moved == code, err


def test_the_objects_of_a_list_are_inspected_at_their_urls(tmp_path: Path) -> None:
    with Peer(Shelf({b"/same": b"1234", b"/other": b"12345", b"/new": b"1"})) as there:
        tree(
            tmp_path / "to" / there.url("").partition("//")[2].replace(":", "_"),
            same=b"1234",
            other=b"1",
        )
        (tmp_path / "list").write_text(
            "".join(f"{there.url(name)}\n" for name in ("/same", "/other", "/new"))
        )
        words = ("-r", f"list+{tmp_path}/list", str(tmp_path / "to"), "--if-exists", "skip")
        found, plan = plan_move(tmp_path, *words, RELAY_EGRESS_ALLOW="127.0.0.0/8")
    assert (found, plan["fates"]) == (0, {"moved": 1, "skipped": 2})


@pytest.mark.parametrize(
    ("status", "exists", "code"),
    [(403, "changed", 3), (403, "skip", 1), (409, "changed", 1), (409, "overwrite", 3)],
)
def test_a_destination_that_refuses_to_be_inspected(
    tmp_path: Path, status: int, exists: str, code: int
) -> None:
    """The plan fails where the migration would, before it sends anything; elsewhere it does not
    know."""

    def refuse_all(talk: Talk) -> None:
        while talk.head():
            talk.send(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    tree(tmp_path / "from", one=b"1")
    with Peer([refuse_all] * 9) as there:
        words = ("-r", str(tmp_path / "from"), "far:bucket/to", "--if-exists", exists)
        found, plan = plan_move(tmp_path, *words, RELAY_CONFIG=far_settings(tmp_path, there))
    assert (found, plan["fates"], plan["refused"]) == (code, {"unknown": 1}, int(code == 1))


def test_an_object_that_its_source_denies_is_reported(tmp_path: Path) -> None:
    listed = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>from/one</Key>"
        b'<Size>1</Size><ETag>"x"</ETag></Contents></ListBucketResult>'
    )

    def lists_alone(talk: Talk) -> None:
        while head := talk.head():
            if b"list-type" in head:
                talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(listed), listed)
            else:
                talk.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with Peer([lists_alone] * 9) as there:
        words = ("-r", "far:bucket/from", str(tmp_path / "to"))
        found, plan = plan_move(tmp_path, *words, RELAY_CONFIG=far_settings(tmp_path, there))
    assert (found, plan["fates"], plan["refused"]) == (1, {"unknown": 1}, 1)
    assert plan["names"][0]["name"] == "one"


def far_settings(tmp_path: Path, there: Peer) -> str:
    """Return the settings in which `far:` is a bucket at a peer."""
    (tmp_path / "relay.toml").write_text(
        f'[remotes.far]\ntype = "s3"\nendpoint = "{there.url("")}"\n'
        'access_key_id = "k"\nsecret_access_key = "s"\n'
    )
    return str(tmp_path / "relay.toml")


def test_names_that_would_fail_are_reported(tmp_path: Path) -> None:
    tree(tmp_path / "from", good=b"1", **{"bad\u202e": b"12"})
    code, report = plan_move(tmp_path, "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert (code, report["objects"], report["refused"]) == (1, 1, 1)
    assert "bidi" in report["names"][0]["why"]
    code, out, _ = run("plan", "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert (code, "1 object would fail" in out, "copy" in out) == (1, True, True)
    assert "\u202e" not in out


def test_odd_names_are_printable_in_a_report(tmp_path: Path) -> None:
    """Also those that are not UTF-8, or that may fold: a page and a database take each of them."""
    (tmp_path / "from").mkdir()
    for name in (b"a\xff", b"A\xff", b"line\n", b"LINE\n", b"esc\x1b"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/from/" + name)).write_bytes(b"1")
    places = (str(tmp_path / "from"), str(tmp_path / "to"))
    code, report = plan_move(tmp_path, "-r", *places, "--save", str(tmp_path / "plan"))
    assert (code, report["refused"], report["folds"]["groups"]) == (1, 5, 2)
    rows = [json.loads(line) for line in (tmp_path / "plan").read_text().splitlines()[1:-1]]
    assert [(row["decision"], row["basis"]) for row in rows] == [("refuse", "unsafe-key")] * 5
    names = [row["name"] for row in report["names"]]
    names += [name for names in report["folds"]["first"] for name in names]
    assert all(name.isprintable() and name.encode() for name in names), names


def test_a_sample_all_or_no_objects_are_inspected(tmp_path: Path) -> None:
    tree(tmp_path / "from", **{f"f{i:03}": b"x" for i in range(300)})
    tree(tmp_path / "to", **{f"f{i:03}": b"x" for i in range(300)})
    for words, looked in ((("--sample", "20"), 20), (("--whole",), 300), (("--sample", "0"), 0)):
        code, report = plan_move(
            tmp_path, "-r", str(tmp_path / "from"), str(tmp_path / "to"), *words
        )
        assert (code, report["objects"], report["looked"]) == (0, 300, looked)
        assert report["fates"] == ({"skipped": looked} if looked else {})


def test_every_entry_is_as_likely_in_a_sample() -> None:
    chance, seen = random.Random(3), Counter[str]()
    for _ in range(4000):
        sample = RandomSample[str](5, chance)
        for i in range(20):
            sample.add(str(i))
        assert len(set(sample.kept)) == 5
        seen.update(sample.kept)
    assert len(seen) == 20
    assert all(800 < count < 1200 for count in seen.values())


def test_a_plan_of_one_object_sends_only_head(tmp_path: Path) -> None:
    """A destination that is a folder is inspected under the source's name; relay sends only HEAD
    requests."""
    asked, kept = Cloud(), Cloud(objects={b"/in/a.bin": DATA})

    def source(talk: Talk) -> None:
        while request := talk.head():
            asked.heads.append(request)
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA))

    with Peer(source) as peer, Peer(destination_script(kept)) as destination:
        code, report = plan_move(tmp_path, peer.url("/a.bin?sig=secret"), destination.url("/in/"))
    assert (code, report["objects"], report["bytes"], report["fates"]) == (
        0,
        1,
        len(DATA),
        {"overwritten": 1},
    )
    assert set(asked.methods + kept.methods) == {b"HEAD"}
    assert "secret" not in json.dumps(report)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("-r", "/nowhere/at/all", "/tmp/x"), 1, "No such file"),
        (("-r", "nosuch:bucket", "/tmp/x"), 2, "no remote"),
        (("-r", "/a", "/a/b"), 2, "one contains the other"),
        (("-r", "/a", "/b", "--method", "POST"), 2, "by PUT"),
        (
            ("/a", "https://b.example/c?X-Amz-Signature=s", "--verify", "read_back"),
            2,
            "read_back can't be had",
        ),
    ],
)
def test_an_impossible_plan_is_one_line(words: tuple[str, ...], code: int, says: str) -> None:
    found, out, err = run("plan", *words)
    assert (found, out, says in err, err.count("\n")) == (code, "", True, 2), err


def test_a_bucket_offers_parts_and_server_copies(seaweed: Seaweed, tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(
        f'[remotes.weed]\ntype = "s3"\nendpoint = "{seaweed.endpoint}"\naccess_key_id = "{KEY}"\n'
        f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
    )
    more = {"RELAY_CONFIG": str(tmp_path / "relay.toml"), "RELAY_PARTED_BYTES": str(MIB)}
    client = seaweed.client()
    for name, size in (("large", 3 * MIB), ("small", 1000)):
        client.put_object(Bucket=seaweed.bucket, Key=f"plan/{name}", Body=bytes(size))
    places = (f"weed:{seaweed.bucket}/plan", f"weed:{seaweed.bucket}/copy")
    code, report = plan_move(tmp_path, "-r", *places, **more)
    assert (code, report["server_copy"], report["in_parts"]["objects"]) == (0, True, 0)
    code, report = plan_move(tmp_path, "-r", *places, "--no-server-copy", **more)
    assert (code, report["server_copy"], report["in_parts"]) == (
        0,
        False,
        {"objects": 1, "bytes": 3 * MIB},
    )
    assert (report["level"], report["found"]) == ("whole_digest", {"new": 2})
    assert client.list_objects_v2(Bucket=seaweed.bucket, Prefix="copy/")["KeyCount"] == 0
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)


def answers_as(page: bytes) -> Script:
    """Return a server that answers each HEAD and GET with this status, and accepts uploads."""

    def script(talk: Talk) -> None:
        while head := talk.head():
            talk.body(length_of(head))
            method = head.split(b" ", 1)[0]
            status = page if method in (b"HEAD", b"GET") else b"201"
            text = b"" if method == b"HEAD" else b"form"
            talk.send(b"HTTP/1.1 %s X\r\nContent-Length: 4\r\n\r\n%s" % (status, text))

    return script


@pytest.mark.parametrize("exists", ["skip", "fail"])
def test_a_form_receives_each_object(tmp_path: Path, exists: str) -> None:
    """Its URL shows the page and no object, so that the migration does not inspect it either."""
    (tmp_path / "one").write_bytes(b"1")
    with Peer([answers_as(b"200")] * 9) as there:
        words = (str(tmp_path / "one"), there.url("/upload"), "--method", "POST")
        allowed = {"RELAY_EGRESS_ALLOW": "127.0.0.0/8"}
        found, plan = plan_move(tmp_path, *words, "--if-exists", exists, **allowed)
    assert (found, plan["fates"], plan["refused"]) == (0, {"moved": 1}, 0)


@pytest.mark.parametrize(("exists", "code"), [("skip", 1), ("fail", 1), ("overwrite", 3)])
def test_a_place_that_shows_nothing_is_not_overwritten(
    tmp_path: Path, exists: str, code: int
) -> None:
    (tmp_path / "one").write_bytes(b"1")
    with Peer([answers_as(b"405")] * 9) as there:
        words = (str(tmp_path / "one"), there.url("/hidden"), "--if-exists", exists)
        allowed = {"RELAY_EGRESS_ALLOW": "127.0.0.0/8"}
        found, plan = plan_move(tmp_path, *words, **allowed)
        assert (found, plan["fates"], plan["refused"]) == (code, {"unknown": 1}, int(code == 1))
        assert plan["complete"] is (code == 1)
        ledger = f"sqlite:///{tmp_path}/x.db"
        moved, _, err = run("migrate", *words, RELAY_LEDGER=ledger, **allowed)
    assert (moved == 1) == (code == 1), err


@pytest.mark.parametrize("slow_route", [1e9], indirect=True)
def test_the_requests_are_those_of_the_migration(
    tmp_path: Path, clouds: Terminal, slow_route: Proxy, seaweed: Seaweed
) -> None:
    """About: of small objects, and of one in parts, into an empty folder."""
    tree(tmp_path / "from", large=b"x" * 13 * MIB, **{f"a{i}": b"12" for i in range(20)})
    there = f"far:{seaweed.bucket}"
    ends = (f"{there}/planned/", f"{there}/copied/", "--no-server-copy")
    assert clouds.run("migrate", "-r", str(tmp_path / "from"), ends[0])[0] == 0
    (tmp_path / "prices.toml").write_text(
        '[[price]]\nstore = "s3"\nas_of = 2026-11-01\nsource = "https://prices.example"\n'
        'currency = "EUR"\nlist_1000 = 1\nget_1000 = 1\nhead_1000 = 1\nput_1000 = 1\n'
    )
    prices = {"RELAY_PRICES": str(tmp_path / "prices.toml")}
    found = json.loads(clouds.run("plan", "-r", *ends, "--json", **prices)[1])
    assert found["money"]["totals"] == {"EUR": f"{found['requests'] / 1000:.6f}"}
    assert found["money"]["unknown"] == ["egress at the source"]  # never 0
    assert found["decisions"]["copy"]["objects"] == 21 and not found["estimated"]
    before = slow_route.round_trips
    assert clouds.run("migrate", "-r", *ends)[0] == 0
    made = slow_route.round_trips - before
    assert 0.75 * made <= found["requests"] <= 1.25 * made, (found["requests"], made)
