"""The destination cloud: it accepts any PUT and POST, computes the digest of the body, and forgets
the bytes.

Decided here: which objects are visible, under which conditions, and the report of `/_received`. An
object is visible only after a complete upload. Payload is never on a disk; up to `keep_bytes` of it
stay in memory, for GET."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from simulators import message
from simulators.answer import Answer, End, Filler, Pause, Step, Text, plain
from simulators.apply_faults import has_replacement
from simulators.faults import Plan
from simulators.journal import Journal
from simulators.message import BadRequest, Request
from simulators.server import Exchange, Hangup, Options, Server
from simulators.upload_body import Body, Edit, Gate, Sink, paced_reader, receive

DIGESTS: Final = ("crc32c", "crc64nvme")
_REPR_DIGESTS: Final = {
    "crc32c": "crc32c",
    "crc64nvme": "crc64nvme",
    "md5": "md5",
    "sha256": "sha-256",
}
_MODIFIED: Final = "Tue, 17 Nov 2026 08:00:00 GMT"


@dataclass(frozen=True)
class Stored:
    """One visible object. `kept` is None if the bytes are forgotten; hidden before `visible_at`
    (monotonic)."""

    size: int
    etag: str
    content_type: str
    digests: Mapping[str, str]
    kept: memoryview | None
    visible_at: float


class _Early(Exception):
    """The `early` fault has read its number of bytes."""


class Destination:
    """A destination on a port, from construction until `stop`; `received` is the content of
    `/_received`."""

    def __init__(
        self,
        port: int = 0,
        *,
        digests: Sequence[str] = DIGESTS,
        keep_bytes: int = 0,
        receive_buffer: int | None = None,
        options: Options | None = None,
        faults: Sequence[str] = (),
    ) -> None:
        options = options or Options(port=port, faults=faults)
        self._digests, self._keep_bytes, self._kept_bytes = tuple(digests), keep_bytes, 0
        self._objects: dict[str, Stored] = {}
        self._lock = threading.Lock()
        self._sequence = itertools.count(1)
        self.received = Journal(options.journal_entries)
        self._server = Server(
            self._respond,
            options,
            controls={"/_received": self.received},
            buffer_bytes=receive_buffer,
        )
        self.port, self.url, self.journal = (
            self._server.port,
            self._server.url,
            self._server.journal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and wait for the threads."""
        self._server.stop()

    def _respond(self, exchange: Exchange) -> Answer:
        method = exchange.request.method
        if method in ("PUT", "POST"):
            return self._upload(exchange)
        if method in ("GET", "HEAD"):
            return self._read(exchange.request, exchange.plan)
        if method == "DELETE":
            return self._delete(exchange.request)
        answer = plain(405, "not here", [("Allow", "GET, HEAD, PUT, POST, DELETE")])
        answer.keep = False
        return answer

    def _find(self, path: str) -> Stored | None:
        stored = self._objects.get(path)
        return stored if stored is not None and stored.visible_at <= time.monotonic() else None

    def _read(self, request: Request, plan: Plan) -> Answer:
        with self._lock:
            stored = self._find(request.path)
        if stored is None:
            return plain(404, "nothing here")
        fields = [*self._fields(request, stored, plan), ("Content-Type", stored.content_type)]
        if message.if_match_fails(request, stored.etag):
            return plain(412, "another version", fields)
        if message.if_none_match_fails(request, stored.etag):
            return plain(304, "", fields)
        # The body gives the Content-Length; it is not sent.
        if request.method == "HEAD":
            return Answer(200, fields, [Filler(b"\0", stored.size)])
        if stored.kept is None:
            text = (
                "the bytes of this object were digested and forgotten; start with --keep to read"
                " them back"
            )
            return plain(405, text, [("Allow", "HEAD, PUT, POST, DELETE")])
        return _ranged_answer(request, stored, stored.kept, fields)

    def _delete(self, request: Request) -> Answer:
        with self._lock:
            stored = self._find(request.path)
            if message.if_match_fails(request, stored.etag if stored else None):
                return plain(412, "another version")
            if stored is None:
                return plain(404, "nothing here")
            self._forget(request.path)
        return plain(204)

    def _fields(self, request: Request, stored: Stored, plan: Plan) -> list[tuple[str, str]]:
        fields = [("ETag", stored.etag), ("Last-Modified", _MODIFIED), ("Accept-Ranges", "bytes")]
        wanted = message.wanted_digests(request)
        digests = {
            name: stored.digests[algorithm]
            for algorithm, name in _REPR_DIGESTS.items()
            if name in wanted and algorithm in stored.digests
        }
        if digests and not plan.get("no_digest"):
            fields.append(("Repr-Digest", message.repr_digest(digests)))
        return fields

    def _upload(self, exchange: Exchange) -> Answer:
        request, plan = exchange.request, exchange.plan
        length = message.body_length(request)
        with self._lock:
            refusal = _refusal(request, self._find(request.path))
        if refusal is None and plan.get("417") and request.get("expect"):
            refusal = plain(417, "no expectations")
        if refusal is not None:
            # The body may be on its way: answer before it, then close without cutting the answer
            # off.
            refusal.keep = False
            return refusal
        if plan.get("no_read"):
            exchange.connection.shrink()
            exchange.connection.wait(None)
        # An early answer at byte 0 comes in place of 100 Continue.
        early = plan.get("early")
        if (
            request.get("expect")
            and not plan.get("no_100")
            and not (early and early.bytes(1, length or 0) == 0)
        ):
            exchange.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._take(exchange, length)

    def _take(self, exchange: Exchange, length: int | None) -> Answer:
        """Receive the body, record the result, and respond."""
        request, plan, started = exchange.request, exchange.plan, time.monotonic()
        sink = Sink(self._digests, self._keep_bytes > 0, _edit(plan, length or 0))
        entry: dict[str, Any] = {
            "name": request.path,
            "path": request.path,
            "method": request.method,
            "complete": False,
            "etag": None,
            "headers": dict(request.fields),
        }
        try:
            self._receive(exchange, length, sink)
            digests = sink.finish()
            answer = (
                plain(204)
                if has_replacement(plan)
                else self._commit(exchange, sink, digests, entry)
            )
            entry.update(
                complete=not has_replacement(plan) and answer.status < 300, digests=digests
            )
        except _Early:
            answer = _early_answer(plan)
        finally:
            # A broken upload is recorded too: tests ask how many bytes came.
            entry["size"] = exchange.facts["body_bytes"] = sink.size
            entry.setdefault("digests", sink.finish())
            entry["seconds"] = time.monotonic() - started
            self.received.add(entry)
        _lose(exchange)
        return answer

    def _receive(self, exchange: Exchange, length: int | None, sink: Sink) -> None:
        rate = exchange.plan.get("drip")
        slow = paced_reader(exchange.connection, rate.rate(0)) if rate else None
        gates = _gates(exchange, length or 0)
        receive(Body(exchange.connection, length), sink, gates, slow or (lambda ready: ready))

    def _commit(
        self, exchange: Exchange, sink: Sink, digests: Mapping[str, str], entry: dict[str, Any]
    ) -> Answer:
        request, plan = exchange.request, exchange.plan
        number = next(self._sequence)
        path = (
            f"{request.path.rstrip('/')}/{number:x}" if request.method == "POST" else request.path
        )
        hidden = plan.get("vanish")
        seconds = hidden.seconds(0) if hidden else 0.0
        stored = Stored(
            size=sink.size,
            etag=f'"{number:x}-{sink.size:x}"',
            content_type=request.get("content-type") or "application/octet-stream",
            digests=digests,
            kept=memoryview(sink.kept) if sink.kept is not None else None,
            visible_at=time.monotonic() + (float("inf") if seconds is None else seconds),
        )
        with self._lock:
            old = self._objects.get(path)
            refusal = _refusal(request, self._find(path))  # another writer may have been faster
            if refusal is not None:
                return refusal
            self._store(path, stored)
        entry.update(etag=stored.etag, stored=path, new=old is None)
        fields = self._fields(request, stored, plan)
        if request.method == "POST":
            fields.append(("Location", path))
        return plain(201, "created", fields) if old is None else plain(204, "", fields)

    def _store(self, path: str, stored: Stored) -> None:
        """Make an object visible; beyond `keep_bytes` of memory its bytes are forgotten at once."""
        self._forget(path)
        if stored.kept is not None:
            if self._kept_bytes + stored.size > self._keep_bytes:
                stored = replace(stored, kept=None)
            else:
                self._kept_bytes += stored.size
        self._objects[path] = stored

    def _forget(self, path: str) -> None:
        old = self._objects.pop(path, None)
        if old is not None and old.kept is not None:
            self._kept_bytes -= old.size


