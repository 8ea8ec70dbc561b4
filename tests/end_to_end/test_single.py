"""`relay migrate` of one object: it resumes in the middle too, after every kind of end, and reports
what it waits for."""

from __future__ import annotations

import json
import random
import signal
import threading
from pathlib import Path

import pytest

from simulators.proxy import Proxy
from simulators.source import Source
from tests.end_to_end.terminal import Terminal
from tests.faults.scripted_peers import DATA, GET_HEAD, Cloud, source_script
from tests.scripted import Peer, Talk
from tests.seaweed import Seaweed

MIB = 1 << 20
LARGE, PART = 40 * MIB, 5 * MIB
ACKNOWLEDGED = "SELECT count(*) FROM parts WHERE etag != ''"


@pytest.fixture
def large_object(seaweed: Seaweed, request: pytest.FixtureRequest) -> tuple[bytes, str]:
    """Plant one large object; return its bytes and its future key."""
    name = request.node.name
    data = random.Random(name).randbytes(LARGE)
    seaweed.client().put_object(Bucket=seaweed.bucket, Key=f"{name}/from", Body=data)
    return data, f"{name}/to"


def assert_there(seaweed: Seaweed, large_object: tuple[bytes, str]) -> None:
    client = seaweed.client()
    assert (
        client.get_object(Bucket=seaweed.bucket, Key=large_object[1])["Body"].read()
        == large_object[0]
    )
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)


