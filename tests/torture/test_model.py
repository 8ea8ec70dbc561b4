"""The model itself: how its stores and its judge treat versions, folders, links and credentials."""

from __future__ import annotations

import os
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest

from simulators.liars.base import Liar
from simulators.liars.dav import DavLiar
from simulators.liars.folder import OUTSIDE, FolderLiar
from simulators.liars.operations import Op, Sent
from simulators.liars.plain import PlainLiar
from simulators.liars.s3 import S3Liar
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import Shelf
from simulators.liars.unsafe import MARKER, NAMES
from tests.torture.cases import Case, draw
from tests.torture.commands import ROOT, Ended
from tests.torture.judge import RULES, check_arrivals, check_versions, check_wishes, is_reported
from tests.torture.planted import PLANTED
from tests.torture.world import Played, Row, Store

WHERE = {"check_accounts", "check_places", "check_deletions"}


def case(**members: object) -> Case:
    """Return a case of a tree without objects, with these members."""
    given = {name: getattr(draw(12), name) for name in Case.__dataclass_fields__}
    return Case(**{**given, "tree": True, "objects": (), "before": (), "served": False, **members})  # type: ignore[arg-type]


def rules_broken_at(source: Store, destination: Store, **members: object) -> list[str]:
    """Return the rules that the judge finds broken at these stores."""
    secrets = {"source": "ONE", "destination": "TWO", "link": "THREE"}
    rows, stage = members.pop("rows", {}), members.pop("stage", "partial")
    played = Played(
        case=case(**members), source=source, destination=destination, secrets=secrets, rows=rows
    )  # type: ignore[arg-type]
    played.migration = {"listing": "done", "state": stage, "error": None}
    played.runs.append(ended_run(1 if rows else 0))
    return [text for rule in RULES if rule.__name__ in WHERE for text in rule(played)]


def ended_run(code: int) -> Ended:
    return Ended(words=(), code=code, out="", err="", seconds=0.0)


def ask_object(store: Liar, path: str, credentials: str) -> tuple[int, bytes, str | None]:
    """Return the status of a GET, its bytes, and the version that it names."""
    with closing(HTTPConnection("127.0.0.1", store.port, timeout=10)) as connection:
        connection.request("GET", path, headers={"Authorization": credentials})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("x-amz-version-id")


FAILED = Row("x", "failed", "unsafe-key", "source", "", "")


def stores(tmp_path: Path, *habits: str, confined: bool = False) -> tuple[FolderLiar, FolderLiar]:
    return (
        FolderLiar("source", StoreHabits((), 1), tmp_path, False),
        FolderLiar("destination", StoreHabits(habits, 2), tmp_path, confined),
    )


def test_each_planted_fault_has_its_place_in_relay() -> None:
    for fault in PLANTED:
        text = (ROOT / fault.file).read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, (
            f"{fault.name}: {fault.file} has changed, and the fault wants another place"
        )
        compile(text.replace(fault.old, fault.new), fault.file, "exec")


# -- versions


def test_a_version_that_is_removed_shows_the_one_before_it() -> None:
    shelf = Shelf()
    first = shelf.put("a", b"one", "before")
    second = shelf.put("a", b"two", "relay")
    assert shelf.version("a", first.serial) is first
    shelf.remove("a", second, "relay")
    assert shelf.get("a") is first
    assert shelf.version("a", second.serial) is None
    shelf.delete("a", "other")
    third = shelf.put("a", b"three", "relay")
    shelf.remove("a", third, "relay")
    assert shelf.get("a") is None  # a marker lies there
    assert shelf.version("a", first.serial) is first


@pytest.mark.parametrize(("habit", "id"), [("versioned", "v1."), ("versions-later", "null")])
def test_a_bucket_that_keeps_versions_gives_each_by_its_name(habit: str, id: str) -> None:
    with S3Liar("source", StoreHabits((habit,), 1), {"KEY"}) as store:
        store.shelf.put("a", b"one", "source")
        store.shelf.put("a", b"two", "source")
        key = "AWS4-HMAC-SHA256 Credential=KEY/x"
        assert ask_object(store, "/bucket/a", key) == (200, b"two", "v2.")
        assert ask_object(store, f"/bucket/a?versionId={id}", key) == (200, b"one", id)
        assert ask_object(store, "/bucket/a?versionId=v77.", key)[0] == 404


def test_the_judge_sees_the_removal_of_a_foreign_version(tmp_path: Path) -> None:
    source, destination = stores(tmp_path)
    held = destination.shelf.put("a", b"theirs", "before")
    destination.shelf.remove("a", held, "relay")
    assert any(
        "a version of 'a' was removed" in text for text in rules_broken_at(source, destination)
    )


# -- folders


