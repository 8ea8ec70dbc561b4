"""What all lying stores share: the loop of a connection, whatever may happen to any request, and how an object is told.

Decided here: the order (credentials, trouble, the body, the work, the answer or its loss). Never here: what a path
means (`plain.py`, `dav.py`, `s3.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final, Self

from simulators.answer import Answer, End, Player, Text, chunked, compose, plain
from simulators.intake import Body
from simulators.liars.manners import Manners
from simulators.liars.shelf import LATE_SECONDS, Held, Shelf
from simulators.listener import Listener
from simulators.message import (
    BadRequest,
    Request,
    body_length,
    if_match_fails,
    if_none_match_fails,
    parse_range,
    parse_request,
)
from simulators.wire import Connection, Gone, TooLarge

WRITES: Final = frozenset({"put", "part", "begin", "complete", "move", "delete", "abort", "mkcol"})
TROUBLED: Final = 0.4
"""For so many of its names and verbs a store is in trouble at first."""
LOGIN: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form>Who are you?</form></body></html>\n"
)


@dataclass(frozen=True, kw_only=True)
class Op:
    """What a request asks for: a verb of ours, and the name that it speaks of."""

    kind: str
    name: str = ""
    upload: str = ""
    number: int = 0


@dataclass(kw_only=True)
class Sent:
    """One request as it came, for the judge: `bytes` of its body, and whether that was whole."""

    op: Op
    status: int = 0
    bytes: int = 0
    whole: bool = True
    headers: list[tuple[str, str]] = field(default_factory=list)


class Liar:
    """A store on a port of its own, from construction until `stop`. `secrets` are the credentials that it takes."""

    kind = ""

    def __init__(self, role: str, manners: Manners, secrets: Collection[str]) -> None:
        self.role, self.manners, self.secrets = role, manners, set(secrets)
        self.shelf = Shelf(folds=manners.has("folds-case"))
        self.log: list[Sent] = []
        self._stopped = threading.Event()
        self._listener = Listener(self._serve, "127.0.0.1", 0, None, None)
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

    def operation(self, request: Request) -> Op:
        """Return what a request asks for. Raises BadRequest."""
        raise NotImplementedError

    def respond(self, op: Op, request: Request, body: bytes) -> Answer:
        """Do what was asked for, and return the honest answer, or a habit's."""
        raise NotImplementedError

    def broken(self, op: Op, request: Request, body: bytes) -> None:
        """An upload broke off after these bytes."""

    def refusal(self, status: int, code: str = "") -> Answer:
        """Return an answer that refuses, as this protocol words it."""
        return plain(status, code)

    def allowed(self, request: Request) -> bool:
        """Say if a request has credentials that are taken."""
        return (request.get("authorization") or "").removeprefix("Bearer ") in self.secrets

    # -- one connection

    def _serve(self, connection: Connection) -> None:
        try:
            while self._once(connection):
                pass
        except Gone:
            connection.close()

    def _once(self, connection: Connection) -> bool:
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
        if not self.allowed(request):
            return self._refused(connection, request, self.refusal(401, "InvalidAccessKeyId"), sent)
        early = self._trouble(op, connection)
        if early is not None and self.manners.roll("early", op.kind, op.name) < 0.5:
            return self._refused(connection, request, early, sent)
        body = self._body(connection, request, op, sent)
        answer = early or self.respond(op, request, body)
        sent.status = answer.status
        if op.kind in WRITES and answer.status < 300 and self._first("answer-lost", op):
            connection.reset()
            return False
        return self._play(connection, answer, request.method == "HEAD")

    def _body(self, connection: Connection, request: Request, op: Op, sent: Sent) -> bytes:
        """Read what is uploaded. Raises Gone where it breaks off, after what came was dealt with."""
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

    def _refused(self, connection: Connection, request: Request, answer: Answer, sent: Sent) -> bool:
        """Answer before the body was read."""
        sent.status = answer.status
        answer.keep = request.get("content-length") in (None, "0") and request.get("transfer-encoding") is None
        return self._play(connection, answer, request.method == "HEAD")

    def _play(self, connection: Connection, answer: Answer, head: bool) -> bool:
        answer.bodiless = answer.bodiless or head
        player = Player(connection, None)
        player.play(compose(answer))
        if not player.ended and self.manners.does("closes-each"):
            connection.finish()
            return False
        return not player.ended

    # -- trouble

    def _first(self, habit: str, op: Op) -> bool:
        """Say if a habit strikes now: once for each verb and name that it picks."""
        key = (op.kind, op.name, op.number)
        return self.manners.roll(habit, *key) < TROUBLED and self.manners.once(habit, *key)

    def _trouble(self, op: Op, connection: Connection) -> Answer | None:
        """Return what a request is answered that is not done. Raises Gone where it never is."""
        if self._first("drops", op):
            raise Gone
        if self._first("hangs", op):
            connection.wait(None)
        if self._first("busy-503", op):
            answer = self.refusal(503, "SlowDown")
            answer.put("Retry-After", "0")
            return answer
        if self._first("busy-429", op):
            return self.refusal(429, "SlowDown")
        if self._first("error-500", op):
            return self.refusal(500, "InternalError")
        if op.kind == "list" and self.manners.once("list-503-once", op.name, op.number):
            return self.refusal(503, "SlowDown")
        return self._trouble_with_head(op, connection) if op.kind == "head" else None

    def _trouble_with_head(self, op: Op, connection: Connection) -> Answer | None:
        for status in (403, 404, 405, 500):
            if self.manners.does(f"head-{status}"):
                return self.refusal(status)
        if self.manners.does("head-drops"):
            raise Gone
        if self.manners.does("head-hangs"):
            connection.wait(None)
        return None

    # -- objects

    def seen(self, name: str) -> Held | None:
        """Return what readers are shown under a name."""
        held = self.shelf.get(name)
        before = self.shelf.before(name)
        if before is None or before[1] > LATE_SECONDS:
            return held
        old = before[0]
        if old is not None and held is not None and self.manners.does("stale"):
            return old
        if old is None and held is not None and self.manners.does("late"):
            return None
        return held

    def tag(self, held: Held) -> str | None:
        """Return the entity tag of an object as it is told, with its quotes, or None."""
        if self.manners.does("tag-none"):
            return None
        if self.manners.does("tag-weak"):
            return f'W/"{held.tag}"'
        if self.manners.does("tag-unquoted"):
            return held.tag
        if self.manners.does("tag-long"):
            return f'"{held.tag.ljust(300, "x")}"'
        if self.manners.does("tag-changing"):
            return f'"{held.tag}-{time.monotonic_ns()}"'
        return f'"{held.tag}"'

    def date(self, held: Held) -> str | None:
        """Return the Last-Modified of an object as it is told, or None."""
        if self.manners.does("date-none"):
            return None
        if self.manners.does("date-odd"):
            stamp = formatdate(held.modified, usegmt=True)
            odd = (stamp.replace("GMT", "-0000"), "Mon, 01 Jan 2026 99:99:99 GMT", "Thu, 01 Jan 99999 00:00:00 GMT")
            return odd[int(self.manners.roll("odd", held.serial) * len(odd))]
        return formatdate(held.modified, usegmt=True)

    def forbidden(self, request: Request, held: Held | None) -> bool:
        """Say if a precondition forbids the request (RFC 9110 section 13.1)."""
        conditional = request.get("if-match") is not None or request.get("if-none-match") is not None
        if conditional and self.manners.does("conditions-ignored"):
            return False
        tag = None if held is None else self.tag(held)
        if tag is not None and request.get("if-match") == tag and not tag.startswith("W/"):
            return False  # by the letter, whatever it looks like
        return if_match_fails(request, tag) or if_none_match_fails(request, tag)

    def read(self, op: Op, request: Request) -> Answer:
        """Answer a HEAD or a GET of an object."""
        held = self.seen(op.name)
        if held is None:
            return self.refusal(404, "NoSuchKey")
        if self.forbidden(request, held):
            return self.refusal(412, "PreconditionFailed")
        answer = Answer(200, self.described(held), [Text(held.data)])
        if op.kind == "head":
            self._spoil_head(answer, held)
        else:
            self._ranged(answer, request, held)
            self._spoil_get(answer, op)
        self._change(op)
        return answer

    def described(self, held: Held) -> list[tuple[str, str]]:
        """Return the fields that tell of an object."""
        told = (("ETag", self.tag(held)), ("Last-Modified", self.date(held)))
        fields = [(name, value) for name, value in told if value is not None]
        return [*fields, ("Accept-Ranges", "bytes"), *held.fields.items()]

    def _ranged(self, answer: Answer, request: Request, held: Held) -> None:
        if request.get("range") is None or self.manners.does("range-ignored"):
            return
        span = parse_range(request.get("range"), len(held.data))
        if span is not None:
            first, count = span
            answer.status = 206
            answer.put("Content-Range", f"bytes {first}-{first + count - 1}/{len(held.data)}")
            answer.body = [Text(held.data[first : first + count])]

    def _spoil_head(self, answer: Answer, held: Held) -> None:
        if self.manners.does("head-zero"):
            answer.promised = 0
        elif self.manners.does("head-no-length"):
            answer.frame_fields = []
        elif len(held.data) > 1 and self.manners.does("head-short"):
            answer.promised = len(held.data) // 2

    def _spoil_get(self, answer: Answer, op: Op) -> None:
        cut = answer.length > 1 and self.manners.once("get-cut", op.name)
        if self.manners.does("chunked") or self.manners.has("head-short"):
            answer.framing = "chunked"
        elif self.manners.does("until-close"):
            answer.framing = "close"
        if cut:
            block = b"".join(bytes(step.block) for step in answer.body if isinstance(step, Text))
            half = block[: len(block) // 2]
            if answer.framing == "chunked":
                *steps, _ = chunked([Text(half)])  # without the last chunk
                answer.frame_fields, answer.framing, answer.body = [("Transfer-Encoding", "chunked")], "length", steps
            else:
                answer.promised, answer.body = len(block), [Text(half)]
            answer.after = [End("finish")]

    def _change(self, op: Op) -> None:
        """Let the source's object become another, at the moment that the seed has for it."""
        moment = "head" if self.manners.roll("moment", op.name) < 0.3 else "get"
        if op.kind != moment or self.manners.roll("changes", op.name) > 0.6:
            return
        held = self.shelf.get(op.name)
        if held is not None and self.manners.once("source-changes", op.name):
            tail = b"" if self.manners.roll("longer", op.name) < 0.5 else b" and more"
            data = bytes(byte ^ 0x55 for byte in held.data[:4096]) + held.data[4096:] + tail
            self.shelf.put(op.name, data, "source", modified=held.modified + 60, fields=held.fields)
        if op.kind == "head" and self.manners.once("source-vanishes", op.name):
            self.shelf.delete(op.name, "source")

    # -- uploads

    def stored(self, op: Op, body: bytes, fields: dict[str, str] | None = None, why: str = "") -> Held | None:
        """Keep an upload as this store does: whole, or as its habits have it. None where it vanishes."""
        self.other("other-before", op.name, len(body))
        if body and (self.manners.once("flips-once", op.name) or self.manners.picks("flips", op.name)):
            body = flipped(body)
        elif len(body) > 1 and self.manners.once("short-once", op.name):
            body = body[: len(body) * 2 // 3]
        elif self.manners.roll("vanish", op.name) < 0.5 and self.manners.once("vanishes", op.name):
            return None
        held = self.shelf.put(op.name, body, "relay", fields=fields, why=why)
        self.other("other-after", op.name, len(body))
        return held

    def other(self, habit: str, name: str, size: int) -> None:
        """Let somebody else write the name, if this is the moment: an object as long, or a longer or shorter one."""
        if self.manners.roll(habit, name) > 0.6 or not self.manners.once(habit, name):
            return
        length = (size, size + 7, size // 2, 5)[int(self.manners.roll("length", habit, name) * 4)]
        self.shelf.put(name, others(f"{habit} {name}", length), "other")


def flipped(data: bytes) -> bytes:
    """Return bytes of which the middle one is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def others(what: str, length: int) -> bytes:
    """Return an object of somebody else's, of this length."""
    text = f"<{what}, written by somebody else>".encode()
    return (text * (length // len(text) + 1))[:length]
