"""Scripted clouds for the fault tests: a source of one object, and a destination that keeps whole
uploads."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ssl import SSLContext

from tests.scripted import Peer, Script, Talk, length_of

DATA = random.Random(7).randbytes(300_000)
GET_HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "v1"\r\n\r\n' % len(DATA)


@dataclass(frozen=True)
class Peers:
    """Starts scripted peers, over plain TCP, or over TLS with a `context`; they stop with
    `stack`."""

    stack: ExitStack
    context: SSLContext | None

    def start(self, *scripts: Script) -> Peer:
        return self.stack.enter_context(Peer(scripts, self.context))


@dataclass
class Cloud:
    """The records of a script: heads of requests, whole objects, and the number of bytes of broken
    ones."""

    heads: list[bytes] = field(default_factory=list)
    objects: dict[bytes, bytes] = field(default_factory=dict)
    broken: int = 0

    @property
    def methods(self) -> list[bytes]:
        """The methods of the requests, in order."""
        return [head.split(b" ", 1)[0] for head in self.heads]


def source_script(
    cloud: Cloud, get: Callable[[Talk, bytes], None], head: bytes | None = None
) -> Script:
    """A source: `get(talk, request_head)` plays the answer to GET; HEAD is answered 405, or with
    `head`."""

    def script(talk: Talk) -> None:
        while request := talk.head():
            cloud.heads.append(request)
            if request.startswith(b"HEAD "):
                talk.send(head or b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            else:
                get(talk, request)
                return

    return script


def fixed_answer(*pieces: bytes, reset: bool = False) -> Callable[[Talk, bytes], None]:
    """Play fixed bytes, then a FIN or a RST."""

    def get(talk: Talk, _: bytes) -> None:
        talk.send(*pieces)
        if reset:
            talk.reset()

    return get


TAGGED = b'HTTP/1.1 201 Created\r\nETag: "ours"\r\nContent-Length: 0\r\n\r\n'
"""An answer to an upload that names the stored object: relay deletes only objects that it knows to
be its own."""


def destination_script(
    cloud: Cloud, put: bytes = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
) -> Script:
    """A destination: PUT and POST by length or chunked; it keeps whole uploads; GET, HEAD and
    DELETE work on them."""

    def script(talk: Talk) -> None:
        while request := talk.head():
            cloud.heads.append(request)
            method, path = request.split(b" ", 2)[:2]
            if method in (b"PUT", b"POST"):
                if b"100-continue" in request:
                    talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = receive_upload(talk, request)
                if body is None:
                    cloud.broken += 1
                    return
                cloud.objects[path] = body
                talk.send(put)
            else:
                _answer(talk, cloud, method, path)

    return script


def inspected_script(script: Script) -> Script:
    """Answer every HEAD with 404 before `script` sees a request: relay inspects a destination
    before it uploads."""

    def looking(talk: Talk) -> None:
        read = talk.head

        def head() -> bytes:
            while (request := read()).startswith(b"HEAD "):
                talk.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return request

        talk.head = head  # type: ignore[method-assign]
        script(talk)

    return looking


def _answer(talk: Talk, cloud: Cloud, method: bytes, path: bytes) -> None:
    body = cloud.objects.get(path)
    if body is None:
        talk.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    elif method == b"DELETE":
        del cloud.objects[path]
        talk.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    else:
        talk.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body),
            body if method == b"GET" else b"",
        )


def read_requests(talk: Talk) -> Iterator[tuple[bytes, bytes]]:
    """Yield each request and its body; end when an upload breaks off."""
    while request := talk.head():
        if b"100-continue" in request:
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = receive_upload(talk, request) if request.split()[0] in (b"PUT", b"POST") else b""
        if body is None:
            return
        yield request, body


def receive_upload(talk: Talk, request: bytes) -> bytes | None:
    """Read an upload's body; None if it broke off."""
    if b"chunked" not in request.lower():
        length = length_of(request)
        body = talk.body(length)
        return body if len(body) == length else None
    body = b""
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            piece = talk.body(1)
            if not piece:
                return None
            line += piece
        size = int(line, 16)
        chunk = talk.body(size + 2)
        if len(chunk) < size + 2:
            return None
        if size == 0:
            return body
        body += chunk[:size]


@dataclass
class Versions:
    """A source whose object becomes its next version after `after` answers to GET; the last one
    stays.

    It supports ranges. If it `heeds` If-Match, another version is a 412; otherwise it is sent under
    its own tag."""

    versions: list[tuple[str, bytes]]
    after: int = 1
    heeds: bool = True
    tagged: bool = True
    """Whether the answer to a range names its version."""
    heads: list[bytes] = field(default_factory=list)
    gets: int = 0

    def __call__(self, talk: Talk) -> None:
        while request := talk.head():
            self.heads.append(request)
            tag, data = self.versions[min(self.gets // self.after, len(self.versions) - 1)]
            if request.startswith(b"HEAD "):
                talk.send(self._head(b"200 OK", len(data), tag, True))
                continue
            if self.heeds and b"\r\nIf-Match: " in request and tag.encode() not in request:
                talk.send(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
                continue
            self.gets += 1
            asked = re.search(rb"\r\nRange: bytes=([0-9]+)-([0-9]+)\r\n", request)
            if asked is None:
                talk.send(self._head(b"200 OK", len(data), tag, True), data)
                continue
            first, last = int(asked[1]), int(asked[2])
            span = f"Content-Range: bytes {first}-{last}/{len(data)}\r\n"
            talk.send(
                self._head(b"206 P", last + 1 - first, tag, self.tagged, span),
                data[first : last + 1],
            )

    @staticmethod
    def _head(status: bytes, length: int, tag: str, tagged: bool, more: str = "") -> bytes:
        etag = f'ETag: "{tag}"\r\n' if tagged else ""
        fields = f"Content-Length: {length}\r\n{etag}Accept-Ranges: bytes\r\n{more}\r\n"
        return b"HTTP/1.1 " + status + b"\r\n" + fields.encode()