def _refusal(request: Request, stored: Stored | None) -> Answer | None:
    etag = stored.etag if stored else None
    if message.if_match_fails(request, etag) or message.if_none_match_fails(request, etag):
        return plain(412, "precondition failed")
    return None


def _ranged_answer(
    request: Request, stored: Stored, kept: memoryview, fields: list[tuple[str, str]]
) -> Answer:
    if not message.range_holds(request, stored.etag, _MODIFIED):
        return Answer(200, fields, [Text(kept)])
    try:
        asked = message.parse_range(request.get("range"), stored.size)
    except BadRequest:
        return plain(416, "no such range", [("Content-Range", f"bytes */{stored.size}")])
    if asked is None:
        return Answer(200, fields, [Text(kept)])
    offset, length = asked
    where = ("Content-Range", f"bytes {offset}-{offset + length - 1}/{stored.size}")
    return Answer(206, [*fields, where], [Text(kept[offset : offset + length])])


def _edit(plan: Plan, length: int) -> Edit | None:
    cut, flip, zero = plan.get("truncate_store"), plan.get("store_flip"), plan.get("zero_tail")
    more = plan.get("store_append")
    if not (cut or flip or zero or more):
        return None
    return Edit(
        keep=cut.bytes(0, length) if cut else None,
        flip=flip.bytes(0, length) if flip else None,
        zero=max(0, length - zero.bytes(0, length)) if zero else None,
        append=more.bytes(0, length) if more else 0,
    )


