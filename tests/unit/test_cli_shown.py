"""A migration in the terminal, for people: words and local times, never raw members."""

from __future__ import annotations

import time
from typing import Any

import pytest

from relay.cli.formatting import HINTS, details, headline, summary_line, table

ENDED: dict[str, Any] = {
    "number": 7,
    "id": "0f9c",
    "state": "partial",
    "source": "old:photos/",
    "destination": "new:photos/",
    "listing": "done",
    "created": 1_795_913_899.1,
    "ended": 1_795_913_899.1 + 125,
    "objects": {"failed": 1, "verified": 2},
    "bytes": {"failed": 0, "verified": 2048},
    "bytes_in_parts": 0,
    "under_way": 0,
    "slots": None,
    "retried": [],
    "trouble": None,
    "options": {
        "recursive": True,
        "verify": "auto",
        "if_exists": "changed",
        "fail_on_empty": False,
    },
    "priority": 0,
    "limits": {"slots": None, "bytes_per_second": 2_000_000, "connections": None},
    "levels": {"read_back": 2},
    "bytes_resent": 0,
    "retries": 0,
    "error": None,
}


def test_an_ended_migration_is_in_words() -> None:
    rows = dict(details(ENDED))
    assert rows["state"] == "partial"
    assert rows["time"].endswith("2 min 5 s") and rows["time"].startswith("2026-11-")
    assert rows["options"] == "recursive, verify auto, if exists changed"
    assert rows["limits"] == "bytes per second 2,000,000"
    assert "relay report 7 --state failed" in rows["hint"]
    assert not {"under way", "listing", "retry", "ledger", "priority", "error"} & set(rows)
    assert all("{" not in value and "None" not in value for value in rows.values())


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (6, "6"), (999, "999"), (2048, "2,048 (2.0 kB)")]
)
def test_a_number_of_bytes_is_not_repeated(count: int, shown: str) -> None:
    assert dict(details({**ENDED, "bytes": {"verified": count}}))["bytes"] == shown


@pytest.mark.parametrize("state", ["partial", "failed", "running", "cancelled"])
def test_an_ended_migration_names_its_unfinished_uploads(state: str) -> None:
    """A bucket's owner pays for them."""
    rows = dict(table({**ENDED, "state": state, "bytes_in_parts": 2048}, (), ""))
    assert ("`relay cancel 7`" in rows.get("unfinished", "")) == (state != "running")
    assert "unfinished" not in dict(table({**ENDED, "state": state}, (), ""))
    of_tenant = dict(
        table({**ENDED, "state": "failed", "tenant": "acme", "bytes_in_parts": 9}, (), "")
    )
    assert "`relay cancel acme:7`" in of_tenant["unfinished"]


def test_a_paused_migration_names_the_command_to_resume() -> None:
    rows = dict(details({**ENDED, "state": "paused", "ended": None, "objects": {"queued": 3}}))
    assert rows["hint"] == "`relay resume 7`, or the same command, resumes it"


@pytest.mark.parametrize(
    ("command", "resumes"),
    [
        ("relay migrate", "the same `relay migrate` command resumes it"),
        ("relay serve", "`relay serve` resumes it once it has a free slot"),
    ],
)
def test_a_migration_that_no_process_moves_names_a_command(command: str, resumes: str) -> None:
    waiting = {
        **ENDED,
        "state": "running",
        "ended": None,
        "objects": {"running": 3},
        "listing": "running",
        "waits_for": command,
    }
    rows = dict(details(waiting))
    assert rows["hint"] == f"no process moves it now: {resumes}"
    assert (rows["listing"], rows["under way"][:11]) == ("not complete yet", "0 transfers")
    assert ", no process moves it  old:photos/" in summary_line(waiting)
    assert headline(waiting, 0.0).endswith(", no process moves it")
    paused = {**waiting, "state": "paused"}
    assert "no process" not in summary_line(paused) + headline(paused, 0.0)
    assert "relay resume 7" in dict(details(paused))["hint"]


def test_failed_objects_have_their_different_hints() -> None:
    row = {"name": "a", "detail": "no", "side": "source"}
    failed = [{**row, "hint": hint} for hint in ("one", "one", *"23456", None)]
    assert [text for name, text in table(ENDED, failed, "") if name == "hint"][:-1] == [
        "one",
        "2",
        "3",
    ][:HINTS]
    (only,) = (text for name, text in table(ENDED, [row], "") if name == "hint")
    assert "relay report 7" in only


def test_a_running_migration_reports_its_waits_with_reasons() -> None:
    retried = {
        "name": "a.jpg",
        "what": "the object",
        "side": "source",
        "detail": "503",
        "again": time.time() + 30.4,
    }
    running = {
        **ENDED,
        "state": "running",
        "ended": None,
        "created": time.time() - 7500,
        "listing": "running",
        "under_way": 4,
        "slots": 20,
        "retried": [retried],
        "trouble": {"detail": "the disk is full"},
        "priority": 5,
    }
    cancelled = {**running, "state": "cancelled", "ended": time.time()}
    assert dict(details(cancelled))["listing"] == "not complete yet"
    rows = dict(details(running))
    assert rows["time"].endswith("2 h 5 min so far")
    assert rows["under way"].startswith("4 transfers")
    assert rows["slots"] == "20"
    assert "still being listed" in rows["listing"]
    assert "a.jpg" in rows["retry"] and "in 30 s" in rows["retry"] and "503" in rows["retry"]
    assert "the disk is full" in rows["ledger"] and rows["priority"] == "5"


@pytest.mark.parametrize("missing", ["trouble", "retried", "under_way", "slots", "bytes_in_parts"])
def test_an_older_server_may_leave_members_out(missing: str) -> None:
    assert (
        dict(details({name: value for name, value in ENDED.items() if name != missing}))["state"]
        == "partial"
    )
