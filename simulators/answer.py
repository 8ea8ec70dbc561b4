"""An answer as data: head fields, and the steps of its body. A fault is a change to this data, not
a branch.

Decided here: how an answer becomes steps (`compose`) and how steps become bytes on a connection
(`play`). Never here: why an answer is wrong (`apply_faults`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal

from simulators.content import Content
from simulators.message import Framing
from simulators.wire import Connection

CHUNK_BYTES: Final = 1024 * 1024
_TLS_BLOCK: Final = 256 * 1024
_FILL_BYTES: Final = 64 * 1024
_PACE_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Text:
    """Fixed bytes."""

    block: bytes | memoryview

    @property
    def length(self) -> int:
        """The number of bytes."""
        return len(self.block)


@dataclass(frozen=True)
class Span:
    """A range of a generated object; `flipped` sends it with the lowest bit of every byte
    inverted."""

    name: str
    offset: int
    length: int
    flipped: bool = False


@dataclass(frozen=True)
class Filler:
    """A pattern repeated; `times` None repeats it forever, and counts as no length."""

    pattern: bytes
    times: int | None

    @property
    def length(self) -> int:
        """The number of bytes, 0 if endless."""
        return len(self.pattern) * (self.times or 0)


@dataclass(frozen=True)
class Pause:
    """Silence for `seconds`; None waits until the peer closes."""

    seconds: float | None


@dataclass(frozen=True)
class Pace:
    """From here on, at most `bytes_per_second`."""

    bytes_per_second: float


@dataclass(frozen=True)
class Slices:
    """From here on, writes of at most `count` bytes with a pause after each; 0 ends it."""

    count: int
    seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """The end of the connection: `finish` properly, `close` raggedly, `reset` with an RST."""

    how: Literal["finish", "close", "reset"]


Step = Text | Span | Filler | Pause | Pace | Slices | End
Payload = Text | Span | Filler


@dataclass
class Answer:
    """A status, its fields and its body. The fields that frame the body are written by `compose`.

    `promised` is the Content-Length to write if it is not the body's; `frame_fields` replaces the
    framing fields of `compose`; `before` and `after` are steps around head and body; `bodiless` is
    HEAD, 204, 304."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: list[Step] = field(default_factory=list)
    framing: Framing = "length"
    keep: bool = True
    bodiless: bool = False
    promised: int | None = None
    frame_fields: list[tuple[str, str]] | None = None
    chunk_flaw: str | None = None
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)

    def put(self, name: str, value: str) -> None:
        """Set a field, and replace any of that name."""
        self.drop(name)
        self.headers.append((name, value))

    def drop(self, name: str) -> None:
        """Remove every field of that name."""
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]

    @property
    def length(self) -> int:
        """Bytes of the body, endless fillers not counted."""
        return sum(step.length for step in self.body if isinstance(step, Payload))


def plain(status: int, text: str = "", headers: list[tuple[str, str]] | None = None) -> Answer:
    """Return an answer of one line of text; an empty one for 204 and 304."""
    fields = list(headers or [])
    if status in (204, 304):
        return Answer(status, fields, bodiless=True)
    return Answer(
        status,
        [("Content-Type", "text/plain; charset=utf-8"), *fields],
        [Text(f"{text}\n".encode())],
    )


def compose(answer: Answer) -> Iterator[Step]:
    """Yield every step of an answer, head first."""
    yield from answer.before
    yield Text(_head(answer))
    # The fault `slice` concerns the head alone.
    yield Slices(0)
    if not answer.bodiless:
        yield from chunked_steps(answer.body) if answer.framing == "chunked" else answer.body
    yield from answer.after
    if not answer.keep or answer.framing == "close":
        yield End("finish")


def chunked_steps(body: list[Step]) -> Iterator[Step]:
    """Yield a body in the chunked coding (RFC 9112 §7.1), in chunks of at most CHUNK_BYTES."""
    for step in pieces(body):
        if isinstance(step, Payload):
            yield Text(b"%x\r\n" % step.length)
            yield step
            yield Text(b"\r\n")
        else:
            yield step
    yield Text(b"0\r\n\r\n")


def pieces(body: list[Step]) -> Iterator[Step]:
    """Yield the steps with payload cut to CHUNK_BYTES; fillers stay whole unless endless, which are
    cut."""
    for step in body:
        if isinstance(step, Span | Text):
            for start in range(0, step.length, CHUNK_BYTES):
                yield part(step, start, min(start + CHUNK_BYTES, step.length))
        elif isinstance(step, Filler) and step.times is None:
            while True:
                yield Filler(step.pattern, 1)
        elif not isinstance(step, Filler) or step.length:
            yield step


