"""A plain HTTP destination with many habits: its answers about an object, the bytes that it keeps,
the fields that it obeys."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time

from tests.scripted import Talk, length_of

Answers = Callable[[bytes, bytes], bytes | None]


@dataclass
class Shelf:
    """Objects by their paths, and the habits of the server that keeps them.

    `refused` are whole answers, by method, that replace an action; an empty one hangs up. `damages`
    changes the bytes of a PUT; `cut` keeps only that number of bytes of the next upload and hangs
    up; `before` runs, with the shelf, before a request is answered; `folds` maps a path to the one
    that the server uses."""

    objects: dict[bytes, bytes] = field(default_factory=dict)
    refused: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    tagged: bool = True
    tags_uploads: bool = False
    """Whether its answer to an upload has the entity tag."""
    heeds: bool = False
    dated: bytes = b""
    """The modification time of each object, as the server reports it; empty: it reports no
    dates."""
    skew: float = 0.0
    """How far its clock is ahead, in seconds."""
    cut: int | None = None
    damages: Callable[[bytes], bytes] = lambda data: data
    before: Callable[[Shelf, bytes, bytes], None] = lambda shelf, method, path: None
    folds: Callable[[bytes], bytes] = lambda path: path
    shown: Callable[[Shelf, bytes], bytes | None] = lambda shelf, path: shelf.objects.get(path)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def methods(self) -> list[bytes]:
        """The methods of the requests, in order."""
        return [method for method, _, _ in self.asked]

    def __call__(self, talk: Talk) -> None:
        """Play the server on one connection."""
        while request := talk.head():
            method, path = request.split(b" ", 2)[:2]
            path = self.folds(path)
            with self.lock:
                self.asked.append((method, path, request))
                self.before(self, method, path)
            if method == b"PUT" and not self._put(talk, path, request):
                return
            if method != b"PUT" and not self._other(talk, method, path, request):
                return

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        if b"100-continue" in request:
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = length_of(request)
        if self.cut is not None:
            self.objects[path], self.cut = talk.body(self.cut), None
            talk.reset()
            return False
        body = talk.body(length)
        if len(body) < length:
            self.objects[path] = body  # as some servers do
            return False
        if self.refused.get(b"PUT") is not None:
            talk.send(self.refused[b"PUT"])
            return True
        if self.heeds and b"If-None-Match: *" in request and path in self.objects:
            talk.send(b"HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n")
            return True
        self.objects[path] = self.damages(body)
        talk.send(
            b"HTTP/1.1 201 X\r\n", self._tag(self.objects[path]) if self.tags_uploads else b""
        )
        talk.send(b"Content-Length: 0\r\n\r\n")
        return True

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if (refusal := self.refused.get(method)) is not None:
            talk.send(refusal)
            return bool(refusal)
        data = self.shown(self, path)
        if data is None:
            talk.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        elif method == b"DELETE":
            wanted = request.partition(b"If-Match: ")[2].partition(b"\r\n")[0]
            if self.heeds and wanted and wanted not in self._tag(data):
                talk.send(b"HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n")
            else:
                del self.objects[path]
                talk.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            fields = b"Content-Length: %d\r\n" % len(data) + (
                self._tag(data) if self.tagged else b""
            )
            if self.dated:
                answered = formatdate(time() + self.skew, usegmt=True).encode()
                fields += b"Date: %s\r\nLast-Modified: %s\r\n" % (answered, self.dated)
            talk.send(b"HTTP/1.1 200 X\r\n" + fields + b"\r\n", data if method == b"GET" else b"")
        return True

    @staticmethod
    def _tag(data: bytes) -> bytes:
        return b'ETag: "%s"\r\n' % hashlib.md5(data).hexdigest().encode()


class Meanwhile(Shelf):
    """Do something once while a piece is read back: the answer is the piece, as from an open
    file."""

    again: Callable[[], object] | None = None

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if method != b"GET" or self.again is None:
            return super()._other(talk, method, path, request)
        data, again, self.again = self.objects[path], self.again, None
        again()
        talk.send(
            b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n" % len(data) + self._tag(data) + b"\r\n",
            data,
        )
        return True


def empty_answer(status: int) -> bytes:
    """Return an answer of a status that has no body."""
    return b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
