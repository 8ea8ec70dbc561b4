"""The source cloud: any path is an object, and its bytes are generated (`content`).

The size is `?size=N`, else a deterministic one between two bounds. The name of the content is the
path as sent, without the query, so `Content(seed).read(path, offset, length)` equals the bytes that
a client must have received. Decided here: the meaning of GET and HEAD. Never here: the faults of
the answer (`apply_faults`)."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote

from simulators import faults, message
from simulators.answer import Answer, Span, Step, plain
from simulators.content import Content
from simulators.message import BadRequest, Framing, Request
from simulators.quantities import parse_bytes
from simulators.server import Exchange, Options, Server

MIN_BYTES: Final = 10_000_000
MAX_BYTES: Final = 2_000_000_000
_MODIFIED: Final = "Tue, 17 Nov 2026 08:00:00 GMT"
_DIGESTS: Final = ("crc32c", "crc64nvme")


@dataclass(frozen=True)
class Representation:
    """One version of one object: `name` is the name of its content, `etag` None if it has none."""

    name: str
    size: int
    etag: str | None


class Source:
    """A source on a port, from construction until `stop`; `content` holds the bytes of its
    objects."""

    def __init__(
        self,
        port: int = 0,
        *,
        seed: str | int = "relay",
        min_bytes: int = MIN_BYTES,
        max_bytes: int = MAX_BYTES,
        framing: Framing = "length",
        digest: bool = True,
        etag: bool = True,
        options: Options | None = None,
        faults: Sequence[str] = (),
    ) -> None:
        self.content = Content(seed)
        self._bounds = (min_bytes, max_bytes)
        self._framing, self._digest, self._etag = framing, digest, etag
        self._gets: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server = Server(
            self._respond, options or Options(port=port, faults=faults), self.content
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
        """Close every connection and release the content."""
        self._server.stop()
        self.content.close()

    def size_of(self, path: str) -> int:
        """Return the size of the object at a path without a `?size=`."""
        return self.content.size_of(path, *self._bounds)

    def _respond(self, exchange: Exchange) -> Answer:
        request, plan = exchange.request, exchange.plan
        if request.method not in ("GET", "HEAD"):
            answer = plain(405, "GET or HEAD", [("Allow", "GET, HEAD")])
            answer.keep = False  # a body may follow, which is never read
            return answer
        current = self._representation(request, plan)
        fields = self._fields(request, current, plan)
        refusal = _refusal(request, current, fields)
        if refusal is not None:
            return refusal
        answer = self._found_answer(request, current, fields, plan)
        answer.framing = self._framing
        return answer

    def _representation(self, request: Request, plan: faults.Plan) -> Representation:
        name, size = request.path, self._size(request)
        resized, sequence = plan.get("size"), plan.get("etag_seq")
        if resized is not None:
            size = resized.bytes(0, size)
        if sequence is not None:
            # Another version has other bytes, so its content has another name.
            version = self._version(request, int(sequence.word(0, "1")))
            size += version * sequence.delta(1)
            name = f"{name}\0{version}" if version else name
        return Representation(name, size, self._tag(name, size, plan))

    def _size(self, request: Request) -> int:
        text = request.query.get("size")
        if text is None:
            return self.size_of(request.path)
        try:
            size = parse_bytes(text)
        except ValueError as error:
            raise BadRequest(400, str(error)) from error
        if size < 0:
            raise BadRequest(400, "a size is not negative")
        return size

    def _version(self, request: Request, every: int) -> int:
        with self._lock:
            count = self._gets.get(request.path, 0)
            if request.method == "GET":
                self._gets[request.path] = count + 1
        return count // max(1, every)

    def _tag(self, name: str, size: int, plan: faults.Plan) -> str | None:
        if not self._etag or plan.get("no_etag"):
            return None
        text = f"{self.content.seed}\0{name}\0{size}".encode("utf-8", "surrogateescape")
        tag = f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'
        return f"W/{tag}" if plan.get("weak_etag") else tag

    def _fields(
        self, request: Request, current: Representation, plan: faults.Plan
    ) -> list[tuple[str, str]]:
        fields = [("Last-Modified", _MODIFIED), ("Accept-Ranges", "bytes")]
        if current.etag is not None:
            fields.append(("ETag", current.etag))
        wanted = [name for name in message.wanted_digests(request) if name in _DIGESTS]
        if self._digest and wanted and not plan.get("no_digest"):
            digests = {
                name: self.content.digest(name, current.name, current.size) for name in wanted
            }
            fields.append(("Repr-Digest", message.repr_digest(digests)))
        return fields

    def _found_answer(
        self,
        request: Request,
        current: Representation,
        fields: list[tuple[str, str]],
        plan: faults.Plan,
    ) -> Answer:
        offset, length, status = 0, current.size, 200
        if request.method == "GET" and message.range_holds(request, current.etag, _MODIFIED):
            try:
                asked = message.parse_range(request.get("range"), current.size)
            except BadRequest:
                return plain(
                    416, "no such range", [*fields, ("Content-Range", f"bytes */{current.size}")]
                )
            if asked is not None:
                status, (offset, length) = 206, asked
                last = offset + length - 1
                fields = [*fields, ("Content-Range", f"bytes {offset}-{last}/{current.size}")]
        fields = [
            ("Content-Type", "application/octet-stream"),
            ("Content-Disposition", _disposition(request.path)),
            *fields,
        ]
        body: list[Step] = [Span(current.name, offset, length)] if length else []
        answer = Answer(status, fields, body)
        lie = plan.get("head_size")
        if lie is not None and request.method == "HEAD":
            answer.promised = current.size + lie.delta(0)
        return answer


def _refusal(
    request: Request, current: Representation, fields: list[tuple[str, str]]
) -> Answer | None:
    """Evaluate the conditions in the order of RFC 9110 §13.2.2."""
    if message.if_match_fails(request, current.etag):
        return plain(412, "another version", fields)
    if request.get("if-match") is None and message.modified_since(
        request.get("if-unmodified-since"), _MODIFIED
    ):
        return plain(412, "modified since", fields)
    if message.if_none_match_fails(request, current.etag):
        return plain(304, "", fields)
    if (
        request.get("if-none-match") is None
        and message.modified_since(request.get("if-modified-since"), _MODIFIED) is False
    ):
        return plain(304, "", fields)
    return None


def _disposition(path: str) -> str:
    """Write Content-Disposition for the last segment of a path (RFC 6266, RFC 8187 beyond
    ASCII)."""
    name = unquote(path.rstrip("/").rpartition("/")[2], errors="replace") or "index"
    plain_name = re.sub(r'[^ -~]|["\\]', "_", name)
    value = f'attachment; filename="{plain_name}"'
    return value if plain_name == name else f"{value}; filename*=UTF-8''{quote(name, safe='')}"