def _gates(exchange: Exchange, length: int) -> list[Gate]:
    """Return the gates of the planned faults: the number of bytes at which each strikes."""
    connection, plan = exchange.connection, exchange.plan
    gates: list[Gate] = []

    def gate(name: str, index: int, act: Callable[[], None]) -> None:
        fault = plan.get(name)
        if fault is not None:
            gates.append((fault.bytes(index, length), act))

    def leave(end: Callable[[], None]) -> Callable[[], None]:
        def act() -> None:
            raise Hangup(end)

        return act

    def stall() -> None:
        fault = plan.get("stall_after")
        connection.wait(fault.seconds(1) if fault else 0.0)

    def early() -> None:
        raise _Early

    gate("close_after", 0, leave(connection.close))
    gate("rst_after", 0, leave(connection.reset))
    gate("stall_after", 0, stall)
    gate("early", 1, early)
    return gates


def _early_answer(plan: Plan) -> Answer:
    fault = plan.get("early")
    assert fault is not None, "only the gate of this fault raises _Early"
    answer = plain(int(fault.word(0)), "early")
    if (delay := fault.option("retry_after")) is not None:
        answer.put("Retry-After", delay)
    if (target := fault.option("location")) is not None:
        answer.put("Location", target)
    follows: dict[str, Step] = {
        "close": End("close"),
        "rst": End("reset"),
        "keep": Pause(None),
        "drain": End("finish"),
    }
    answer.after.append(follows[fault.word(2, "close")])
    return answer


def _lose(exchange: Exchange) -> None:
    """Obey `lose_answer`: the request is carried out, and its response is never sent."""
    fault = exchange.plan.get("lose_answer")
    if fault is None:
        return
    raise Hangup(exchange.connection.reset if fault.word(0) == "rst" else exchange.connection.close)
