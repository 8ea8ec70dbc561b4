"""Malformed framing, by name: chunked codings, framing fields and heads that a client must refuse.

Each table is a vocabulary: its keys are the words that the fault of that name takes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from simulators.answer import Answer, End, Filler, Payload, Span, Step, Text, split

Fields = list[tuple[str, str]]
_LAST: Final = Text(b"0\r\n\r\n")
_CRLF: Final = Text(b"\r\n")
_MEGABYTE: Final = 1024 * 1024


def flawed_chunks(word: str, body: list[Step]) -> list[Step]:
    """Return a body in the chunked coding, a good chunk and then the flaw; nearly all end the
    connection."""
    first, rest = split(
        body, max(1, sum(step.length for step in body if isinstance(step, Payload)) // 2)
    )
    return list(CHUNK_FLAWS[word](first, rest))


def _chunk(
    steps: list[Step], size_line: Callable[[int], bytes] = lambda size: b"%x\r\n" % size
) -> Iterator[Step]:
    size = sum(step.length for step in steps if isinstance(step, Payload))
    if size:
        yield Text(size_line(size))
        yield from steps
        yield _CRLF


def _ending(tail: bytes) -> Callable[[list[Step], list[Step]], Iterator[Step]]:
    """Return a flaw at the end: good chunks, `tail`, and a FIN."""

    def flaw(first: list[Step], rest: list[Step]) -> Iterator[Step]:
        yield from (*_chunk(first), *_chunk(rest), Text(tail), End("finish"))

    return flaw


def _endless_flaw(
    start: bytes, pattern: bytes
) -> Callable[[list[Step], list[Step]], Iterator[Step]]:
    """Return a flaw that never ends."""

    def flaw(first: list[Step], rest: list[Step]) -> Iterator[Step]:
        yield from (*_chunk(first), *_chunk(rest), Text(start), Filler(pattern, None))

    return flaw


def _size_flaw(
    size_line: Callable[[int], bytes], ends: bool = True
) -> Callable[[list[Step], list[Step]], Iterator[Step]]:
    """Return a flaw in the size of the last chunk."""

    def flaw(first: list[Step], rest: list[Step]) -> Iterator[Step]:
        # A body of one byte has no second half: then its only chunk bears the flaw.
        good, bad = (first, rest) if rest else ([], first)
        yield from (*_chunk(good), *_chunk(bad, size_line), _LAST)
        if ends:
            yield End("finish")

    return flaw


def _lines(end: bytes) -> Callable[[list[Step], list[Step]], Iterator[Step]]:
    """Return a flaw in which every line of the coding ends with this."""

    def flaw(first: list[Step], rest: list[Step]) -> Iterator[Step]:
        for step in (*_chunk(first), *_chunk(rest), _LAST):
            framing = isinstance(step, Text) and bytes(step.block).endswith(b"\r\n")
            yield (
                Text(bytes(step.block).replace(b"\r\n", end))
                if framing and isinstance(step, Text)
                else step
            )
        yield End("finish")

    return flaw


def _trailing_flaw(extra: bytes, drop: bool) -> Callable[[list[Step], list[Step]], Iterator[Step]]:
    """Return a flaw in which other bytes than CRLF follow the chunk's data."""

    def flaw(first: list[Step], rest: list[Step]) -> Iterator[Step]:
        chunk = list(_chunk(first))
        yield from (
            *chunk[:-1],
            Text(extra),
            *([] if drop else [_CRLF]),
            *_chunk(rest),
            _LAST,
            End("finish"),
        )

    return flaw


def _tiny_chunks(first: list[Step], rest: list[Step]) -> Iterator[Step]:
    """Yield chunks of one byte."""
    for step in (*first, *rest):
        if isinstance(step, Span):
            for place in range(step.length):
                yield from _chunk([Span(step.name, step.offset + place, 1, step.flipped)])
        elif isinstance(step, Text):
            for place in range(step.length):
                yield from _chunk([Text(step.block[place : place + 1])])
        else:
            yield from _chunk([step])
    yield _LAST


CHUNK_FLAWS: Final[Mapping[str, Callable[[list[Step], list[Step]], Iterator[Step]]]] = {
    "no_last": _ending(b""),
    "no_final_crlf": _ending(b"0\r\n"),
    "cut_trailers": _ending(b"0\r\nX-Check: cu"),
    "negative": _size_flaw(lambda size: b"-%x\r\n" % size),
    "plus": _size_flaw(lambda size: b"+%x\r\n" % size),
    "huge_size": _size_flaw(lambda size: b"1%016x\r\n" % size),
    "not_hex": _size_flaw(lambda size: b"zz\r\n"),
    "underscore": _size_flaw(lambda size: b"0_%x\r\n" % size),
    "hex_prefix": _size_flaw(lambda size: b"0x%x\r\n" % size),
    "empty_size": _size_flaw(lambda size: b"\r\n"),
    "space": _size_flaw(lambda size: b" %x\r\n" % size),
    "long_ext": _size_flaw(lambda size: b"%x;a=%s\r\n" % (size, b"b" * _MEGABYTE)),
    "endless_trailers": _endless_flaw(b"0\r\n", b"X-Trailer: and another\r\n"),
    "endless": _endless_flaw(b"", b"10\r\nsixteen bytes...\r\n"),
    "bare_lf": _lines(b"\n"),
    "bare_cr": _lines(b"\r"),
    "no_data_crlf": _trailing_flaw(b"", drop=True),
    "long_data": _trailing_flaw(b"more", drop=False),
    # The ones below are legal, and keep the connection.
    "tiny": _tiny_chunks,
    "ext": _size_flaw(lambda size: b'%x;a=b;c="d"\r\n' % size, ends=False),
    "leading_zeros": _size_flaw(lambda size: b"0000%x\r\n" % size, ends=False),
    "trailers": lambda first, rest: iter(
        (*_chunk(first), *_chunk(rest), Text(b"0\r\nX-Check: whole\r\n\r\n"))
    ),
}