def test_writes_of_relay_to_a_folder_are_in_its_journal(tmp_path: Path) -> None:
    _, folder = stores(tmp_path)
    folder.put("a", b"old", "before", 1.0)
    folder.arrange(["a"], 1.0, True)
    folder.look()
    assert [event.by for event in folder.shelf.events] == ["before"]
    (folder.tree / "new").write_bytes(b"old")
    os.rename(folder.tree / "new", folder.tree / "a")  # the same bytes, written again
    (folder.tree / "b").write_bytes(b"more")
    folder.look()
    assert {(event.name, event.by) for event in folder.shelf.events[1:]} == {
        ("a", "relay"),
        ("b", "relay"),
    }
    (folder.tree / "b").unlink()
    folder.look()
    assert folder.shelf.get("b") is None


@pytest.mark.parametrize("confined", [True, False])
def test_a_link_leads_out_for_a_terminal_alone(tmp_path: Path, confined: bool) -> None:
    source, destination = stores(tmp_path, "place-link", confined=confined)
    destination.arrange(["a"], 1.0, True)
    held = destination.shelf.get("a")
    assert held is not None and held.data == OUTSIDE
    (destination.outside / "target.bin").write_bytes(b"written through")
    destination.look()
    assert bool(rules_broken_at(source, destination)) is confined


def test_a_file_outside_and_a_pipe_are_left_alone(tmp_path: Path) -> None:
    source, destination = stores(tmp_path, "place-pipe")
    destination.arrange(["a"], 1.0, True)
    destination.look()
    assert rules_broken_at(source, destination) == []
    (destination.tree / "a").unlink()
    (destination.outside / "new").write_bytes(b"x")
    destination.look()
    assert len(rules_broken_at(source, destination)) == 2


# -- other names, caches and nodes


def send_request(
    store: Liar, method: str, path: str, body: bytes = b"", **fields: str
) -> tuple[int, str]:
    """Return the status of a request, and the Content-Location or the body of its answer."""
    headers = {"Authorization": "Bearer TWO", **{name.title(): fields[name] for name in fields}}
    with closing(HTTPConnection("127.0.0.1", store.port, timeout=10)) as connection:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, answer.getheader("Content-Location") or text


def test_a_missing_name_is_answered_by_one_with_an_ending() -> None:
    with DavLiar("destination", StoreHabits(("negotiates",), 1), {"TWO"}) as store:
        store.shelf.put("read.me", b"theirs", "before")
        store.shelf.put("part", b"ours", "relay")
        assert send_request(store, "HEAD", "/d/read") == (200, "read.me")
        assert send_request(store, "HEAD", "/d/rea")[0] == 404
        assert "/d/read.me</D:href>" in send_request(store, "PROPFIND", "/d/read", depth="0")[1]
        moved = {"destination": f"http://127.0.0.1:{store.port}/d/read"}
        assert send_request(store, "MOVE", "/d/part", overwrite="F", **moved)[0] == 412
        assert send_request(store, "PUT", "/d/read", b"ours")[0] == 204
        assert store.shelf.names() == ["part", "read.me"]
        assert store.store_habits.met["negotiates"] >= 4


@pytest.mark.parametrize(
    ("habit", "listed"), [("folds-case", {"sub/", "SUB/"}), ("folds-folders", {"sub/"})]
)
def test_a_folder_of_a_folding_store_has_each_spelling_or_one(habit: str, listed: set[str]) -> None:
    with PlainLiar("destination", StoreHabits((habit,), 1), {"TWO"}) as store:
        store.shelf.put("sub/x", b"one", "before")
        store.shelf.put("SUB/y", b"two", "before")
        store.shelf.put("sub/Y", b"three", "relay")
        assert {name for name, _ in store.rows("")} == listed
        assert {held.data for held in map(store.shelf.get, store.shelf.names()) if held} == {
            b"one",
            b"three",
        }
        assert store.shelf.has_folder("SUB")


@pytest.mark.parametrize(
    ("habit", "get", "head", "listing"),
    [
        ("stale", b"old", b"old", b"old"),
        ("stale-get", b"old", b"new", b"new"),
        ("stale-head", b"new", b"old", b"new"),
    ],
)
def test_an_old_object_is_shown_for_a_while(
    habit: str, get: bytes, head: bytes, listing: bytes
) -> None:
    with PlainLiar("destination", StoreHabits((habit,), 1), {"TWO"}) as store:
        store.shelf.put("a", b"old", "before")
        store.shelf.put("a", b"new", "relay")
        shown = [store.visible_object("a", kind) for kind in ("get", "head", "list")]
        assert [held and held.data for held in shown] == [get, head, listing]
        store.shelf.settle()
        assert [store.visible_object("a", kind) for kind in ("get", "head")] == [
            store.shelf.get("a")
        ] * 2


