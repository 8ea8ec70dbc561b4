"""A case through a server: `relay serve`, one POST, and its answers until the migration has ended.

Decided here: the requests to the server. Never here: the right answers."""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.torture.commands import Ended, Zygote

START_SECONDS, END_SECONDS = 60.0, 150.0
LOOK_SECONDS = 0.05
VERBS = {"paused": "resume", "partial": "retry", "failed": "retry", "cancelled": "retry"}
"""The request that resumes a migration that has ended badly."""
OVER = ("succeeded", "partial", "failed", "cancelled", "paused")
_LISTENS = re.compile(r"relay listens on http://127\.0\.0\.1:(\d+)")


class Asked:
    """The client of one server; `answers` keeps every response."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers = ""

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
    ) -> dict[str, Any]:
        """Return an answer's document, with its status as `_status`."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=END_SECONDS)
        try:
            fields = (
                {"Content-Type": "application/json", "Prefer": "respond-async"}
                if body is not None
                else {}
            )
            fields["Accept"] = accept
            connection.request(method, path, None if body is None else json.dumps(body), fields)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        self.answers += f"{dict(response.getheaders())}\n{text}\n"
        found = json.loads(text) if accept == "application/json" and text.startswith("{") else {}
        return {**found, "_status": response.status}


def serve(
    order: Mapping[str, Any],
    zygote: Zygote,
    folder: Path,
    environment: Mapping[str, str],
    verb: str | None,
    fresh: Mapping[str, Any],
) -> Ended:
    """Start a server, run this step or an action on the existing migration, and stop it. The exit
    code is the one of the same step in a terminal."""
    child = zygote.begin(
        ["serve", "--bind", "127.0.0.1:0", "--graceful-timeout", "2"], folder, environment
    )
    code = None
    try:
        found = _poll_until(lambda: _LISTENS.search(child.output), START_SECONDS)
        if found is not None:
            asked = Asked(int(found[1]))
            code = _move_tree(asked, order) if verb is None else _act(asked, verb, fresh)
            (folder / f"{child.out.stem}.answers.out").write_text(asked.answers)
    finally:
        child.kill(signal.SIGTERM)
        ended = child.wait(15)
    return Ended(
        words=("POST", verb or "", json.dumps(order)),
        code=code,
        out=ended.out,
        err=ended.err,
        seconds=ended.seconds,
    )


def _move_tree(asked: Asked, order: Mapping[str, Any]) -> int | None:
    answer = asked.ask("POST", "/migrate", order)
    if answer["_status"] >= 400:
        return 2
    return _await_end(asked, f"/migrations/{answer['id']}")


def _act(asked: Asked, verb: str, fresh: Mapping[str, Any]) -> int | None:
    """Resume the newest migration unless it has succeeded."""
    path = "/migrations/1"
    found = asked.ask("GET", path)
    if found["_status"] == 404:  # the server refused the request
        return 2
    if found.get("state") in VERBS:
        asked.ask("POST", f"{path}/{verb}", fresh or None)
    return _await_end(asked, path)


def _await_end(asked: Asked, path: str) -> int | None:
    """Wait for the end of a migration, and request every report about it."""
    ended = _poll_until(lambda: _ended_answer(asked.ask("GET", path)), END_SECONDS)
    if ended is None:
        return None
    for accept in ("application/json", "application/x-ndjson", "text/csv"):
        asked.ask("GET", f"{path}/transfers", accept=accept)
    asked.ask("GET", "/migrations")
    if ended["state"] != "paused":
        asked.ask("GET", f"{path}/events", accept="text/event-stream")
    objects = ended["objects"]
    if ended["state"] == "succeeded":
        return 0
    only = ended["state"] == "partial" and not objects.get("failed") and ended["error"] is None
    return 3 if only and ended["listing"] != "failed" else 1


def _ended_answer(answer: dict[str, Any]) -> dict[str, Any] | None:
    return answer if answer.get("state") in OVER and not answer.get("under_way") else None


def _poll_until(look: Callable[[], Any], seconds: float) -> Any:
    """Poll until there is a value, and return it; None if there never is one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (found := look()) is not None:
            return found
        time.sleep(LOOK_SECONDS)
    return None