def _length(write: Callable[[int], str]) -> Callable[[int], Fields]:
    return lambda size: [("Content-Length", write(size))]


FRAME_FLAWS: Final[Mapping[str, Callable[[int], Fields]]] = {
    "cl2": lambda size: [("Content-Length", str(size)), ("Content-Length", str(size + 1))],
    "cl_same": lambda size: [("Content-Length", str(size)), ("Content-Length", str(size))],
    "cl_te": lambda size: [("Content-Length", str(size)), ("Transfer-Encoding", "chunked")],
    "cl_underscore": _length(
        lambda size: f"0_{size}" if size < 10 else f"{str(size)[0]}_{str(size)[1:]}"
    ),
    "cl_plus": _length(lambda size: f"+{size}"),
    "cl_negative": _length(lambda size: f"-{size}"),
    "cl_list": _length(lambda size: f"{size}, {size}"),
    "cl_list2": _length(lambda size: f"{size}, {size + 1}"),
    "cl_unicode": _length(lambda size: "".join(chr(0x660 + int(digit)) for digit in str(size))),
    "cl_empty": _length(lambda size: ""),
    "cl_hex": _length(lambda size: f"0x{size:x}"),
    "cl_float": _length(lambda size: f"{size}.0"),
    "cl_huge": _length(lambda size: "9" * 30),
    "te_unknown": lambda size: [("Transfer-Encoding", "zipped"), ("Content-Length", str(size))],
    "te_twice": lambda size: [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
    "te_identity": lambda size: [("Transfer-Encoding", "identity"), ("Content-Length", str(size))],
}
CHUNKED_FLAWS: Final = frozenset({"cl_te", "te_twice"})  # these frame the body by chunks


def _fields(*fields: tuple[str, str]) -> Callable[[Answer], None]:
    return lambda answer: answer.headers.extend(fields)


def _endless_head(answer: Answer) -> None:
    answer.before += [Text(b"HTTP/1.1 200 OK\r\n"), Filler(b"X-Bomb: and another\r\n", None)]


HEAD_FLAWS: Final[Mapping[str, Callable[[Answer], None]]] = {
    "count": _fields(*((f"X-Bomb-{number}", "1") for number in range(200))),
    "line": _fields(("X-Bomb", "1" * 80 * 1024)),
    "nul": _fields(("X-Bomb", "a\0b")),
    "fold": _fields(("X-Bomb", "a\r\n b")),
    "no_colon": _fields(("X-Bomb\r\nno colon here\r\nX-Bomb", "1")),
    "space_colon": _fields(("X-Bomb ", "1")),
    "endless": _endless_head,
}


def _content_range(
    write: Callable[[int, int, str], str],
) -> Callable[[Answer, int, int, str], None]:
    return lambda answer, first, last, size: answer.put("Content-Range", write(first, last, size))


def _shift(answer: Answer, first: int, last: int, size: str) -> None:
    """Answer a range one byte after the requested one, and declare it."""
    answer.put("Content-Range", f"bytes {first + 1}-{last + 1}/{size}")
    answer.body = [
        Span(step.name, step.offset + 1, step.length) if isinstance(step, Span) else step
        for step in answer.body
    ]


def _answer_half(answer: Answer, first: int, last: int, size: str) -> None:
    """Answer with the first half of the requested range, which is legal."""
    half = max(1, (last - first + 1) // 2)
    answer.put("Content-Range", f"bytes {first}-{first + half - 1}/{size}")
    answer.body = split(answer.body, half)[0]


def _multipart(answer: Answer, first: int, last: int, size: str) -> None:
    """Answer one range as multipart/byteranges (RFC 9110 §15.3.7.2 forbids it for one)."""
    answer.drop("Content-Range")
    answer.put("Content-Type", "multipart/byteranges; boundary=part")
    head = f"--part\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n".encode()
    answer.body = [Text(head), *answer.body, Text(b"\r\n--part--\r\n")]


RANGE_FLAWS: Final[Mapping[str, Callable[[Answer, int, int, str], None]]] = {
    "shift": _shift,
    "short": _answer_half,
    "multipart": _multipart,
    "total": _content_range(lambda first, last, size: f"bytes {first}-{last}/{int(size) + 1}"),
    "star": _content_range(lambda first, last, size: f"bytes {first}-{last}/*"),
    "unit": _content_range(lambda first, last, size: f"items {first}-{last}/{size}"),
    "backwards": _content_range(lambda first, last, size: f"bytes {last}-{first}/{size}"),
    "no_content_range": lambda answer, first, last, size: answer.drop("Content-Range"),
    # The server has removed the field before (server.py).
    "ignore": lambda answer, first, last, size: None,
}
