"""Standing migrations: `relay follow` keeps a bucket current that is written to all the while, and
`relay cutover` finds every write of its last passes."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulators.liars.operations import Op
from simulators.liars.s3 import S3Liar
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import Upload
from tests.end_to_end.terminal import Terminal, eventually
from tests.end_to_end.test_serve import SERVE, run_server

OLD = 1_700_000_000.0
PAGES_OF_TWO = 8
"""Number of pages of two listings of the source."""


@dataclass(frozen=True)
class Clouds:
    """Two buckets, and a terminal with a remote for each."""

    old: S3Liar
    new: S3Liar
    terminal: Terminal

    def write(self, name: str, data: bytes, modified: float | None = None) -> None:
        """Write an object of the source, now or at a time."""
        self.old.shelf.put(f"tree/{name}", data, "source", modified=modified)

    def missing(self) -> list[str]:
        """Return the names whose object at the destination is not that of the source."""
        return [
            name
            for name in self.old.shelf.names()
            if (there := self.new.shelf.get(name)) is None
            or (ours := self.old.shelf.get(name)) is None
            or there.data != ours.data
        ]

    def follow(self, *words: str, **more: str) -> tuple[int, str, str]:
        """Run `relay follow` with some more words."""
        places = ("old:bucket/tree/", "new:bucket/tree/")
        return self.terminal.run("follow", *places, "--every", "0s", *words, **more)


@pytest.fixture
def clouds(tmp_path: Path) -> Iterator[Clouds]:
    """Return two buckets; the source has ten objects."""
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(S3Liar(role, StoreHabits((), 1), {"KEY"}))
            for role in ("source", "destination")
        )
        remotes = [
            f'[remotes.{name}]\ntype = "s3"\nendpoint = "{cloud.url()}"\naccess_key_id = "KEY"\n'
            'secret_access_key = "SECRET"\nregion = "us-east-1"\n'
            for name, cloud in (("old", old), ("new", new))
        ]
        (tmp_path / "relay.toml").write_text("".join(remotes))
        made = Clouds(
            old,
            new,
            Terminal(
                tmp_path,
                RELAY_CONFIG=str(tmp_path / "relay.toml"),
                XDG_DATA_HOME=str(tmp_path / "data"),
            ),
        )
        for number in range(10):
            made.write(f"{number:02}", b"first %d" % number, OLD)
        yield made


def churn(clouds: Clouds, random_of: random.Random) -> None:
    """Write, replace and delete a few objects; some new versions have the size of the old ones."""
    for _ in range(3):
        number = random_of.randrange(14)
        data = random_of.choice([b"first %d" % number, b"other %d" % number, b"longer than first"])
        clouds.write(f"{number:02}", data)
    if random_of.random() < 0.5:
        clouds.old.shelf.delete(f"tree/{random_of.randrange(14):02}", "source")


@pytest.mark.timeout(60)
def test_twenty_passes_follow_a_bucket_that_changes(clouds: Clouds) -> None:
    """When a pass begins, the destination has everything as it was after the last change."""
    random_of, begun = random.Random(7), []

    def watch(op: Op) -> None:
        if op.kind != "list" or op.number:
            return
        if begun:
            assert (len(begun), clouds.missing()) == (len(begun), [])
            churn(clouds, random_of)
        begun.append(op)

    problems: list[AssertionError] = []

    def keep_problem(op: Op) -> None:
        try:
            watch(op)
        except AssertionError as error:
            problems.append(error)

    clouds.old.watch = keep_problem
    code, out, err = clouds.follow("--passes", "20", "--json")
    assert not problems, problems[0]
    assert code == 0, err
    passes = [json.loads(line) for line in out.splitlines()]
    assert [one["number"] for one in passes] == list(range(1, 21))
    assert all(one["complete"] for one in passes)
    assert clouds.missing() == []


@pytest.mark.timeout(60)
def test_a_pass_without_changes_only_lists(clouds: Clouds) -> None:
    assert clouds.follow("--passes", "1")[0] == 0
    clouds.old.log.clear()
    clouds.new.log.clear()
    code, out, err = clouds.follow("--passes", "1", "--json")
    assert code == 0, err
    assert [sent.op.kind for sent in clouds.old.log] == ["list"] * 4  # three names a page
    assert clouds.new.log == []
    found = json.loads(out)
    assert (found["listed"], found["changed"], found["copied"]) == (10, 0, 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "place", ["after-page:1", "after-claim:1", "after-put-sent:2", "before-settle:1"]
)
def test_a_killed_pass_goes_on_and_counts_once(clouds: Clouds, place: str) -> None:
    assert clouds.follow("--passes", "1")[0] == 0
    for number in range(5, 12):
        clouds.write(f"{number:02}", b"second %d" % number)
    assert clouds.follow("--passes", "1", RELAY_FAILPOINT=f"{place}:kill9")[0] == -9
    code, out, err = clouds.follow("--passes", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["number"], found["listed"], found["changed"]) == (2, 12, 7)
    assert clouds.missing() == []
    assert clouds.terminal.query("SELECT count(*) FROM passes") == 2


@pytest.mark.timeout(60)
def test_a_source_without_names_pauses_and_says_so(clouds: Clouds) -> None:
    assert clouds.follow("--passes", "1")[0] == 0
    kept = {name: clouds.old.shelf.get(name) for name in clouds.old.shelf.names()}
    for name in kept:
        clouds.old.shelf.delete(name, "source")
    code, _, err = clouds.follow("--passes", "1")
    assert code == 1 and "the source has no object any longer" in err
    assert clouds.terminal.query("SELECT state FROM migrations") == "paused"
    for name, held in kept.items():
        assert held is not None
        clouds.old.shelf.put(name, held.data, "source", modified=held.modified)
    assert clouds.follow("--passes", "1")[0] == 0  # the same pass goes on
    assert clouds.terminal.query("SELECT count(*) FROM passes") == 2


@pytest.mark.timeout(60)
def test_what_others_wrote_there_is_not_replaced(clouds: Clouds) -> None:
    """Both sides have changed: neither replaces the other until a person has looked."""
    assert clouds.follow("--passes", "1")[0] == 0
    clouds.write("03", b"second 3")
    clouds.write("04", b"second 4")
    clouds.new.shelf.put("tree/03", b"another writer's", "other")
    code, out, _ = clouds.follow("--passes", "1", "--json")
    found = json.loads(out)
    assert (code, found["copied"], found["failed"], found["refused"]) == (1, 1, 1, 1)
    assert clouds.missing() == ["tree/03"]
    assert clouds.follow("--passes", "1", "--overwrite-changed")[0] == 0
    assert clouds.missing() == []


@pytest.mark.timeout(60)
def test_a_cutover_is_rehearsed_reported_and_finished(clouds: Clouds) -> None:
    terminal = clouds.terminal
    assert clouds.follow("--passes", "1")[0] == 0
    assert terminal.run("keys", "new")[0] == 0
    code, _, err = terminal.run("cutover", "1")
    assert code == 1 and "was not rehearsed in the last 24 hours" in err
    clouds.write("03", b"second 3")
    begun = Upload(id="u", name="tree/99", by="other", begun=OLD)
    clouds.old.shelf.uploads["u"] = begun
    code, out, err = terminal.run("cutover", "1", "--rehearse")
    assert code == 0, out + err
    assert "warn  1 upload in parts is open at the source, the oldest since 2023-11-14" in out
    assert "10 objects proved, 0 unproved" in out and "ok    signing key" in out
    clouds.write("04", b"second 4")
    folder = terminal.home / "report"
    code, out, err = terminal.run("cutover", "1", "--output", str(folder))
    assert code == 0, out + err
    assert clouds.missing() == []
    report = json.loads((folder / "report.json").read_text())
    assert report["cutover"]["audit"]["proved"] == "10"
    assert [one["kind"] for one in report["passes"]] == ["first", "rehearsal", "final", "final"]
    signers = terminal.home / "signers"
    signers.write_text(terminal.run("keys", "show")[1])
    code, _, err = terminal.run("check-report", str(folder), "--allowed-signers", str(signers))
    assert code == 0, err
    code, out, _ = terminal.run("cutover", "1")  # a second operator
    assert code == 0 and "is reported already" in out
    rows = [json.loads(line) for line in terminal.run("feed", "1", "--after", "9")[1].splitlines()]
    events = [(row["seq"], row["event"], row["name"]) for row in rows]
    assert events[1:] == [(11, "replaced", "03"), (12, "replaced", "04")]
    assert rows[2]["destination"]["url"] == "new:bucket/tree/04"
    code, out, _ = terminal.run("finish", "1")
    assert code == 0 and "is finished: succeeded" in out
    assert terminal.query("SELECT state FROM migrations") == "succeeded"


@pytest.mark.timeout(60)
def test_a_killed_cutover_goes_on(clouds: Clouds) -> None:
    terminal = clouds.terminal
    assert clouds.follow("--passes", "1")[0] == 0
    assert terminal.run("keys", "new")[0] == 0
    clouds.write("03", b"second 3")
    for words in (("--rehearse",), ("--unrehearsed", "--output", str(terminal.home / "report"))):
        place = "before-settle:1" if words == ("--rehearse",) else "after-page:2"
        killed = terminal.run("cutover", "1", *words, RELAY_FAILPOINT=f"{place}:kill9")
        assert killed[0] == -9
        code, out, err = terminal.run("cutover", "1", *words)
        assert code == 0, out + err
        clouds.write("04", b"second 4")
    kinds = terminal.query("SELECT group_concat(kind) FROM passes")
    assert kinds == "first,rehearsal,final,final"


@pytest.mark.timeout(60)
def test_ctrl_c_ends_the_wait_for_the_next_pass(clouds: Clouds) -> None:
    words = ("follow", "old:bucket/tree/", "new:bucket/tree/", "--every", "1h")
    process = clouds.terminal.start(*words)
    phase = "SELECT phase FROM migrations"
    clouds.terminal.wait_for(process, phase, lambda found: found == "steady")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "run the same command again" in err) == (130, True)


@pytest.mark.timeout(60)
def test_an_audit_finds_what_others_did_and_a_pass_mends_it(clouds: Clouds) -> None:
    """A lost object is copied again; one that another writer has replaced is refused."""
    terminal = clouds.terminal
    assert clouds.follow("--passes", "1")[0] == 0
    assert terminal.run("keys", "new")[0] == 0
    clouds.new.shelf.delete("tree/02", "other")
    clouds.new.shelf.put("tree/03", b"stolen 3", "other")
    code, out, _ = terminal.run("cutover", "1", "--rehearse")
    assert code == 1 and "fail  02: missing (listing)" in out and "fail  03: differs" in out
    code, out, err = terminal.run("cutover", "1", "--unrehearsed")
    assert code == 1 and "another pass would not change that" in err, out
    assert clouds.missing() == ["tree/03"]
    assert terminal.query("SELECT phase FROM migrations") == "steady"
    # Only what was refused is accepted, whatever number is given: another difference is mended.
    clouds.new.shelf.put("tree/04", b"stolen 4", "other")
    clouds.write("04", b"second 4")
    clouds.new.shelf.delete("tree/05", "other")
    folder = terminal.home / "report"
    words = ("cutover", "1", "--unrehearsed", "--accept-refused", "9", "--output", str(folder))
    code, out, err = terminal.run(*words)
    assert code == 0, out + err
    assert clouds.missing() == ["tree/03", "tree/04"]
    found = json.loads((folder / "report.json").read_text())["cutover"]["accepted_refused"]
    assert found == {"objects": "2", "names": ["03", "04"]}


@pytest.mark.timeout(60)
def test_a_rehearsal_replaces_no_object_of_others(tmp_path: Path) -> None:
    """Also where the first pass has skipped an object that was there before."""
    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")
    source, destination = tmp_path / "from", tmp_path / "to"
    for folder, names in ((source, ("x", "y", "z")), (destination, ("x", "z"))):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"first")
            os.utime(folder / name, (OLD, OLD))
    words = ("follow", str(source), str(destination), "--passes", "1", "--every", "1s")
    assert terminal.run(*words)[0] == 0
    assert terminal.query("SELECT group_concat(state) FROM transfers").count("skipped") == 2
    for name in ("x", "y"):
        (destination / name).write_bytes(b"newer, and of another writer")
    (destination / "z").unlink()
    for _ in range(2):
        code, out, _ = terminal.run("cutover", "1", "--rehearse")
        assert code == 1 and "2 differs" in out
    assert {path.read_bytes() for path in (destination / "x", destination / "y")} == {
        b"newer, and of another writer"
    }
    assert (destination / "z").read_bytes() == b"first"  # a lost one is copied again
    assert terminal.run(*words, "--overwrite-changed")[0] == 0
    assert (destination / "x").read_bytes() == (destination / "y").read_bytes() == b"first"


@pytest.mark.timeout(60)
def test_a_killed_pass_makes_no_object_of_others_ours(tmp_path: Path) -> None:
    """A worker that was lost may have sent an object; not one that was there before, and that an
    audit has found different."""
    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")
    source, destination = tmp_path / "from", tmp_path / "to"
    for folder in (source, destination):
        folder.mkdir()
        (folder / "x").write_bytes(b"first")
        os.utime(folder / "x", (OLD, OLD))
    words = ("follow", str(source), str(destination), "--passes", "1", "--every", "1s")
    assert terminal.run(*words)[0] == 0
    (destination / "x").write_bytes(b"newer, and of another writer")
    assert terminal.run("cutover", "1", "--rehearse")[0] == 1
    assert terminal.run(*words, RELAY_FAILPOINT="after-claim:1:kill9")[0] == -9
    assert terminal.run(*words)[0] == 1
    assert (destination / "x").read_bytes() == b"newer, and of another writer"


@pytest.mark.timeout(60)
def test_an_audit_chooses_as_the_last_pass_did(clouds: Clouds) -> None:
    """Ages count from its beginning: an object that is younger than the migration is proved too."""
    words = ("--passes", "1", "--min-age", "0s")
    assert clouds.follow(*words)[0] == 0
    clouds.write("20", b"written after the migration was accepted")
    assert clouds.follow(*words)[0] == 0
    clouds.terminal.run("keys", "new")
    clouds.new.shelf.delete("tree/20", "other")
    code, out, _ = clouds.terminal.run("cutover", "1", "--rehearse")
    assert code == 1 and "fail  20: missing" in out


@pytest.mark.timeout(120)
def test_a_write_at_each_moment_of_a_cutover_is_found(clouds: Clouds) -> None:
    """Two equal listings and that of the audit have four pages each. The last name is on the last
    page, so that each of them shows it."""
    terminal = clouds.terminal
    assert clouds.follow("--passes", "1")[0] == 0
    assert terminal.run("keys", "new")[0] == 0
    for moment in range(12):
        pages: list[int] = []

        def watch(op: Op, moment: int = moment, pages: list[int] = pages) -> None:
            if op.kind != "list":
                return
            if len(pages) == moment:
                clouds.write("00", b"at %d" % moment)
                clouds.write("99", b"at %d" % moment)
            pages.append(op.number)

        clouds.old.watch = watch
        folder = terminal.home / f"report-{moment}"
        code, out, err = terminal.run("cutover", "1", "--unrehearsed", "--output", str(folder))
        clouds.old.watch = None
        assert code == 0 and "2 listings equal" in out, (moment, out, err)
        assert clouds.missing() == [], (moment, pages)
        # From the second listing on, a write is named with its time.
        is_named = "relay:   99, changed 20" in err
        assert is_named or moment < 4 or moment > 7, (moment, err)
        assert terminal.run("reopen", "1")[0] == 0


@pytest.mark.timeout(60)
def test_a_new_object_before_the_audit_begins_passes_again(clouds: Clouds) -> None:
    """Only the audit lists it: the pages after those of two equal listings."""
    terminal = clouds.terminal
    pages: list[int] = []
    assert clouds.follow("--passes", "1")[0] == 0
    assert terminal.run("keys", "new")[0] == 0

    def watch(op: Op) -> None:
        if op.kind == "list":
            if len(pages) == PAGES_OF_TWO:
                clouds.write("new", b"late")
            pages.append(op.number)

    clouds.old.watch = watch
    folder = str(terminal.home / "report")
    code, out, err = terminal.run("cutover", "1", "--unrehearsed", "--output", folder)
    assert (code, "fail  new: missing" in out) == (0, True), out + err
    assert clouds.missing() == []


@pytest.mark.timeout(60)
def test_a_pass_of_an_earlier_cutover_does_not_count(clouds: Clouds) -> None:
    terminal = clouds.terminal
    assert clouds.follow("--passes", "1")[0] == 0
    assert terminal.run("keys", "new")[0] == 0
    for number in (1, 2):
        folder = str(terminal.home / f"report-{number}")
        assert terminal.run("cutover", "1", "--unrehearsed", "--output", folder)[0] == 0
        assert terminal.run("reopen", "1")[0] == 0
    kinds = terminal.query("SELECT group_concat(kind) FROM passes")
    assert kinds == "first,final,final,final,final"


@pytest.mark.timeout(90)
def test_a_server_follows_and_a_command_cuts_over(clouds: Clouds) -> None:
    """The server begins its passes itself; the cutover is made on the machine of its ledger."""
    terminal = clouds.terminal
    settings = {
        "RELAY_CONFIG": str(terminal.home / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{terminal.ledger}",
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
    }
    asked = {
        "source": "old:bucket/tree/",
        "destination": "new:bucket/tree/",
        "recursive": True,
        "standing": {"every": 1},
    }
    with run_server(SERVE, **settings) as server:
        status, made = server.ask("POST", "/migrate", asked)
        assert status == 202, made
        assert made["standing"]["phase"] == "first"
        eventually(lambda: clouds.missing() == [])
        clouds.write("03", b"second 3")
        eventually(lambda: clouds.missing() == [])
        rows = server.ask("GET", "/migrations/1/feed?after=10&wait=10")[1]["rows"]
        assert [(row["seq"], row["event"], row["name"]) for row in rows] == [(11, "replaced", "03")]
        assert terminal.run("keys", "new")[0] == 0
        folder = str(terminal.home / "report")
        code, out, err = terminal.run("cutover", "1", "--unrehearsed", "--output", folder)
        assert code == 0, out + err
        with closing(server.connect()) as page:
            page.request("GET", "/ui/migrations/1", headers={"Accept": "text/html"})
            assert page.getresponse().status == 200
        passes = server.ask("GET", "/migrations/1/passes")[1]["passes"]
        assert [one["kind"] for one in passes[:2]] == ["final", "final"]
        status, done = server.ask("POST", "/migrations/1/finish")
        assert status == 200, done
        eventually(lambda: server.ask("GET", "/migrations/1")[1]["state"] == "succeeded")