def words_of(seaweed: Seaweed, large_object: tuple[bytes, str], *more: str) -> tuple[str, ...]:
    source = large_object[1].removesuffix("to") + "from"
    return (
        "migrate",
        f"near:{seaweed.bucket}/{source}",
        f"far:{seaweed.bucket}/{large_object[1]}",
        *more,
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_same_command_resumes_in_the_middle(
    seaweed: Seaweed,
    slow_route: Proxy,
    clouds: Terminal,
    large_object: tuple[bytes, str],
    end: signal.Signals,
) -> None:
    words = words_of(seaweed, large_object)
    first = clouds.start(*words)
    clouds.wait_for(first, ACKNOWLEDGED, lambda count: count >= 3)
    first.send_signal(end)
    _, err = first.communicate(timeout=30)
    assert first.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[end], err
    if end == signal.SIGINT:
        assert "run the same command again to resume" in err
    kept = clouds.query("SELECT sum(size) FROM parts WHERE etag != ''")
    before = slow_route.bytes_carried("up")
    code, out, err = clouds.run(*words)
    assert code == 0, out + err
    assert f"resuming migration 1: {kept / 1e6:.1f} MB have arrived already" in err
    assert "whole_digest" in out
    assert slow_route.bytes_carried("up") - before <= LARGE - kept + 2 * PART
    assert_there(seaweed, large_object)
    code, out, _ = clouds.run("status", "1", "--json")
    assert (code, json.loads(out)["state"]) == (0, "succeeded")


@pytest.mark.timeout(120)
def test_a_part_that_a_kill_left_unrecorded_counts_as_resent(
    seaweed: Seaweed, clouds: Terminal, large_object: tuple[bytes, str]
) -> None:
    words = words_of(seaweed, large_object, "--json")
    assert clouds.run(*words, RELAY_FAILPOINT="after-part:2:kill9")[0] == -signal.SIGKILL
    code, out, err = clouds.run(*words)
    assert code == 0, out + err
    resent = json.loads(out)["receipt"]["bytes_resent"]
    assert resent >= PART
    assert resent == clouds.query("SELECT resent FROM transfers")
    assert ", at least " in clouds.run("status", "1")[1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("slow_route", [2e6], indirect=True, ids=["2MB"])
def test_a_second_terminal_takes_its_share_of_the_parts(
    seaweed: Seaweed, clouds: Terminal, large_object: tuple[bytes, str]
) -> None:
    words = words_of(seaweed, large_object, "--json")
    one = clouds.start(*words)
    clouds.wait_for(one, ACKNOWLEDGED, lambda count: count >= 1)
    two = clouds.start(*words)
    clouds.wait_for(two, "SELECT count(DISTINCT owner) FROM parts", lambda count: count == 2)
    ends = [(process.communicate(timeout=60), process.returncode) for process in (one, two)]
    assert [code for _, code in ends] == [0, 0], ends
    mine, other = (json.loads(out) for (out, _), _ in ends)
    assert (mine["state"], mine["receipt"]["level"]) == ("verified", "whole_digest")
    assert (other["id"], other["state"], other["objects"]) == (
        mine["id"],
        "succeeded",
        {"verified": 1},
    )
    assert clouds.query("SELECT max(attempts) FROM transfers") == 1
    assert_there(seaweed, large_object)


@pytest.mark.timeout(120)
def test_f25_an_expired_url_is_one_error_and_a_fresh_resumes(
    seaweed: Seaweed, clouds: Terminal
) -> None:
    with Source(seed="single") as source:
        url = source.url(f"/object?size={LARGE}")
        place = f"far:{seaweed.bucket}/expired/to"
        expiring = f"{url}&X-Amz-Signature=stale-secret&X-Amz-Fault=on(GET,after(6,status(403)))"
        code, out, err = clouds.run("migrate", expiring, place, "--json")
        problem = json.loads(out)
        assert (code, problem["type"].rpartition("/")[2], problem["side"]) == (
            1,
            "store-credentials-withdrawn",
            "source",
        )
        assert "relay: source: " in err
        assert "stale-secret" not in out + err
        kept, asked_for = clouds.query(ACKNOWLEDGED), len(source.journal.snapshot())
        assert kept >= 2
        code, out, err = clouds.run("migrate", f"{url}&X-Amz-Signature=fresh-secret", place)
        assert code == 0, out + err
        assert "resuming migration 1" in err
        read = [
            entry for entry in source.journal.snapshot()[asked_for:] if entry["method"] == "GET"
        ]
        assert len(read) == LARGE // PART - kept
        assert_there(seaweed, (source.content.read("/object", 0, LARGE), "expired/to"))


def test_a_report_names_a_single_object_by_its_source(clouds: Terminal, tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.write_bytes(b"bytes")
    assert clouds.run("migrate", str(source), str(tmp_path / "to"))[0] == 0
    shown = clouds.run("status", "1", "--json")[1]
    name = json.loads(shown)["source"]
    assert name.endswith(str(source))
    rows = [
        json.loads(line)
        for line in clouds.run("report", "1", "--format", "jsonl")[1].split("\n")
        if line
    ]
    assert [row["name"] for row in rows] == [name]
    for form in ("table", "csv", "html"):
        assert name in clouds.run("report", "1", "--format", form)[1]


def test_a_finished_command_runs_again(clouds: Terminal, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"as it was")
    words = ("migrate", str(tmp_path / "from"), str(tmp_path / "to"), "--json")
    for level, code in (("auto", 0), ("size", 3)):
        for text in (b"as it was", b"and as it is"):
            (tmp_path / "from").write_bytes(text)
            ended, out, err = clouds.run(*words, "--verify", level)
            assert (ended, json.loads(out)["bytes"]) == (code, len(text)), err
            assert (tmp_path / "to").read_bytes() == text
    assert clouds.query("SELECT count(*) FROM migrations") == 3  # the unverified one was resumed


def test_a_command_says_that_the_others_ask_a_server(clouds: Terminal, tmp_path: Path) -> None:
    """Its table names `relay retry 1` and others: the server's migration 1 is another one."""
    (tmp_path / "from").write_bytes(DATA)
    words, url = ("migrate", str(tmp_path / "from"), str(tmp_path / "to")), "http://127.0.0.1:1"
    assert "RELAY_URL" in clouds.run(*words, RELAY_URL=url)[2]
    assert "RELAY_URL" not in clouds.run(*words)[2]
    assert clouds.run(*words, "-q", RELAY_URL=url) == (0, "", "")


def test_a_paused_migration_says_so(
    seaweed: Seaweed, clouds: Terminal, large_object: tuple[bytes, str]
) -> None:
    first = clouds.start(
        *words_of(seaweed, large_object), "--bytes-per-second", "4M"
    )  # slow enough to be paused before its end
    clouds.wait_for(first, ACKNOWLEDGED, lambda count: count >= 1)
    assert clouds.run("pause", "1")[0] == 0
    out, err = first.communicate(timeout=30)
    assert first.returncode == 1, out + err
    assert "paused" in out
    assert "`relay resume 1`, or the same command, resumes it" in out + err
    assert clouds.run(*words_of(seaweed, large_object), "-q") == (0, "", "")
    assert_there(seaweed, large_object)


def test_a_failure_in_another_terminal_is_explained(clouds: Terminal, tmp_path: Path) -> None:
    gate, begun = threading.Event(), threading.Event()

    def cut(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[: len(DATA) // 2])
        begun.set()
        gate.wait(60)

    with Peer(source_script(Cloud(), cut)) as source:
        words = ("migrate", source.url(), str(tmp_path / "to"), "--retry-budget", "0")
        mine = clouds.start(*words)
        assert begun.wait(30)
        other = clouds.start(*words)
        clouds.wait_for(other, "SELECT count(*) FROM runners", lambda count: count == 2)
        gate.set()
        ends = [(process.communicate(timeout=60), process.returncode) for process in (mine, other)]
    assert [code for _, code in ends] == [1, 1], ends
    reason = f"ended after {len(DATA) // 2} of {len(DATA)} bytes"
    assert reason in ends[0][0][1]
    assert reason in ends[1][0][0]


def test_a_ledger_that_can_not_be_opened_is_one_line(clouds: Terminal, tmp_path: Path) -> None:
    clouds.ledger.write_bytes(b"somebody's notes " * 100)
    (tmp_path / "from").touch()
    done: tuple[int, str, str] = clouds.run("migrate", str(tmp_path / "from"), str(tmp_path / "to"))
    assert done[:2] == (2, "")
    assert str(clouds.ledger) in done[2]
    assert not (tmp_path / "to").exists()


def test_an_impossible_place_fails_before_a_ledger_is_made(clouds: Terminal) -> None:
    code, _, err = clouds.run("migrate", "nosuch:thing", "far:bucket/key")
    assert code == 2
    assert "nosuch" in err
    assert not clouds.ledger.exists()
