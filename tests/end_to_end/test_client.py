"""The commands that speak to a server, as their users run them; and the same ones on the local
ledger."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.cli.quantities import parse_bytes
from relay.views.migrations import FIELDS
from tests import forked
from tests.end_to_end.test_cli import ROOT, environment
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.looks import looks
from tests.scripted import Peer, Talk, answer

TOKEN = "planted-token-0123456789"
COUNT = 30


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder that the server may use, with a tree in it."""
    for i in range(COUNT):
        path = tmp_path / "from" / f"{i % 3}" / f"object {i:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * 1000)
    return tmp_path


@pytest.fixture
def settings(folders: Path) -> dict[str, str]:
    """Return the settings of a server that requires a token."""
    tokens = folders / "tokens"
    tokens.write_text(TOKEN + "\n")
    tokens.chmod(0o600)
    return {
        "RELAY_LOCAL_FOLDERS": str(folders),
        "RELAY_LEDGER": f"sqlite:///{folders}/server.db",
        "RELAY_TOKENS_FILE": str(tokens),
    }


@pytest.fixture
def server(settings: dict[str, str]) -> Iterator[Server]:
    """Return the server."""
    with run_server(SERVE, **settings) as made:
        yield made


Run = Callable[..., tuple[int, str, str]]


def start(*words: str, **more: str) -> Any:
    """Start a command; return it as `subprocess.Popen` would."""
    return forked.start(words, environment(**more))