def part(step: Payload, start: int, stop: int) -> Payload:
    """Return bytes `start` to `stop` of a step."""
    if isinstance(step, Span):
        return Span(step.name, step.offset + start, stop - start, step.flipped)
    if isinstance(step, Text):
        return Text(step.block[start:stop])
    size = len(step.pattern)
    turned = step.pattern[start % size :] + step.pattern[: start % size]
    whole, rest = divmod(stop - start, size)
    return Filler(turned, whole) if not rest else Text((turned * (whole + 1))[: stop - start])


def split(body: list[Step], count: int) -> tuple[list[Step], list[Step]]:
    """Cut a body after `count` bytes of payload; an endless filler is never cut."""
    before: list[Step] = []
    left = count
    for index, step in enumerate(body):
        length = step.length if isinstance(step, Payload) else 0
        if length > left or left == 0:
            if not isinstance(step, Payload) or left == 0:
                return before, body[index:]
            return [*before, part(step, 0, left)], [part(step, left, length), *body[index + 1 :]]
        before.append(step)
        left -= length
    return before, []


def _head(answer: Answer) -> bytes:
    version = "1.0" if answer.framing == "close" else "1.1"
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/{version} {answer.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in (*answer.headers, *_frame_fields(answer))]
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")


def _frame_fields(answer: Answer) -> list[tuple[str, str]]:
    fields = [] if answer.keep else [("Connection", "close")]
    if answer.frame_fields is not None:
        return fields + answer.frame_fields
    if answer.status in (204, 304) or answer.status < 200:
        return fields
    if answer.framing == "chunked":
        return [*fields, ("Transfer-Encoding", "chunked")]
    if answer.framing == "length":
        promised = answer.length if answer.promised is None else answer.promised
        return [*fields, ("Content-Length", str(promised))]
    return fields


class Player:
    """Puts steps on a connection. `ended` is true once a step has ended it."""

    def __init__(self, connection: Connection, content: Content | None) -> None:
        self._connection, self._content = connection, content
        self._rate: float | None = None
        self._slices = Slices(0)
        self.ended = False

    def play(self, steps: Iterator[Step]) -> None:
        """Run each step, up to an End. Raises wire.Gone when the peer closes first."""
        for step in steps:
            if isinstance(step, Text):
                self._send(step.block)
            elif isinstance(step, Span):
                self._span(step)
            elif isinstance(step, Filler):
                self._fill(step)
            elif isinstance(step, Pause):
                self._connection.wait(step.seconds)
            elif isinstance(step, Pace):
                self._rate = step.bytes_per_second
            elif isinstance(step, Slices):
                self._slices = step
            else:
                self._end(step)
                return

    def _span(self, span: Span) -> None:
        assert self._content is not None, "only a source invents content"
        slow = self._rate is not None or self._slices.count
        # sendfile(2) can't pause, change a byte, or encrypt.
        if not (slow or span.flipped or self._connection.tls):
            for position, count in self._content.spans(span.name, span.offset, span.length):
                self._connection.send_file(self._content.fd, position, count)
            return
        for view in self._content.views(span.name, span.offset, span.length):
            for start in range(0, len(view), _TLS_BLOCK):
                block = view[start : start + _TLS_BLOCK]
                self._send(bytes(byte ^ 1 for byte in block) if span.flipped else block)

    def _fill(self, filler: Filler) -> None:
        group = max(1, _FILL_BYTES // len(filler.pattern))
        left = filler.times
        while left is None or left > 0:
            count = group if left is None else min(group, left)
            self._send(filler.pattern * count)
            left = None if left is None else left - count

    def _send(self, block: bytes | memoryview) -> None:
        if self._rate is not None:
            size = max(1, int(self._rate * _PACE_SECONDS))
            self._send_slices(block, size, size / self._rate)
        elif self._slices.count:
            self._send_slices(block, self._slices.count, self._slices.seconds)
        elif block:
            self._connection.send(block)

    def _send_slices(self, block: bytes | memoryview, size: int, seconds: float) -> None:
        # Each write is due at an absolute time, so that the time of a send does not lower the rate.
        due = time.monotonic()
        for start in range(0, len(block), size):
            self._connection.send(block[start : start + size])
            due += seconds
            self._connection.wait(max(0.0, due - time.monotonic()))

    def _end(self, end: End) -> None:
        self.ended = True
        {
            "finish": self._connection.finish,
            "close": self._connection.close,
            "reset": self._connection.reset,
        }[end.how]()
