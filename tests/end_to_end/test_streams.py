"""Streams of events from a real server: resumed where they broke off, bounded in number, and ended
when the server stops. `make test-all` kills the process that serves one, again and again."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from tests.end_to_end.test_serve import SERVE, Server, await_workers, run_server
from tests.postgres import postgresql, programs
from tests.scripted import Peer, Talk

EVENTS = "/migrations/1/events"


@dataclass
class Stream:
    """An open stream of events."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield each event's fields, until the stream ends. Raises as http.client."""
        fields: dict[str, str] = {}
        for line in iter(self.response.readline, b""):
            name, _, value = line.decode().rstrip("\n").partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            elif not line.strip():
                yield fields
                fields = {}

    @property
    def port(self) -> int:
        """The client's port."""
        return int(self.connection.sock.getsockname()[1])


@contextmanager
def open_stream(server: Server, last: str = "", path: str = EVENTS) -> Iterator[Stream]:
    """Open a stream behind the last event."""
    with closing(server.connect()) as connection:
        connection.request("GET", path, headers={"Last-Event-ID": last} if last else {})
        # http.client forgets the socket of an answer that closes its connection.
        sock = connection.sock
        response = connection.getresponse()
        connection.sock = connection.sock or sock
        yield Stream(connection, response)


@contextmanager
def run_with_migration(**settings: str) -> Iterator[Server]:
    """Run a server with a migration that never ends."""

    def stay_silent(talk: Talk) -> None:
        talk.head()
        talk.linger()

    with Peer([stay_silent] * 100) as peer, run_server(SERVE, **settings) as server:
        await_workers(server.process.pid, int(settings.get("RELAY_WORKERS", 1)))
        wanted = {"source": peer.url("/a"), "destination": peer.url("/b")}
        assert server.ask("POST", "/migrate", wanted, Prefer="respond-async")[0] == 202
        yield server


def priority(server: Server, number: int) -> None:
    """Change the migration, which is one event."""
    assert server.ask("PATCH", "/migrations/1", {"priority": number})[0] == 200


def test_a_stream_goes_on_behind_the_last_event() -> None:
    """By its id, or by the plain number of an older relay; another id has all events."""
    with run_with_migration() as server:
        for number in (1, 2):
            priority(server, number)
        with open_stream(server) as stream:
            assert stream.response.status == 200
            assert stream.response.headers["Content-Type"].startswith("text/event-stream")
            assert stream.response.headers["X-Accel-Buffering"] == "no"
            assert "no-transform" in stream.response.headers["Cache-Control"]
            events = iter(stream)
            first = [next(events) for _ in range(4)]
            assert [one["event"] for one in first] == ["accepted", "limited", "limited", "progress"]
            assert 1500 <= int(first[0]["retry"]) <= 2500
            priority(server, 3)
            more = next(one for one in events if one["event"] == "limited")
        ids = [one["id"] for one in (*first[:3], more)]
        assert [json.loads(one["data"])["id"] for one in (*first[:3], more)] == [
            int(id.partition("-")[2]) for id in ids
        ]
        for last, left in (
            (ids[1], 2),
            (ids[1].partition("-")[2], 2),
            (ids[3], 0),
            ("x", 4),
            ("0-99999", 4),
        ):
            with open_stream(server, last) as stream:
                events = iter(stream)
                seen = [next(events) for _ in range(left + 1)]
            assert [one["event"] for one in seen] == [one["event"] for one in (*first[:3], more)][
                4 - left :
            ] + ["progress"]


def test_a_stream_is_refused_where_there_are_enough() -> None:
    """With a time after which to ask again; a place is free once its client has gone."""
    with run_with_migration(RELAY_STREAMS="2") as server, ExitStack() as stack:
        streams = [stack.enter_context(open_stream(server)) for _ in range(2)]
        assert [next(iter(stream))["event"] for stream in streams] == ["accepted"] * 2
        with open_stream(server) as third:
            assert third.response.status == 503
            assert third.response.headers["Retry-After"] == "10"
            assert json.loads(third.response.read())["type"].endswith("/too-many-streams")
        streams[0].connection.close()
        streams[0].response.close()
        until = time.monotonic() + 20
        status = 503
        while status == 503 and time.monotonic() < until:
            with open_stream(server) as again:
                status = again.response.status
            time.sleep(0.05)
        assert status == 200
        assert server.ask("GET", "/migrations/1")[0] == 200


def test_a_stopping_server_says_goodbye_to_streams() -> None:
    """And the client may come back soon."""
    with run_with_migration() as server, open_stream(server) as stream:
        events = iter(stream)
        assert next(events)["event"] == "accepted"
        server.process.send_signal(signal.SIGTERM)
        last = list(events)[-1]
        assert (last["event"], last["retry"]) == ("bye", "500")
        assert server.finish() == 0