def run(*words: str, **more: str) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and its output: no traceback, and never the
    token."""
    code, out, err = forked.run(words, environment(**more), 100)
    assert "Traceback" not in out + err, err
    assert TOKEN not in out + err
    return code, out, err


@pytest.fixture(params=["server", "ledger"])
def run_anywhere(request: pytest.FixtureRequest, folders: Path) -> Run:
    """Return a function that runs a command against a server, or on the ledger that the server also
    uses."""
    server: Server = request.getfixturevalue("server")
    there = {"RELAY_URL": f"http://{server.host}:{server.port}", "RELAY_TOKEN": TOKEN}
    here = {"RELAY_LEDGER": f"sqlite:///{folders}/server.db"}
    return lambda *words: run(*words, **(there if request.param == "server" else here))


def submit_tree(server: Server, folders: Path, *words: str, **more: str) -> tuple[int, str, str]:
    """Submit the tree to the server."""
    places = (f"file://{folders}/from", f"file://{folders}/to")
    url = f"http://{server.host}:{server.port}"
    return run("submit", "-r", *places, *words, RELAY_URL=url, RELAY_TOKEN=TOKEN, **more)


# -- with a server, and without


def test_a_migration_is_submitted_awaited_and_inspected(
    server: Server, folders: Path, run_anywhere: Run
) -> None:
    code, out, err = submit_tree(
        server, folders, "--wait", "--slots", "2", "--priority", "4", "--key", "photos"
    )
    assert code == 0, err
    first, *rows = out.splitlines()
    number, id = first.split()[1:]
    assert (first, number) == (f"migration 1  {id}", "1")
    table = dict(row.split(maxsplit=1) for row in rows)
    assert (table["state"], table["objects"]) == ("succeeded", f"{COUNT} verified")
    assert len(list((folders / "to").rglob("object *"))) == COUNT
    assert submit_tree(server, folders, "--key", "photos")[1].split()[2] == id

    assert run_anywhere("status")[1].split()[:2] == ["1", "succeeded"]
    (brief,) = [json.loads(line) for line in run_anywhere("status", "--json")[1].splitlines()]
    assert (brief["id"], brief["objects"]) == (id, {"verified": COUNT})
    whole = json.loads(run_anywhere("status", "1", "--json")[1])
    assert (whole["id"], whole["priority"], whole["limits"]["slots"]) == (id, 4, 2)
    assert "succeeded" in run_anywhere("status", id)[1]
    assert run_anywhere("watch", "1", "--quiet") == (0, "", "")

    rows_of = [
        json.loads(line) for line in run_anywhere("report", id, "--format", "jsonl")[1].splitlines()
    ]
    assert {row["name"] for row in rows_of} == {f"{i % 3}/object {i:02}" for i in range(COUNT)}
    sheet = list(csv.DictReader(io.StringIO(run_anywhere("report", "1", "--format", "csv")[1])))
    assert [row["digest"] for row in sheet] == [row["digest"] for row in rows_of]
    assert run_anywhere("report", "1", "--state", "failed")[1] == ""
    assert run_anywhere("report", "1", "--format", "html")[1].count("<tr") == COUNT + 1


def test_a_submission_with_filters_moves_what_they_choose(server: Server, folders: Path) -> None:
    names = folders / "names"
    names.write_text("#1\n0/object 00\n")
    filters = ("--files-from-raw", str(names), "--ignore-case")
    code, out, err = submit_tree(server, folders, "--wait", "--json", *filters)
    made = json.loads(out)
    # A folder that the names exclude whole is not listed, and counts as one.
    excluded = COUNT // 3 - 1 + len(("1/", "2/"))
    assert (code, made["objects"], made["excluded"]) == (0, {"verified": 1}, excluded), err
    assert made["options"]["filters"]["files_from"] == ["#1", "0/object 00"]
    assert "1 of 2 names of the list are not in the source: #1" in err


def test_a_share_of_the_limits_is_reported_with_its_use(
    server: Server, folders: Path, run_anywhere: Run
) -> None:
    code, out, _ = submit_tree(server, folders, "--bytes-per-second", "1", "--json")
    assert code == 0
    assert json.loads(out)["limits"]["bytes_per_second"] == 1
    code, out, _ = run_anywhere(
        "limit", "1", "--bytes-per-second", "2K", "--connections", "3", "--priority", "-7"
    )
    assert (code, "priority -7, bytes_per_second 2,000, connections 3" in out) == (0, True)
    assert " paused " in run_anywhere("pause", "1")[1]
    places = (f"file://{folders}/from", f"file://{folders}/to")
    assert run_anywhere("resume", "1", f"file://{folders}/other", places[1])[0] == 2
    code, out, err = run_anywhere("resume", "1", *places)
    assert (code, " running " in out, "same command" in err) == (0, True, False), err
    assert " cancelled " in run_anywhere("cancel", "1")[1]
    code, _, err = run_anywhere("limit", "1", "--slots", "5")
    assert (code, "cancelled" in err) == (1, True)
    assert " running " in run_anywhere("retry", "1")[1]
    assert run_anywhere("limit", "1", "--bytes-per-second", "none", "--connections", "NONE")[
        1
    ].endswith("no limits\n")
    code, out, err = run_anywhere("watch", "1")
    assert (code, "succeeded" in out) == (0, True), err


def test_a_paused_submission_starts_with_a_resume(
    server: Server, folders: Path, run_anywhere: Run
) -> None:
    assert submit_tree(server, folders, "--paused")[0] == 0
    shown = json.loads(run_anywhere("status", "1", "--json")[1])
    assert (shown["state"], shown["listing"], shown["objects"]) == ("paused", "due", {})
    assert " running " in run_anywhere("resume", "1")[1]
    assert run_anywhere("watch", "1", "--quiet")[0] == 0
    assert len(list((folders / "to").rglob("object *"))) == COUNT


def test_a_retry_of_one_reason_and_an_acknowledgement(
    server: Server, folders: Path, run_anywhere: Run
) -> None:
    """Failures of two reasons: a folder is in the way, and a link leads out of the tree."""
    (folders / "to/1/object 01/in the way").mkdir(parents=True)
    (folders / "from/2/object 02").unlink()
    (folders / "from/2/object 02").symlink_to("/etc/hostname")
    assert submit_tree(server, folders, "--wait", "--quiet")[0] == 1
    table = [line.split(maxsplit=1) for line in run_anywhere("status", "1")[1].splitlines()]
    reasons = {
        text.split(", e.g. ")[1]: text.split()[2][:-1] for name, text in table if name == "failed"
    }
    assert set(reasons) == {"1/object 01", "2/object 02"}, table
    hints = "\n".join(text for name, text in table if name == "hint")
    assert "relay retry 1 --reason REASON" in hints and "relay acknowledge 1" in hints
    assert " partial " in run_anywhere("acknowledge", "1")[1]
    assert "relay acknowledge" not in run_anywhere("status", "1")[1]
    code, _, err = run_anywhere("retry", "1", "--reason", "source:no-such-reason")
    assert (code, "no object of migration 1 failed for" in err) == (1, True), err
    (folders / "to/1/object 01/in the way").rmdir()
    (folders / "to/1/object 01").rmdir()
    assert " running " in run_anywhere("retry", "1", "--reason", reasons["1/object 01"])[1]
    code, out, _ = run_anywhere("watch", "1", "--json")
    assert (code, json.loads(out)["objects"]) == (1, {"failed": 1, "verified": COUNT - 1})
    assert run_anywhere("acknowledge", "1")[0] == 0


def test_a_migration_by_post_gets_fresh_credentials(
    server: Server, folders: Path, run_anywhere: Run
) -> None:
    """The method is part of the place."""
    places = (f"file://{folders}/from/nothing", "http://127.0.0.1:9/inbox/")
    there = {"RELAY_URL": f"http://{server.host}:{server.port}", "RELAY_TOKEN": TOKEN}
    assert run("submit", *places, "--method", "POST", "--wait", **there)[0] == 1
    code, _, err = run_anywhere("retry", "1", *places)
    assert (code, "--method POST" in err) == (2, True), err
    code, out, err = run_anywhere("retry", "1", *places, "--method", "POST")
    assert (code, " running " in out) == (0, True), err


def test_the_exit_code_is_that_of_its_end(server: Server, folders: Path, run_anywhere: Run) -> None:
    assert submit_tree(server, folders, "--verify", "size", "--wait", "--quiet") == (3, "", "")
    (folders / "to" / "1" / "object 01").unlink()
    (folders / "to" / "1" / "object 01" / "in the way").mkdir(parents=True)
    code, out, err = submit_tree(server, folders, "--wait", "--json")
    assert code == 1
    assert json.loads(out)["objects"]["failed"] == 1
    assert "1/object 01 failed: destination: " in err
    code, out, _ = run_anywhere("watch", "2")
    assert (code, "`relay report 2 --state failed`" in out) == (1, True)
    assert [run_anywhere("watch", number, "-q")[0] for number in ("1", "2")] == [3, 1]


def test_an_unknown_migration_is_an_error(run_anywhere: Run) -> None:
    for words in (
        ("status", "99"),
        ("watch", "99"),
        ("report", "99"),
        ("pause", "a b"),
        ("limit", "9", "--slots", "1"),
    ):
        code, out, err = run_anywhere(*words)
        assert (code, out, err.count("\n")) == (1, "", 2), err
        assert "there is no migration" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("limit", "1"), "give a limit"),
        (("limit", "1", "--slots", "0"), "--slots"),
        (("limit", "1", "--bytes-per-second", "fast"), "such as 500K"),
        (("limit", "1", "--bytes-per-second", "0"), "such as 500K"),
        (("limit", "1", "--priority", "none"), "--priority"),
        (("resume", "1", "only-one"), "SRC needs DST"),
        (("submit", "a", "b"), "RELAY_URL"),
        (("status", "--url", "nonsense"), "RELAY_URL"),
        (("status", "--url", "http://user:pass@127.0.0.1/"), "RELAY_URL"),
        (("status", "--url", "s3://bucket/key"), "RELAY_URL"),
        (("status", "--url", "http://127.0.0.1/?x"), "RELAY_URL"),
        (("status", "--url", "http://127.0.0.1/#x"), "RELAY_URL"),
        (("submit", "a", "b", "--url", "http://127.0.0.1:1", "--key", "two\nlines"), "--key"),
        (("submit", "a", "b", "--url", "http://127.0.0.1:1", "--key", " a"), "--key"),
        (("submit", "a", "b", "--url", "http://127.0.0.1:1", "--key", "x" * 256), "--key"),
        (("submit", "a", "b", "--url", "http://127.0.0.1:1", "--key", ""), "--key"),
        (
            (
                *("submit", "a", "b", "--url", "http://127.0.0.1:1"),
                *("--source-header", "X-A: 1", "--source-header", "X-A: 2"),
            ),
            "repeated",
        ),
    ],
)
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    code, out, err = run(*words, RELAY_LEDGER=f"sqlite:///{tmp_path}/relay.db")
    assert (code, out, says in err) == (2, "", True), err
    assert "pass@" not in err


# -- other services in the place of a server


def test_an_unreachable_server(tmp_path: Path) -> None:
    code, out, err = run("status", RELAY_URL="http://127.0.0.1:1/relay/")
    assert (code, out) == (1, "")
    assert err.startswith("relay: the server http://127.0.0.1:1/relay can't be reached")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 No\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=[
        "a page",
        "no such page",
        "a redirect",
        "a list",
        "an object",
        "an empty problem",
        "lines",
    ],
)
def test_another_service_at_the_address(reply: bytes) -> None:
    with Peer(answer(reply)) as peer:
        code, out, err = run("status", "1", RELAY_URL=peer.url(""), RELAY_TOKEN=TOKEN)
    assert (code, out) == (1, "")
    assert f"{peer.url('')} is not a relay server" in err


def test_a_server_without_tls_is_not_one_of_an_unknown_authority() -> None:
    def plain(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        talk.linger()

    with Peer(plain) as peer:
        code, _, err = run("status", RELAY_URL=peer.url("").replace("http:", "https:"))
    assert code == 1
    assert "does not speak TLS" in err and "certificate" not in err


def test_a_truncated_answer_is_not_a_report(tmp_path: Path) -> None:
    """No row of a truncated page is printed, since its last row may be incomplete. The rows of
    earlier pages are."""
    named = {
        "id": "x",
        "number": 1,
        "state": "running",
        "source": "a",
        "destination": "b",
        "listing": "done",
    }
    counted: dict[str, Any] = {
        "created": 1.0,
        "ended": None,
        "objects": {},
        "bytes": {},
        "bytes_resent": 0,
    }
    bound = {"priority": 0, "options": {}, "limits": {}, "levels": {}, "retries": 0, "error": None}
    one = json.dumps({**named, **counted, **bound}).encode()
    row = dict.fromkeys(FIELDS) | {"name": "a", "state": "verified", "attempts": 1, "resent": 0}
    page = json.dumps({"transfers": [row], "next": "/migrations/x/transfers?after=1"}).encode()

    def script(talk: Talk) -> None:
        while head := talk.head():
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            if b"after=1" in head:
                talk.send(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(page), page))
                return
            body = page if b"/transfers" in head else one
            talk.send(b"Content-Length: %d\r\n\r\n" % len(body), body)

    with Peer(script) as peer:
        code, out, err = run("report", "1", "--format", "jsonl", RELAY_URL=peer.url(""))
    assert (code, [json.loads(line) for line in out.splitlines()]) == (1, [row])
    assert "closed the connection in the middle of its answer" in err


def test_a_token_that_is_missing_wrong_or_open_to_others(server: Server, folders: Path) -> None:
    url = f"http://{server.host}:{server.port}"
    code, _, err = run("status", RELAY_URL=url)
    assert (code, "no bearer token" in err, "RELAY_TOKEN_FILE" in err) == (2, True, True)
    code, _, err = run("status", RELAY_URL=url, RELAY_TOKEN="another-token-0123456789")
    assert (code, "the token is not known" in err) == (2, True)
    file = folders / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o644)
    code, _, err = run("status", RELAY_URL=url, RELAY_TOKEN_FILE=str(file))
    assert (code, "open to others" in err) == (2, True)
    file.chmod(0o600)
    assert run("status", RELAY_URL=url, RELAY_TOKEN_FILE=str(file))[0] == 0
    file.write_text(f"{TOKEN}\n{TOKEN}\n")
    assert run("status", RELAY_URL=url, RELAY_TOKEN_FILE=str(file))[0] == 2


# -- watching


def test_a_watch_that_is_interrupted_leaves_the_migration_alone(
    server: Server, folders: Path
) -> None:
    submit_tree(server, folders, "--bytes-per-second", "1")
    there = {"RELAY_URL": f"http://{server.host}:{server.port}", "RELAY_TOKEN": TOKEN}
    watching = start("watch", "1", **there)
    assert watching.stderr is not None
    assert "0 of" in watching.stderr.readline()  # a line of progress
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert (watching.returncode, out) == (130, "")
    assert "only the display has ended" in err
    assert "Traceback" not in err
    assert " running " in run("status", **there)[1]


def test_a_watch_outlives_its_server(settings: dict[str, str], folders: Path) -> None:
    with run_server(SERVE, **settings) as first:
        submit_tree(first, folders, "--bytes-per-second", "1")
        there = {"RELAY_URL": f"http://{first.host}:{first.port}", "RELAY_TOKEN": TOKEN}
        watching = start("watch", "1", "--json", **there)
        assert watching.stderr is not None
        assert "0 of" in watching.stderr.readline()
        first.process.kill()
        first.finish()
    with run_server(SERVE, **settings, RELAY_BIND=there["RELAY_URL"].removeprefix("http://")):
        assert run("limit", "1", "--bytes-per-second", "none", **there)[0] == 0
        out, err = watching.communicate(timeout=60)
    assert (watching.returncode, json.loads(out)["state"]) == (0, "succeeded"), err


def test_a_long_report_is_not_kept(server: Server, folders: Path) -> None:
    """Ten thousand rows pass through a process that must not hold them all."""
    (folders / "many").mkdir()
    for i in range(10_000):
        (folders / "many" / f"{i:05} {'x' * 150}").touch()
    request: dict[str, Any] = {
        "source": f"file://{folders}/many",
        "destination": f"file://{folders}/to",
    }
    headers = {"Authorization": f"Bearer {TOKEN}"}
    _, body = server.ask(
        "POST", "/migrate", {**request, "recursive": True, "limits": {"slots": 1}}, **headers
    )
    for _ in looks():
        if server.ask("GET", f"/migrations/{body['id']}", **headers)[1]["listing"] == "done":
            break
    server.ask("POST", f"/migrations/{body['id']}/pause", **headers)
    program = (
        "import resource, sys; from relay.cli.__main__ import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    sizes, counts = [], []
    for state in ("failed", "queued"):
        words = [sys.executable, "-c", program, "report", "1", "--format", "csv", "--state", state]
        there = {"RELAY_URL": f"http://{server.host}:{server.port}", "RELAY_TOKEN": TOKEN}
        done = subprocess.run(
            words, cwd=ROOT, env=environment(**there), capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        sizes.append(int(done.stderr.split()[-1]))
        counts.append(done.stdout.count("\n") - 1)
    assert counts[0] == 0
    assert counts[1] > 9_000
    assert sizes[1] - sizes[0] < 4096  # KiB; all rows together are far more


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("500K", 500_000),
        ("10M", 10_000_000),
        ("1.5MB", 1_500_000),
        ("64Mi", 64 << 20),
        ("2GiB", 2 << 30),
        ("1t", 10**12),
        ("", None),
        ("M", None),
        ("-5", None),
        ("1e6", None),
        ("10 M", None),
        ("١٠", None),
    ],
)
def test_numbers_of_bytes(text: str, count: int | None) -> None:
    assert parse_bytes(text) == count
