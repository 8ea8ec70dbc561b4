"""Apply faults to an answer. Pure: takes an Answer and a Plan, changes the Answer; nothing is sent
here."""

from __future__ import annotations

import functools
import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

from awscrt import checksums

from simulators.answer import (
    Answer,
    End,
    Filler,
    Pace,
    Pause,
    Slices,
    Span,
    Step,
    Text,
    part,
    plain,
    split,
)
from simulators.content import Content
from simulators.faults import Fault, Plan
from simulators.malformed import CHUNKED_FLAWS, FRAME_FLAWS, HEAD_FLAWS, RANGE_FLAWS, flawed_chunks
from simulators.message import Request

_BREATH_SECONDS: Final = 0.0005
_BOMB_BLOCK: Final = 1024 * 1024
_BOMB_BLOCKS: Final = 10 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def apply_faults(answer: Answer, request: Request, plan: Plan, content: Content | None) -> None:
    """Change the answer as the plan requires. A fault that struck an upload's body already is
    skipped."""
    if not plan.faults:
        return
    upload = request.method in ("PUT", "POST")
    # Step 1: another answer takes the place of the true one; the other faults then change it.
    for fault in plan.faults:
        if fault.name in _REPLACEMENTS:
            _replace(answer, _REPLACEMENTS[fault.name](fault, request))
    # Step 2: the fields.
    _spoil_range(answer, plan)
    for name, change in _FIELDS.items():
        for fault in plan.faults:
            if fault.name == name:
                change(answer, fault)
    # Step 3: the body. At an upload these faults have struck the request's body.
    if not upload:
        _compress(answer, plan, content)
        _spoil_body(answer, plan)
    # Step 4: the framing, which depends on the body; then the start and the end of the answer.
    _spoil_framing(answer, plan)
    _spoil_start(answer, plan)
    if plan.get("ragged_tls"):
        answer.keep = True  # no proper end; this side closes
        answer.after.append(End("close"))


def has_replacement(plan: Plan) -> bool:
    """Return whether the plan replaces the true answer by another, so that an upload is not stored."""
    return any(fault.name in _REPLACEMENTS for fault in plan.faults)


def _replace(answer: Answer, other: Answer | None) -> None:
    if other is not None:
        answer.__dict__.update(other.__dict__)


def _status(fault: Fault, request: Request) -> Answer:
    answer = plain(int(fault.word(0)), "so says the fault")
    names = {"retry_after": "Retry-After", "location": "Location", "www": "WWW-Authenticate"}
    for key, value in fault.options:
        answer.put(names[key], value)
    return answer


def _redirect(fault: Fault, request: Request) -> Answer:
    return plain(int(fault.word(0)), "elsewhere", [("Location", ",".join(fault.args[1:]))])


def _redirect_loop(fault: Fault, request: Request) -> Answer:
    return plain(int(fault.word(0, "302")), "round and round", [("Location", _target(request))])


def _redirect_chain(fault: Fault, request: Request) -> Answer | None:
    hop = int(request.query.get("hop", "0"))
    if hop >= int(fault.word(0)):
        return None
    return plain(302, "further", [("Location", _target(request, hop=str(hop + 1)))])


def _redirect_infinite_body(fault: Fault, request: Request) -> Answer:
    location = ",".join(fault.args[1:]) or request.path
    zeros = Filler(b"\0" * 4096, None)
    return Answer(int(fault.word(0, "302")), [("Location", location)], [zeros], framing="close")


def _html(fault: Fault, request: Request) -> Answer:
    page = b"<!doctype html><title>Sign in</title><p>Please sign in to download this file.\n"
    return Answer(200, [("Content-Type", "text/html; charset=utf-8")], [Text(page)])


def _raw(fault: Fault, request: Request) -> Answer:
    answer = Answer(200)
    answer.before = [Text(fault.word(0).encode("utf-8", "surrogateescape")), End("finish")]
    return answer


_REPLACEMENTS: Final[Mapping[str, Callable[[Fault, Request], Answer | None]]] = {
    "status": _status,
    "redirect": _redirect,
    "redirect_loop": _redirect_loop,
    "redirect_chain": _redirect_chain,
    "redirect_infinite_body": _redirect_infinite_body,
    "html": _html,
    "raw": _raw,
}


def _target(request: Request, **changes: str) -> str:
    return (
        f"{request.path}?{urlencode({**request.query, **changes})}"
        if request.query or changes
        else request.path
    )


def _spoil_range(answer: Answer, plan: Plan) -> None:
    fault, place = plan.get("range"), _place(answer)
    if fault is not None and answer.status == 206 and place is not None:
        RANGE_FLAWS[fault.word(0)](answer, *place)


def _place(answer: Answer) -> tuple[int, int, str] | None:
    """Return the first byte, the last byte and the size that the answer declares."""
    value = dict(answer.headers).get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(value)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def _lie_digest(answer: Answer, fault: Fault) -> None:
    """Answer the digest of other bytes, in the right form."""
    value = dict(answer.headers).get("Repr-Digest")
    if value is not None:
        answer.put(
            "Repr-Digest",
            re.sub(r"=:(.)", lambda match: "=:B" if match[1] == "A" else "=:A", value),
        )


_FIELDS: Final[Mapping[str, Callable[[Answer, Fault], None]]] = {
    "digest_lie": _lie_digest,
    "header": lambda answer, fault: answer.put(fault.word(0), ",".join(fault.args[1:])),
    "drop_header": lambda answer, fault: answer.drop(fault.word(0)),
}