def test_lines_and_events_end_with_the_same_state(tmp_path: Any) -> None:
    """Both are fed by one watcher, and the last event comes before the last state."""
    (tmp_path / "from").mkdir()
    for number in range(30):
        (tmp_path / "from" / f"{number}").write_bytes(b"x" * number)
    wanted = {
        "source": f"file://{tmp_path}/from",
        "destination": f"file://{tmp_path}/to",
        "recursive": True,
    }
    with run_server(SERVE, RELAY_LOCAL_FOLDERS=str(tmp_path)) as server:
        with closing(server.connect()) as connection:
            headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
            connection.request("POST", "/migrate", json.dumps(wanted), headers)
            lines = [json.loads(line) for line in connection.getresponse()]
        with open_stream(server) as stream:
            events = list(stream)
    assert [one["event"] for one in lines[-1:]] == ["result"]
    assert {one["event"] for one in lines[:-1]} == {"progress"}
    assert (lines[-1]["state"], lines[-1]["levels"]) == ("succeeded", {"read_back": 30})
    assert [one["event"] for one in events[-2:]] == ["ended", "progress"]
    last = json.loads(events[-1]["data"])
    assert (last["state"], last["objects"]) == ("succeeded", {"verified": 30})


# -- A14: the serving process is killed again and again

KILLS = 6
SECONDS = 5.0
"""How soon a change that was acknowledged after a kill must have reached the client."""


@dataclass
class Follower:
    """A client that follows a migration over all broken connections."""

    server: Server
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The events, with their ids."""
    states: list[tuple[float, str]] = field(default_factory=list)
    port: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Follow until `stopped` is set; connect again at once where a connection breaks."""
        last = ""
        while not self.stopped.wait(0.1):
            try:
                with open_stream(self.server, last) as stream:
                    self.port = stream.port
                    for one in stream:
                        last = one.get("id", last)
                        self._note(one)
                        if self.stopped.is_set():
                            return
            except (OSError, http.client.HTTPException):
                continue

    def _note(self, one: dict[str, str]) -> None:
        members = json.loads(one["data"])
        if one["event"] == "progress":
            self.states.append((time.monotonic(), members["state"]))
        elif one["event"] != "bye":
            self.seen.append((one["id"], members))

    def await_state(self, state: str, since: float, seconds: float) -> float:
        """Wait until a state that was sent after `since` is right, and return after how long."""
        while time.monotonic() < since + seconds:
            for at, shown in tuple(self.states):
                if at > since and shown == state:
                    return at - since
            time.sleep(0.02)
        raise AssertionError(f"{state} was not shown within {seconds} s: {self.states[-5:]}")


def kill_serving_worker(server: Server, port: int) -> None:
    """Kill the worker that has the connection with a client's port."""
    for worker in psutil.Process(server.process.pid).children():
        if any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp")):
            worker.kill()
            worker.wait(10)
            return
    raise AssertionError(f"no worker serves port {port}")


def ask_until_answered(server: Server, method: str, path: str, members: Any = None) -> None:
    """Make a request that may be repeated, until a worker answers it."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if server.ask(method, path, members)[0] == 200:
                return
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"{method} {path} was not answered")


@contextmanager
def ledger_url(kind: str, folder: Any) -> Iterator[str]:
    """Give an empty ledger."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/ledger.db"
        return
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as server:
        yield server.database()


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_streams_lose_no_event_where_workers_are_killed(kind: str, tmp_path: Any) -> None:
    """Each event arrives once and in order, and the state is right within seconds."""
    with (
        ledger_url(kind, tmp_path) as address,
        run_with_migration(RELAY_LEDGER=address, RELAY_WORKERS="2") as server,
    ):
        await_workers(server.process.pid, 2)
        began, follower = time.monotonic(), Follower(server)
        following = threading.Thread(target=follower.run)
        following.start()
        number = [0]
        driving = threading.Event()

        def drive() -> None:
            while not driving.wait(0.03):
                number[0] += 1
                ask_until_answered(server, "PATCH", "/migrations/1", {"priority": number[0]})

        driver = threading.Thread(target=drive)
        driver.start()
        delays = []
        try:
            follower.await_state("running", began, 30)
            for count in range(KILLS):
                verb, state = (("pause", "paused"), ("resume", "running"))[count % 2]
                kill_serving_worker(server, follower.port)
                ask_until_answered(server, "POST", f"/migrations/1/{verb}", {})
                delays.append(follower.await_state(state, time.monotonic(), SECONDS))
        finally:
            driving.set()
            driver.join(60)
            until = time.monotonic() + 20
            while time.monotonic() < until and not any(
                members.get("priority") == number[0] for _, members in tuple(follower.seen)
            ):
                time.sleep(0.05)
            follower.stopped.set()
            following.join(60)
        ids = [id for id, _ in follower.seen]
        assert len(ids) == len(set(ids)), "an event came twice"
        changes = [one["priority"] for _, one in follower.seen if "priority" in one]
        assert changes == list(range(1, number[0] + 1)), "an event is missing, or out of order"
        kinds = [members["kind"] for _, members in follower.seen]
        assert kinds.count("pause") == kinds.count("resume") == KILLS // 2
        sys.stdout.write(
            f"{kind}: {number[0]} changes, {KILLS} kills, right after {max(delays):.1f} s\n"
        )