def test_a_404_is_repeated_where_it_was_given_before() -> None:
    with PlainLiar("destination", StoreHabits(("negative-cache",), 1), {"TWO"}) as store:
        assert send_request(store, "HEAD", "/d/a")[0] == 404
        for name in ("a", "b"):
            store.shelf.put(name, b"new", "relay")
        assert [send_request(store, "GET", f"/d/{name}")[0] for name in ("a", "b")] == [404, 200]
        assert store.visible_object("a") is not None  # a listing does not come from the cache


def test_a_deleted_object_is_shown_for_a_while() -> None:
    with PlainLiar("destination", StoreHabits(("deleted-shown",), 1), {"TWO"}) as store:
        store.shelf.put("a", b"data", "before")
        store.shelf.delete("a", "relay")
        assert send_request(store, "GET", "/d/a") == (200, "data")
        store.shelf.settle()
        assert send_request(store, "GET", "/d/a")[0] == 404


def test_each_of_two_nodes_refuses_the_tag_of_the_other() -> None:
    with PlainLiar("source", StoreHabits(("tag-nodes",), 1), {"TWO"}) as store:
        store.shelf.put("a", b"data", "source")
        store.node.number = 0
        tag = store.tag(store.shelf.get("a"))  # type: ignore[arg-type]
        statuses = [
            send_request(store, "GET", "/d/a", **{"if-match": tag or ""})[0] for _ in range(4)
        ]
        assert statuses == [200, 412, 200, 412]


def test_the_first_move_of_an_object_loses_its_end() -> None:
    with DavLiar("destination", StoreHabits(("move-cut",), 1), {"TWO"}) as store:
        for expected in (b"si", b"six"):
            store.shelf.put("part", b"six", "relay")
            where = {"destination": f"http://127.0.0.1:{store.port}/d/a"}
            assert send_request(store, "MOVE", "/d/part", overwrite="T", **where)[0] in (201, 204)
            held = store.shelf.get("a")
            assert held is not None and held.data == expected


# -- histories


@pytest.mark.parametrize(("wish", "number"), [("skip", 1), ("overwrite", 0)])
def test_the_if_exists_of_each_command_counts(tmp_path: Path, wish: str, number: int) -> None:
    """The first command may overwrite; the second has the other wish."""
    source, destination = stores(tmp_path)
    for name in ("a", "b"):
        destination.shelf.put(name, b"theirs", "before")
    destination.shelf.put("a", b"ours", "relay")
    made = case(if_exists="overwrite", before=(("a", "longer"), ("b", "longer")))
    played = Played(case=made, source=source, destination=destination, secrets={})
    played.begun = [(2, "overwrite"), (3, wish)]
    destination.shelf.put("b", b"ours", "relay")
    assert len(list(check_wishes(played))) == number


@pytest.mark.parametrize(("number", "violations"), [(1, 0), (2, 1)])
def test_a_later_migration_writes_a_replaced_object(
    tmp_path: Path, number: int, violations: int
) -> None:
    source, destination = stores(tmp_path)
    for data in (b"old", b"new"):
        source.shelf.put("a", data, "source")
    destination.shelf.put("a", b"old", "relay")
    rows = {"a": Row("a", "verified", "", "", "", "")}
    made = case(objects=(("a", 3),))
    played = Played(case=made, source=source, destination=destination, secrets={}, rows=rows)
    played.replaced, played.migration = 1, {"number": number}
    assert len(list(check_versions(played))) == violations


# -- names, links and credentials


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_each_unsafe_name_is_accounted_for(tmp_path: Path, rows: int) -> None:
    _, destination = stores(tmp_path)
    with S3Liar("source", StoreHabits(("key-slashes", "key-marker"), 1), {"ONE"}) as source:
        assert source.odd == (*NAMES["key-slashes"]["s3"], *NAMES["key-marker"]["s3"])
        rows_of = {f"row {number}": FAILED for number in range(rows)}
        rows_of["/lead.txt"] = FAILED
        broken_rules = [
            text for text in rules_broken_at(source, destination, rows=rows_of) if "rows" in text
        ]
    assert bool(broken_rules) is (rows < 2)  # two are left besides the marker, which does not count
    assert MARKER not in "".join(broken_rules)


def test_an_unsafe_vanished_name_is_not_of_the_source(tmp_path: Path) -> None:
    _, destination = stores(tmp_path)
    with S3Liar("source", StoreHabits(("key-and-folder",), 1), {"ONE"}) as source:
        for name in source.odd:
            source.shelf.put(name, b"data", "source")
        assert any("rows" in text for text in rules_broken_at(source, destination))
        for name in source.odd:
            source.shelf.delete(name, "source")
        assert rules_broken_at(source, destination) == []


