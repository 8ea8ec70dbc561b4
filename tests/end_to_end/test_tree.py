"""`relay migrate -r` as its users run it: everything moved and proved, and nothing lost to any kind
of end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.proxy import Proxy
from tests.end_to_end.terminal import Terminal
from tests.seaweed import Seaweed

MIB = 1 << 20
LARGE = 40 * MIB


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal with a ledger of its own."""
    return Terminal(tmp_path)


def plant(folder: Path, count: int = 120) -> dict[str, str]:
    """Write a tree with all kinds of names; return the digests by name."""
    chance, digests = random.Random(5), {}
    names = [f"a/{i % 7}/file {i}.bin" for i in range(count)] + ["ü/ñ+%20.txt", "empty", "#?&=.x"]
    for name in names:
        data = chance.randbytes(chance.randrange(1, 40_000)) if name != "empty" else b""
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def digests_of(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's files by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# -- folders of this machine


def test_a_tree_arrives_and_a_repeat_sends_nothing(terminal: Terminal, tmp_path: Path) -> None:
    planted = plant(tmp_path / "from")
    code, report = terminal.tree(tmp_path / "from", tmp_path / "to")
    assert (code, report["state"], report["objects"]) == (
        0,
        "succeeded",
        {"verified": len(planted)},
    )
    assert digests_of(tmp_path / "to") == planted
    (tmp_path / "from" / "empty").write_bytes(b"not any more")
    code, report = terminal.tree(tmp_path / "from", tmp_path / "to")
    assert (code, report["number"]) == (0, 2)
    assert report["objects"] == {"skipped": len(planted) - 1, "verified": 1}
    assert (tmp_path / "to" / "empty").read_bytes() == b"not any more"


def test_a_quiet_command_prints_its_failures(terminal: Terminal, tmp_path: Path) -> None:
    """Cron mails what a command prints, and not its exit code."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "one").write_bytes(b"1")
    os.mkfifo(tmp_path / "from" / "pipe")
    words = "-r", f"{tmp_path}/from", f"{tmp_path}/to"
    for command in (("migrate", *words), ("watch", "1")):
        code, out, err = terminal.run(*command, "-q")
        assert (code, out) == (1, "")
        assert err.startswith("failed       pipe: "), err
        assert "`relay report 1 --state failed`" in err.splitlines()[-1]
    (tmp_path / "from" / "pipe").unlink()
    assert terminal.run("migrate", *words, "-q") == (0, "", "")


def edit(file: Path, data: bytes, seconds: float) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    os.utime(file, ns=(0, int(seconds * 1e9)))


def test_a_file_that_changes_within_its_second_is_sent_again(
    terminal: Terminal, tmp_path: Path
) -> None:
    """Its length and the second of its time stay the same: the destination shows the time in
    full."""
    file, copy = tmp_path / "from" / "a", tmp_path / "to" / "a"
    edit(file, b"first", 1e9 + 0.25)
    assert terminal.tree(tmp_path / "from", tmp_path / "to")[0] == 0
    edit(file, b"other", 1e9 + 0.5)
    assert terminal.run("plan", "-r", f"{file.parent}/", f"{copy.parent}/")[1].count("1 differs")
    assert terminal.tree(tmp_path / "from", tmp_path / "to")[1]["objects"] == {"verified": 1}
    assert copy.read_bytes() == b"other"
    assert terminal.tree(tmp_path / "from", tmp_path / "to")[1]["objects"] == {"skipped": 1}


def test_a_rounded_time_is_not_a_change(terminal: Terminal, tmp_path: Path) -> None:
    file, copy = tmp_path / "from" / "a", tmp_path / "to" / "a"
    for path, moment in ((file, 1e9 + 0.75), (copy, 1e9)):  # FAT, and some mounts
        edit(path, b"equal", moment)
    assert terminal.tree(tmp_path / "from", tmp_path / "to")[1]["objects"] == {"skipped": 1}


def test_a_file_that_changes_during_its_upload_is_sent_again(
    seaweed: Seaweed, clouds: Terminal, tmp_path: Path
) -> None:
    """Both times precede the object's own, as if the store's clock were ahead."""
    file, there = tmp_path / "from" / "a", f"near:{seaweed.bucket}/beside"
    edit(file, b"first", time.time() - 20)
    assert clouds.tree(file.parent, there)[0] == 0
    edit(file, b"other", time.time() - 10)
    assert clouds.tree(file.parent, there)[1]["objects"] == {"verified": 1}
    assert clouds.tree(file.parent, there)[1]["objects"] == {"skipped": 1}
    stored = seaweed.client().get_object(Bucket=seaweed.bucket, Key="beside/a")
    assert stored["Body"].read() == b"other"


def test_a_failure_stops_no_other_and_a_repeat_moves_the_rest(
    terminal: Terminal, tmp_path: Path
) -> None:
    planted = plant(tmp_path / "from", 20)
    (tmp_path / "to" / "a" / "0" / "file 0.bin").mkdir(parents=True)
    (tmp_path / "to" / "a" / "0" / "file 0.bin" / "in the way").touch()
    code, out, err = terminal.run("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert code == 1
    assert "a/0/file 0.bin failed: destination:" in err
    assert "partial" in out
    assert "1 failed" in out
    (tmp_path / "to" / "a" / "0" / "file 0.bin" / "in the way").unlink()
    (tmp_path / "to" / "a" / "0" / "file 0.bin").rmdir()
    code, out, err = terminal.run("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert code == 0
    assert "resuming migration 1: 22 objects" in err
    assert digests_of(tmp_path / "to") == planted


def test_a_watch_says_that_no_worker_runs_the_migration(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "from", 1)
    (tmp_path / "to" / "empty" / "in the way").mkdir(parents=True)
    assert terminal.run("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"))[0] == 1
    assert terminal.run("retry", "1")[0] == 0
    watching = terminal.start("watch", "1")
    assert watching.stderr is not None
    assert watching.stderr.readline() == (
        "relay: no process moves it now: the same `relay migrate` command resumes it\n"
    )
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=30)
    assert watching.returncode == 130


def test_status_says_at_once_that_the_process_was_killed(
    terminal: Terminal, tmp_path: Path
) -> None:
    plant(tmp_path / "from", 3)
    words = ("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert terminal.run(*words, RELAY_FAILPOINT="before-publish:2:kill9")[0] == -9
    held = terminal.query("SELECT count(*) FROM transfers WHERE state = 'running'")
    assert ", no process moves it" in terminal.run("status")[1]
    shown = terminal.run("status", "1")[1]
    assert "no process moves it now: the same `relay migrate` command resumes it" in shown
    assert "0 transfers" in shown and "\nslots" not in shown
    reported = json.loads(terminal.run("status", "1", "--json")[1])
    assert (reported["state"], reported["waits_for"]) == ("running", "relay migrate")
    assert (reported["under_way"], reported["slots"]) == (0, None)
    assert terminal.query("SELECT count(*) FROM transfers WHERE state = 'running'") == held > 0
    assert terminal.run(*words)[0] == 0
    assert "waits_for" not in json.loads(terminal.run("status", "1", "--json")[1])


def test_limits_stay_until_lifted_and_are_reported(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "from", 5)
    (tmp_path / "to" / "empty" / "in the way").mkdir(parents=True)
    words = ("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert terminal.run(*words, "--slots", "2", "--bytes-per-second", "50M")[0] == 1
    assert (
        json.loads(terminal.run("status", "1", "--json")[1])["limits"]["slots"] is None
    )  # it belongs to that terminal
    code, _, err = terminal.run("retry", "1")
    assert (code, "run the same command again" in err) == (0, True)  # no server runs it
    assert terminal.run("limit", "1", "--slots", "2")[0] == 0
    code, _, err = terminal.run(*words, "--connections", "3")
    assert (
        code,
        "limits: slots 2, bytes_per_second 50,000,000, connections 3 (`relay limit 1`)" in err,
    ) == (1, True)
    assert json.loads(terminal.run("status", "1", "--json")[1])["limits"]["connections"] == 3
    (tmp_path / "to" / "empty" / "in the way").rmdir()
    (tmp_path / "to" / "empty").rmdir()
    assert terminal.run(*words)[0] == 0


def test_an_undecodable_name_is_reported_and_left_out(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "from", 3)
    (
        tmp_path / "from" / os.fsdecode(b"zz\xff")
    ).touch()  # the last one, after which a listing would continue
    code, report = terminal.tree(tmp_path / "from", tmp_path / "to")
    assert (code, report["state"], report["objects"]) == (
        1,
        "partial",
        {"failed": 1, "verified": 6},
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere", "to"), "No such file or directory"),
        (("from", "from/inside"), "one contains the other"),
        (("from", "from"), "one contains the other"),
        (("from", "to", "--method", "POST"), "by PUT"),
        (("from", "nosuch:bucket"), "no remote"),
    ],
)
def test_an_impossible_tree_is_one_clear_line(
    terminal: Terminal, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    plant(tmp_path / "from", 1)
    places = [
        str(tmp_path / word) if not word.startswith(("-", "P", "nosuch")) else word
        for word in words
    ]
    code, out, err = terminal.run("migrate", "-r", *places)
    assert code in (1, 2)
    assert says in err + out


def test_a_ledger_that_can_not_be_opened_is_one_line(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "from", 1)
    terminal.ledger.write_bytes(b"this is not a database, but somebody's notes " * 100)
    code, _, err = terminal.run("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"))
    assert code == 2
    assert str(terminal.ledger) in err
    assert terminal.ledger.read_bytes().startswith(b"this is not a database")


# -- S3, in parts


@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_large_object_resumes_in_the_middle(
    seaweed: Seaweed, slow_route: Proxy, clouds: Terminal, end: signal.Signals
) -> None:
    client, data = seaweed.client(), random.Random(7).randbytes(LARGE)
    name = f"large-{end.name}"
    client.put_object(
        Bucket=seaweed.bucket, Key=f"{name}/from/object", Body=data, Metadata={"color": "blue"}
    )
    words = ("-r", f"near:{seaweed.bucket}/{name}/from", f"far:{seaweed.bucket}/{name}/to")
    first = clouds.start("migrate", *words)
    clouds.wait_for(first, "SELECT count(*) FROM parts WHERE etag != ''", lambda count: count >= 3)
    first.send_signal(end)
    out, err = first.communicate(timeout=30)
    assert first.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[end], err
    kept = clouds.query("SELECT sum(size) FROM parts WHERE etag != ''")
    before = slow_route.bytes_carried("up")
    code, out, err = clouds.run("migrate", *words, "--json")
    assert code == 0, out + err
    report = json.loads(out)
    assert (report["number"], report["objects"], report["levels"]) == (
        1,
        {"verified": 1},
        {"whole_digest": 1},
    )
    assert report["bytes_here"] == LARGE - kept
    sent = slow_route.bytes_carried("up") - before
    assert (
        sent <= LARGE - kept + 2 * 5 * MIB
    )  # bytes of the dead process may still be on the slow route
    assert before + sent <= LARGE + 2 * 5 * MIB + 128 * 1024
    answer = client.get_object(Bucket=seaweed.bucket, Key=f"{name}/to/object")
    assert answer["Metadata"]["color"] == "blue"
    assert hashlib.sha256(answer["Body"].read()).digest() == hashlib.sha256(data).digest()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_f51_a_cancel_removes_unfinished_parts(
    seaweed: Seaweed, clouds: Terminal, tmp_path: Path, end: signal.Signals
) -> None:
    client, name = seaweed.client(), f"forsaken-{end.name.lower()}"
    client.put_object(Bucket=seaweed.bucket, Key=f"{name}/from/object", Body=bytes(LARGE))
    first = clouds.start(
        "migrate", "-r", f"near:{seaweed.bucket}/{name}/from", f"far:{seaweed.bucket}/{name}/to"
    )
    clouds.wait_for(first, "SELECT count(*) FROM parts WHERE etag != ''", lambda count: count >= 1)
    first.send_signal(end)
    first.communicate(timeout=30)
    assert len(client.list_multipart_uploads(Bucket=seaweed.bucket)["Uploads"]) == 1
    config = tmp_path / "relay.toml"
    text = config.read_text()
    config.write_text(
        text.replace(seaweed.endpoint, "http://127.0.0.1:9").replace(
            far_endpoint(text), "http://127.0.0.1:9"
        )
    )
    code, _, err = clouds.run("cancel", "1", RELAY_RETRY_BUDGET="1")
    assert code == 1
    assert f"may remain at s3://{seaweed.bucket}/{name}/to/object: " in err
    assert "run the same command again to retry" in err
    config.write_text(text)
    code, out, err = clouds.run("cancel", "1")
    assert (code, err) == (
        0,
        f"relay: nothing unfinished is left at far:{seaweed.bucket}/{name}/to (1 checked)\n",
    ), out
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)
    assert "Contents" not in client.list_objects_v2(Bucket=seaweed.bucket, Prefix=f"{name}/to/")
    assert clouds.query("SELECT count(*) FROM uploads") == 0


def far_endpoint(config: str) -> str:
    """Return the endpoint of the remote `far`."""
    return config.partition("[remotes.far]")[2].partition('endpoint = "')[2].partition('"')[0]


def test_f51_a_cancel_removes_a_name_of_a_lost_process(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "from", 1)
    words = ("migrate", "-r", str(tmp_path / "from"), str(tmp_path / "to"), "--slots", "1")
    assert terminal.run(*words, RELAY_FAILPOINT="before-publish:1:kill9")[0] == -9
    (left,) = [path for path in (tmp_path / "to").rglob("*") if path.is_file()]
    assert left.name.startswith(".")
    mine = left.with_name(".relay-of-another-part")
    mine.write_bytes(b"another's")
    code, out, err = terminal.run("cancel", "1")
    assert code == 0, out
    assert err.startswith(f"relay: nothing unfinished is left at {tmp_path}/to/ (")
    assert [path for path in (tmp_path / "to").rglob("*") if path.is_file()] == [mine]
    assert terminal.run("cancel", "1")[::2] == (0, "")


@pytest.mark.timeout(120)
def test_an_object_that_changed_meanwhile_restarts(seaweed: Seaweed, clouds: Terminal) -> None:
    client = seaweed.client()
    client.put_object(Bucket=seaweed.bucket, Key="changed/from/object", Body=bytes(LARGE))
    words = ("-r", f"near:{seaweed.bucket}/changed/from", f"far:{seaweed.bucket}/changed/to")
    first = clouds.start("migrate", *words)
    clouds.wait_for(first, "SELECT count(*) FROM parts WHERE etag != ''", lambda count: count >= 2)
    first.kill()
    first.communicate(timeout=30)
    client.put_object(Bucket=seaweed.bucket, Key="changed/from/object", Body=b"\1" * LARGE)
    code, out, err = clouds.run("migrate", *words, "--json")
    assert code == 0, out + err
    assert set(
        client.get_object(Bucket=seaweed.bucket, Key="changed/to/object")["Body"].read()
    ) == {1}
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)


@pytest.mark.timeout(120)
def test_many_small_objects_survive_a_kill(seaweed: Seaweed, clouds: Terminal) -> None:
    client, chance = seaweed.client(), random.Random(3)
    planted = {f"{i:03}": chance.randbytes(chance.randrange(1, 60_000)) for i in range(250)}
    for name, data in planted.items():
        client.put_object(Bucket=seaweed.bucket, Key=f"small/from/{name}", Body=data)
    words = ("-r", f"near:{seaweed.bucket}/small/from", f"far:{seaweed.bucket}/small/to")
    for least in (20, 120):
        process = clouds.start("migrate", *words)
        clouds.wait_for(
            process,
            "SELECT count(*) FROM transfers WHERE state = 'verified'",
            lambda n, at=least: n >= at,
        )
        process.kill()
        process.communicate(timeout=30)
    code, out, err = clouds.run("migrate", *words, "--json")
    assert code == 0, out + err
    report = json.loads(out)
    assert sum(report["objects"].values()) == report["objects"]["verified"] == 250
    for name, data in planted.items():
        assert (
            client.get_object(Bucket=seaweed.bucket, Key=f"small/to/{name}")["Body"].read() == data
        )


def test_two_terminals_share_one_migration(seaweed: Seaweed, clouds: Terminal) -> None:
    client = seaweed.client()
    for i in range(80):
        client.put_object(Bucket=seaweed.bucket, Key=f"shared/from/{i:03}", Body=bytes(400_000))
    words = (
        "migrate",
        "-r",
        f"near:{seaweed.bucket}/shared/from",
        f"far:{seaweed.bucket}/shared/to",
        "--slots",
        "1",
        "--json",
    )
    one = clouds.start(*words)
    clouds.wait_for(
        one, "SELECT count(*) FROM transfers WHERE state = 'verified'", lambda count: count >= 1
    )
    two = clouds.start(*words)
    report = [json.loads(process.communicate(timeout=60)[0]) for process in (one, two)]
    assert [(t["number"], t["state"], t["objects"]) for t in report] == [
        (1, "succeeded", {"verified": 80})
    ] * 2
    assert sum(t["bytes_here"] for t in report) == 80 * 400_000
    assert clouds.query("SELECT max(attempts) FROM transfers") == 1


# -- one object, two processes

SLOWER = pytest.mark.parametrize("slow_route", [2e6], indirect=True, ids=["2MB"])
"""So slow that both have started before either has ended."""
MOVERS = "SELECT count(DISTINCT owner) FROM parts"


@pytest.fixture
def shared_object(seaweed: Seaweed, request: pytest.FixtureRequest) -> Iterator[tuple[bytes, str]]:
    """Plant one large object; return its bytes and its prefix. In the end it must be at `to`,
    alone."""
    name, client = request.node.name, seaweed.client()
    data = random.Random(name).randbytes(LARGE)
    client.put_object(Bucket=seaweed.bucket, Key=f"{name}/from/object", Body=data)
    yield data, name
    listed = client.list_objects_v2(Bucket=seaweed.bucket, Prefix=f"{name}/to/")["Contents"]
    assert [entry["Key"] for entry in listed] == [f"{name}/to/object"]
    assert client.get_object(Bucket=seaweed.bucket, Key=f"{name}/to/object")["Body"].read() == data
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)


def words_of(seaweed: Seaweed, name: str) -> tuple[str, ...]:
    return (
        "migrate",
        "-r",
        f"near:{seaweed.bucket}/{name}/from",
        f"far:{seaweed.bucket}/{name}/to",
        "--json",
    )


def start_two_movers(
    clouds: Terminal, words: tuple[str, ...]
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """Start a process that claims the object, and one that helps with it; return once both move
    parts."""
    owner = clouds.start(*words)
    clouds.wait_for(owner, MOVERS, lambda count: count == 1)
    sharer = clouds.start(*words)
    clouds.wait_for(sharer, MOVERS, lambda count: count == 2)
    return owner, sharer


@SLOWER
@pytest.mark.timeout(120)
def test_two_terminals_move_the_parts_of_one_object(
    seaweed: Seaweed, slow_route: Proxy, clouds: Terminal, shared_object: tuple[bytes, str]
) -> None:
    words = words_of(seaweed, shared_object[1])
    report = [
        json.loads(process.communicate(timeout=60)[0])
        for process in start_two_movers(clouds, words)
    ]
    assert [(t["state"], t["objects"], t["levels"]) for t in report] == [
        ("succeeded", {"verified": 1}, {"whole_digest": 1})
    ] * 2
    assert [t["bytes_resent"] for t in report] == [0, 0]
    assert sum(t["bytes_here"] for t in report) == LARGE
    assert min(t["bytes_here"] for t in report) > 0
    assert slow_route.bytes_carried("up") <= LARGE + 128 * 1024


@SLOWER
@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("which", [0, 1], ids=["owner", "helper"])
def test_a_helper_completes_the_object_of_an_ended_owner(
    seaweed: Seaweed,
    slow_route: Proxy,
    clouds: Terminal,
    shared_object: tuple[bytes, str],
    which: int,
    end: signal.Signals,
) -> None:
    words = words_of(seaweed, shared_object[1])
    movers = start_two_movers(clouds, words)
    movers[which].send_signal(end)
    movers[which].communicate(timeout=30)
    out, err = movers[1 - which].communicate(timeout=60)
    assert movers[1 - which].returncode == 0, err
    report = json.loads(out)
    assert (report["state"], report["objects"], report["levels"]) == (
        "succeeded",
        {"verified": 1},
        {"whole_digest": 1},
    )
    assert slow_route.bytes_carried("up") <= LARGE + 2 * 5 * MIB + 256 * 1024


@SLOWER
@pytest.mark.timeout(120)
def test_a_cancel_of_an_object_of_two_workers_leaves_nothing(
    seaweed: Seaweed, clouds: Terminal
) -> None:
    client = seaweed.client()
    client.put_object(Bucket=seaweed.bucket, Key="cancelled/from/object", Body=bytes(LARGE))
    words = words_of(seaweed, "cancelled")
    movers = start_two_movers(clouds, words)
    assert clouds.run("cancel", "1")[0] == 0
    for process in movers:
        out, err = process.communicate(timeout=60)
        assert json.loads(out)["state"] == "cancelled", err
    assert "Contents" not in client.list_objects_v2(Bucket=seaweed.bucket, Prefix="cancelled/to/")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)
