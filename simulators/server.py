"""The loop of both clouds: read a head, get the answer, apply the faults, send it, record it.
Decided here: the loop of one connection, the control paths (`/_journal`, ...) and which faults
apply. Never here: the meaning of a path.

A journal entry exists as soon as its head was read: method, path, query, headers, faults, started.
When the exchange is over it also has status, sent (bytes, head included), body_bytes (of an
upload), ended (monotonic seconds, like started) and outcome: `kept` or `ended` connection, `hung
up` by a fault, `gone` peer, `refused`."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from simulators.answer import Answer, Player, Text, compose, plain
from simulators.apply_faults import apply_faults
from simulators.content import Content
from simulators.faults import BadFault, Faults, Plan
from simulators.journal import Journal
from simulators.listener import Listener
from simulators.message import BadRequest, Request, parse_request
from simulators.wire import Connection, Gone, TooLarge

_JSON: Final = [("Content-Type", "application/json")]


class Hangup(Exception):
    """A fault ends the connection before its answer: by `end`, after the exchange is recorded."""

    def __init__(self, end: Callable[[], None]) -> None:
        super().__init__("hung up")
        self.end = end


@dataclass(frozen=True)
class Options:
    """A server's address and its misbehaviour; the same for both clouds."""

    port: int = 0
    bind: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    faults: Sequence[str] = ()
    journal_entries: int = 10_000


@dataclass
class Exchange:
    """One request before its answer. `facts` are added to its journal entry."""

    connection: Connection
    request: Request
    plan: Plan
    facts: dict[str, Any] = field(default_factory=dict)


Respond = Callable[[Exchange], Answer]


class Server:
    """Serves `respond` on a port, in native threads, until `stop`. Raises OSError when the port is
    taken."""

    def __init__(
        self,
        respond: Respond,
        options: Options,
        content: Content | None = None,
        controls: Mapping[str, Journal] | None = None,
        buffer_bytes: int | None = None,
    ) -> None:
        self._respond, self._content = respond, content
        self.journal = Journal(options.journal_entries)
        self._controls = {"/_journal": self.journal, **(controls or {})}
        self.faults = Faults(options.faults)
        self._scheme = "https" if options.tls else "http"
        self._bind = options.bind
        self._listener = Listener(
            self._serve,
            options.bind,
            options.port,
            options.tls,
            self._greet,
            accepting=not self.faults.of_the_port("no_accept"),
            buffer_bytes=buffer_bytes,
        )
        self.port = self._listener.port

    def url(self, path: str = "") -> str:
        """Return the URL of a path of this server."""
        host = f"[{self._bind}]" if ":" in self._bind else self._bind
        return f"{self._scheme}://{host}:{self.port}{path}"

    def stop(self) -> None:
        """Close everything and wait for the threads."""
        self._listener.stop()

    def _greet(self, connection: Connection) -> None:
        stall = self.faults.of_the_port("tls_stall")
        if stall is not None:
            try:
                connection.wait(stall.seconds(0))
            except Gone:
                pass

    def _serve(self, connection: Connection) -> None:
        try:
            while self._answer_next(connection):
                pass
        except Gone:
            connection.close()
        except Hangup as hangup:
            hangup.end()

    def _answer_next(self, connection: Connection) -> bool:
        """Answer one request; False when the connection is over."""
        try:
            head = connection.read_head()
            if head is None:
                connection.finish()
                return False
            request = parse_request(head)
            control = self._controls.get(request.path)
            if control is not None:
                return self._send(connection, _answer_control(control, request), request)
            plan = self.faults.plan(request)
        except (BadRequest, BadFault, TooLarge) as error:
            return self._refuse(connection, error)
        # Without its Range the request gets the whole object, with status 200.
        ranged = plan.get("range")
        if ranged is not None and ranged.word(0) == "ignore":
            request = request.without("range")
        return self._exchange(Exchange(connection, request, plan))

    def _refuse(self, connection: Connection, error: Exception) -> bool:
        status = (
            error.status
            if isinstance(error, BadRequest)
            else 431
            if isinstance(error, TooLarge)
            else 400
        )
        text = str(error) or "too large"
        now = time.monotonic()
        nothing: dict[str, Any] = {
            "method": None,
            "path": None,
            "query": {},
            "headers": [],
            "faults": [],
            "sent": 0,
        }
        self.journal.add(
            {
                **nothing,
                "status": status,
                "started": now,
                "ended": now,
                "outcome": "refused",
                "error": text,
            }
        )
        answer = plain(status, text)
        answer.keep = False
        Player(connection, None).play(compose(answer))
        return False

    def _exchange(self, exchange: Exchange) -> bool:
        request, connection = exchange.request, exchange.connection
        entry: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "headers": [list(pair) for pair in request.headers],
            "faults": [str(fault) for fault in exchange.plan.faults],
            "status": None,
            "started": time.monotonic(),
            "ended": None,
            "outcome": "open",
        }
        self.journal.add(entry)
        sent, outcome = connection.sent, "gone"
        try:
            answer = self._answer(exchange)
            apply_faults(answer, request, exchange.plan, self._content)
            self.journal.update(entry, {"status": answer.status})
            keeps = self._send(connection, answer, request)
            outcome = "kept" if keeps else "ended"
            return keeps and self._can_linger(exchange)
        except Hangup:
            outcome = "hung up"
            raise
        finally:
            facts = {"sent": connection.sent - sent, "ended": time.monotonic(), "outcome": outcome}
            self.journal.update(entry, {**exchange.facts, **facts})

    def _answer(self, exchange: Exchange) -> Answer:
        try:
            return self._respond(exchange)
        except BadRequest as error:
            answer = plain(error.status, str(error))
            answer.keep = False
            return answer

    def _send(self, connection: Connection, answer: Answer, request: Request) -> bool:
        answer.bodiless = answer.bodiless or request.method == "HEAD"
        answer.keep = answer.keep and request.is_kept_open
        # HTTP/1.0 has no chunked coding (RFC 9112 section 6.1).
        if request.minor == 0 and answer.framing == "chunked":
            answer.framing = "close"
        player = Player(connection, self._content)
        player.play(compose(answer))
        return not player.ended

    def _can_linger(self, exchange: Exchange) -> bool:
        """Obey `idle_close`: return whether the connection may wait for another request."""
        fault = exchange.plan.get("idle_close")
        if fault is None or exchange.connection.await_next(fault.seconds(0) or 0.0):
            return True
        exchange.connection.close()
        return False


def _answer_control(journal: Journal, request: Request) -> Answer:
    if request.method == "DELETE":
        journal.clear()
        return plain(204)
    if request.method not in ("GET", "HEAD"):
        return plain(405, "GET or DELETE", [("Allow", "GET, HEAD, DELETE")])
    return Answer(200, list(_JSON), [Text(json.dumps(journal.snapshot()).encode())])