@pytest.mark.parametrize(
    ("habit", "state", "stage", "accounted"),
    [
        ("href-bare", "queued", "paused", True),
        ("href-bare", "queued", "partial", False),
        ("href-bare", "skipped", "paused", False),
        ("href-url", "queued", "paused", False),
        ("href-url", "failed", "partial", True),
    ],
)
def test_a_waiting_folder_accounts_for_its_content(
    tmp_path: Path, habit: str, state: str, stage: str, accounted: bool
) -> None:
    _, destination = stores(tmp_path)
    with PlainLiar("source", StoreHabits((), 1), {"ONE"}) as source:
        source.shelf.put("sub/x.bin", b"data", "source")
        rows = {"sub": Row("sub", state, "", "", "", ""), "a": FAILED}
        members = {"traits": (("source", habit),), "objects": (("sub/x.bin", 4),), "stage": stage}
        broken_rules = rules_broken_at(source, destination, rows=rows, **members)
    assert (broken_rules == []) is accounted


@pytest.mark.parametrize(
    ("traits", "wish", "code", "excused"),
    [
        (("flips-once", "tag-none"), "skip", "digest-mismatch", True),
        (("flips-once", "tag-weak"), "fail", "digest-mismatch", True),
        (("flips-once",), "skip", "digest-mismatch", False),
        (("flips-once", "tag-none"), "changed", "digest-mismatch", False),
        (("flips-once", "tag-none"), "skip", "destination-mutates", False),
        (("short-once", "tag-none"), "skip", "digest-mismatch", False),
    ],
)
def test_only_objects_of_another_writer_may_stay_absent(
    traits: tuple[str, ...], wish: str, code: str, excused: bool
) -> None:
    seed = next(
        number
        for number in range(100)
        if PlainLiar("destination", StoreHabits((), number), set()).reports_tags
    )
    with (
        PlainLiar("source", StoreHabits((), 1), set()) as source,
        PlainLiar("destination", StoreHabits((), seed), set()) as to,
    ):
        made = case(
            traits=tuple(("destination", name) for name in traits),
            if_exists=wish,
            objects=(("a", 4),),
        )
        row = Row(
            "a", "failed", code, "destination", "A damaged upload of ours may remain at …", ""
        )
        played = Played(case=made, source=source, destination=to, secrets={}, rows={"a": row})
        assert (list(check_arrivals(played)) == []) is excused


def test_the_judge_sees_where_credentials_and_links_lead(tmp_path: Path) -> None:
    _, destination = stores(tmp_path)
    with PlainLiar("source", StoreHabits((), 1), {"ONE"}) as source:
        source.log.append(
            Sent(op=Op(kind="get", name="a"), headers=[("Authorization", "Bearer ONE")])
        )
        assert rules_broken_at(source, destination) == []
        source.log.append(
            Sent(op=Op(kind="get", name="a"), headers=[("Authorization", "Bearer TWO")])
        )
        source.log.append(Sent(op=Op(kind="stray", name="/evil.txt")))
        assert len(rules_broken_at(source, destination)) == 2


@pytest.mark.parametrize(("habit", "status"), [("expires-401", 401), ("expires-403", 403)])
def test_credentials_expire_and_fresh_ones_do_not(habit: str, status: int) -> None:
    with PlainLiar("source", StoreHabits((habit,), 1), {"OLD"}) as store:
        store.shelf.put("ü", b"data", "source")
        path = f"/d/{quote('ü')}"
        answers = [ask_object(store, path, "Bearer OLD")[0] for _ in range(16)]
        assert (answers[0], answers[-1]) == (200, status)
        store.renew("NEW")
        assert ask_object(store, path, "Bearer OLD")[0] == 401
        assert [ask_object(store, path, "Bearer NEW")[0] for _ in range(16)] == [200] * 16


@pytest.mark.parametrize(
    ("message", "excused"),
    [
        (
            "A partial object may remain at http://h/d/sub/%C3%BC (refused); check, and delete it.",
            True,
        ),
        (
            "A partial object may remain at s3://b/sub/\\u00fc at http://h:1 (refused); check, and"
            " delete it.",
            True,
        ),
        (
            "A partial object may remain at http://h/d/sub/other (refused); check, and delete it.",
            False,
        ),
        ("something may remain", False),
    ],
)
def test_a_leftover_is_named_with_its_place(tmp_path: Path, message: str, excused: bool) -> None:
    source, destination = stores(tmp_path)
    with PlainLiar("destination", StoreHabits((), 1), {"TWO"}) as to:
        to.shelf.put("sub/ü", b"a piece", "relay", whole=False)
        row = Row("a", "failed", "store-timeout", "destination", message, "")
        played = Played(case=case(), source=source, destination=to, secrets={}, rows={"a": row})
        played.runs.append(ended_run(1))
        assert is_reported("sub/ü", played) is excused
