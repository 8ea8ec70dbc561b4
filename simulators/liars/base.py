"""The base of all lying stores: the loop of a connection, faults of any request, and the response
about an object.

Decided here: the order (credentials, trouble, the body, the work, the answer or its loss). Never
here: the meaning of a path (`plain.py`, `dav.py`, `s3.py`)."""

from __future__ import annotations

import itertools
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Final, Self

from simulators.answer import Answer, End, Player, Text, compose, plain
from simulators.liars.object_responses import ObjectResponses
from simulators.liars.operations import WRITES, Op, Sent
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import FOLDS, Shelf
from simulators.liars.unsafe import names
from simulators.liars.upload_storage import UploadStorage
from simulators.listener import Listener
from simulators.message import BadRequest, Request, body_length, parse_request
from simulators.upload_body import Body
from simulators.wire import Connection, Gone, TooLarge

TROUBLED: Final = 0.4
"""The share of the pairs of name and verb for which a store fails at first."""
LIVES: Final = 14
"""Maximum number of requests before expiring credentials expire."""


class Liar(ObjectResponses, UploadStorage, ABC):
    """A store on a port of its own, from construction until `stop`. `secrets` are the credentials
    that it accepts; with `tls`, connections are encrypted."""

    kind = ""

    def __init__(
        self,
        role: str,
        store_habits: StoreHabits,
        secrets: Collection[str],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.scheme = "http" if tls is None else "https"
        self.role, self.store_habits, self.secrets = role, store_habits, set(secrets)
        self.shelf = Shelf(
            next((fold for habit, fold in FOLDS.items() if store_habits.does(habit)), str),
            one_spelling=store_habits.has("folds-folders"),
        )
        self.node, self.missed = threading.local(), set()
        self._turns = itertools.count()
        self.log: list[Sent] = []
        self.odd = tuple(names(store_habits, self.kind))
        """Names of its objects that are unsafe elsewhere."""
        self.elsewhere, self.password = "", ""
        """The host and port of another store, and the password, for links to elsewhere."""
        self.watch: Callable[[Op], None] | None = None
        """Called with each request before it is carried out."""
        self._lives = 1 + int(store_habits.roll("lives") * LIVES)
        self._renewed = False
        self._stopped = threading.Event()
        self._listener = Listener(self._serve, "127.0.0.1", 0, tls, None)
        self.port = self._listener.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close everything and wait for the threads."""
        self._stopped.set()
        self._listener.stop()

    # -- for the protocols

    @abstractmethod
    def operation(self, request: Request) -> Op:
        """Return the operation of a request. Raises BadRequest."""

    @abstractmethod
    def respond(self, op: Op, request: Request, body: bytes) -> Answer:
        """Carry out the operation, and return the honest answer, or a habit's."""

    def broken(self, op: Op, request: Request, body: bytes) -> None:
        """Handle an upload that broke off after these bytes."""

    def is_allowed(self, request: Request) -> bool:
        """Return whether a request has accepted credentials."""
        return (request.get("authorization") or "").removeprefix("Bearer ") in self.secrets

    def renew(self, secret: str) -> None:
        """Accept only this secret from now on; it does not expire."""
        self.secrets, self._renewed = {secret}, True

    def _refuse_expired(self) -> Answer | None:
        """Return the refusal of expired credentials, or None."""
        self._lives -= 1
        if self._lives >= 0 or self._renewed:
            return None
        for status, code in (
            (400, "ExpiredToken"),
            (401, "Unauthorized"),
            (403, "InvalidAccessKeyId"),
        ):
            if self.store_habits.does(f"expires-{status}"):
                return self.refusal(status, code)
        return None

    # -- one connection

    def _serve(self, connection: Connection) -> None:
        try:
            while self._answer_next(connection):
                pass
        except Gone:
            connection.close()

    def _answer_next(self, connection: Connection) -> bool:
        try:
            head = connection.read_head()
            if head is None:
                connection.finish()
                return False
            request = parse_request(head)
            op = self.operation(request)
        except (BadRequest, TooLarge) as error:
            status = error.status if isinstance(error, BadRequest) else 431
            return self._play(connection, plain(status, str(error)), False)
        sent = Sent(op=op, headers=list(request.headers))
        self.log.append(sent)
        # Two nodes answer in turn; `tag-nodes` shows which.
        self.node.number = next(self._turns)
        if not self.is_allowed(request):
            return self._answer_early(
                connection, request, self.refusal(401, "InvalidAccessKeyId"), sent
            )
        if (expired := self._refuse_expired()) is not None:
            return self._answer_early(connection, request, expired, sent)
        if self.watch is not None:
            self.watch(op)
        early = self._trouble(op, connection)
        if early is not None and self.store_habits.roll("early", op.kind, op.name) < 0.5:
            return self._answer_early(connection, request, early, sent)
        if op.kind == "put" and self._first("early-2xx", op):
            sent.whole = False
            status = 200 if self.kind == "s3" else 201
            return self._play(connection, Answer(status, after=[End("finish")]), False)
        body = self._body(connection, request, op, sent)
        try:
            answer = early or self.respond(op, request, body)
        except BadRequest as error:
            answer = self.refusal(error.status, "InvalidRequest")
        sent.status = answer.status
        # Lose only answers to requests that were carried out: relay must find out what they did.
        done = answer.status < 300 and (op.kind in WRITES or self.role == "source")
        if done and self._first("answer-lost", op):
            connection.reset()
            return False
        return self._play(connection, answer, request.method == "HEAD")

    def _body(self, connection: Connection, request: Request, op: Op, sent: Sent) -> bytes:
        """Read the body of an upload. Raises Gone if it breaks off, after `broken` has handled the
        bytes."""
        if request.get("content-length") is None and request.get("transfer-encoding") is None:
            return b""
        if request.get("expect") is not None:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, got = Body(connection, body_length(request)), bytearray()
        try:
            while count := body.ready():
                piece = memoryview(bytearray(min(count, 1 << 18)))
                got += piece[: body.read(piece)]
        except Gone:
            sent.bytes, sent.whole = len(got), False
            self.broken(op, request, bytes(got))
            raise
        sent.bytes = len(got)
        return bytes(got)

    def _answer_early(
        self, connection: Connection, request: Request, answer: Answer, sent: Sent
    ) -> bool:
        """Answer before the body was read."""
        sent.status = answer.status
        answer.keep = (
            request.get("content-length") in (None, "0")
            and request.get("transfer-encoding") is None
        )
        return self._play(connection, answer, request.method == "HEAD")

    def _play(self, connection: Connection, answer: Answer, head: bool) -> bool:
        answer.bodiless = answer.bodiless or head
        if self.store_habits.does("interim"):
            answer.before = [
                Text(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"),
                *answer.before,
            ]
        player = Player(connection, None)
        player.play(compose(answer))
        if not player.ended and self.store_habits.does("closes-each"):
            connection.finish()
            return False
        return not player.ended

    # -- trouble

    def _first(self, habit: str, op: Op) -> bool:
        """Return whether a habit strikes now: once for each verb and name that it picks."""
        key = (op.kind, op.name, op.number)
        return self.store_habits.roll(habit, *key) < TROUBLED and self.store_habits.once(
            habit, *key
        )

    def _trouble(self, op: Op, connection: Connection) -> Answer | None:
        """Return the answer to a request that is not carried out. Raises Gone if it gets none."""
        if self._first("drops", op):
            raise Gone
        if self._first("hangs", op) or self.store_habits.picks(
            "hangs-always", op.kind, op.name, share=TROUBLED
        ):
            connection.wait(None)
        if self._first("busy-503", op):
            answer = self.refusal(503, "SlowDown")
            answer.put("Retry-After", "0")
            return answer
        if self._first("busy-429", op) or self.store_habits.picks(
            "busy-always", op.kind, op.name, share=TROUBLED
        ):
            return self.refusal(429, "SlowDown")
        if self._first("error-500", op):
            return self.refusal(500, "InternalError")
        if self._first("denied-401", op):
            return self.refusal(401, "Unauthorized")
        if op.kind == "put" and self.store_habits.picks("full", op.name):
            return self.refusal(507, "QuotaExceeded")
        if op.kind == "list" and self.store_habits.once("list-503-once", op.name, op.number):
            return self.refusal(503, "SlowDown")
        return self._trouble_with_head(op, connection) if op.kind == "head" else None

    def _trouble_with_head(self, op: Op, connection: Connection) -> Answer | None:
        for status in (403, 404, 405, 500):
            if self.store_habits.does(f"head-{status}"):
                return self.refusal(status)
        if self.store_habits.does("head-drops"):
            raise Gone
        if self.store_habits.does("head-hangs"):
            connection.wait(None)
        return None