def _compress(answer: Answer, plan: Plan, content: Content | None) -> None:
    fault = plan.get("gzip")
    if fault is None:
        return
    answer.put("Content-Encoding", "gzip")
    if fault.word(0) == "bomb":
        answer.body = list(_bomb())
    elif fault.word(0) == "real" and content is not None:
        spans = [step for step in answer.body if isinstance(step, Span)]
        whole = b"".join(content.read(span.name, span.offset, span.length) for span in spans)
        answer.body = [Text(gzip.compress(whole, mtime=0))]


def _bomb() -> tuple[Step, ...]:
    """Return 10 GiB of zeros in 10 MiB of gzip (RFC 1952): one full-flushed block of deflate, many
    times."""
    zeros = bytes(_BOMB_BLOCK)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # Z_FULL_FLUSH ends a block at a byte and forgets the window: its bytes may follow themselves.
    block = deflate.compress(zeros) + deflate.flush(zlib.Z_FULL_FLUSH)
    one = zlib.crc32(zeros)
    crc = functools.reduce(
        lambda total, _: checksums.combine_crc32(total, one, _BOMB_BLOCK),
        range(_BOMB_BLOCKS - 1),
        one,
    )
    size = (_BOMB_BLOCK * _BOMB_BLOCKS) % 2**32
    # The head has no name and no time. The tail begins with an empty last block (RFC 1951).
    head = bytes((31, 139, 8, 0, 0, 0, 0, 0, 2, 255))
    tail = b"\x03\x00" + crc.to_bytes(4, "little") + size.to_bytes(4, "little")
    return Text(head), Filler(block, _BOMB_BLOCKS), Text(tail)


def _spoil_body(answer: Answer, plan: Plan) -> None:
    """Flip, cut, stall and slow down the body; places are counted before chunking."""
    whole = answer.length
    flip = plan.get("flip")
    if flip is not None:
        place = _place(answer)
        # The fault names a byte of the object, and the body may be a range of it.
        size = int(place[2]) if place else whole
        answer.body = _flip_byte(answer.body, flip.bytes(0, size) - (place[0] if place else 0))
    stall = plan.get("stall_after")
    if stall is not None:
        before, after = split(answer.body, stall.bytes(0, whole))
        answer.body = [*before, Pause(stall.seconds(1)), *after]
    fin = End("close" if plan.get("ragged_tls") else "finish")
    for name, end in (("close_after", fin), ("rst_after", End("reset"))):
        fault = plan.get(name)
        if fault is not None:
            # The head still promises the whole body.
            answer.promised = answer.promised if answer.promised is not None else whole
            answer.body = [*split(answer.body, fault.bytes(0, whole))[0], end]
    drip = plan.get("drip")
    if drip is not None:
        answer.body.insert(0, Pace(drip.rate(0)))


def _flip_byte(body: list[Step], offset: int) -> list[Step]:
    if offset < 0:
        return body
    before, rest = split(body, offset)
    byte, after = split(rest, 1)
    return [*before, *(_flip_step(step) for step in byte), *after]


def _flip_step(step: Step) -> Step:
    if isinstance(step, Span):
        return Span(step.name, step.offset, step.length, flipped=True)
    if isinstance(step, Text):
        return Text(bytes(byte ^ 1 for byte in step.block))
    if isinstance(step, Filler):
        return _flip_step(part(step, 0, step.length)) if step.times else step
    return step


def _spoil_framing(answer: Answer, plan: Plan) -> None:
    framing, lie, surplus = plan.get("framing"), plan.get("lie_cl"), plan.get("overrun")
    chunk, fields = plan.get("chunk"), plan.get("dup_headers")
    if framing is not None:
        word = framing.word(0)
        answer.framing = (
            "chunked" if word == "chunked" else "close" if word == "close" else "length"
        )
    if lie is not None:
        answer.promised = max(0, answer.length + lie.delta(0))
        if lie.delta(0) > 0:
            answer.after.append(End("finish"))
    if surplus is not None:
        answer.promised = answer.length
        answer.body = [*answer.body, Text(b"x" * surplus.bytes(0, answer.length))]
    if chunk is not None:
        # Framed here already; "length" keeps compose from doing it again.
        answer.frame_fields = [("Transfer-Encoding", "chunked")]
        answer.body, answer.framing = flawed_chunks(chunk.word(0), answer.body), "length"
    if fields is not None:
        word = fields.word(0)
        size = answer.length if answer.promised is None else answer.promised
        answer.frame_fields = FRAME_FLAWS[word](size)
        answer.framing = "chunked" if word in CHUNKED_FLAWS else "length"


def _spoil_start(answer: Answer, plan: Plan) -> None:
    bomb, interim, sliced = plan.get("header_bomb"), plan.get("1xx"), plan.get("slice")
    if bomb is not None:
        HEAD_FLAWS[bomb.word(0)](answer)
    if interim is not None:
        status = int(interim.word(1, "100"))
        link = b"Link: </style.css>; rel=preload\r\n" if status == 103 else b""
        head = b"HTTP/1.1 %d Interim\r\n%s\r\n" % (status, link)
        answer.before.append(Filler(head, int(interim.word(0))))
    if sliced is not None:
        seconds = sliced.seconds(1)
        answer.before.append(
            Slices(int(sliced.word(0)), _BREATH_SECONDS if seconds is None else seconds)
        )
    starts: dict[str, Callable[[Fault], Step]] = {
        "stall_before": lambda fault: Pause(fault.seconds(0)),
        "close_before": lambda fault: End("close"),
        "lose_answer": lambda fault: End("reset" if fault.word(0) == "rst" else "close"),
        "rst_before": lambda fault: End("reset"),
    }
    for name, step in starts.items():
        fault = plan.get(name)
        if fault is not None:
            answer.before.insert(0, step(fault))
