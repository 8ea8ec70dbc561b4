"""Scripted faults: the words, their grammar, and which of them a request meets.

    SPEC    = ITEM *( ";" ITEM )
    ITEM    = NAME [ "(" [ ARG *( "," ARG ) ] ")" ]      arguments may be %-encoded
            | first(N,SPEC) | after(N,SPEC) | nth(N,SPEC)    the first N, all but the first N, only the Nth
            | on(METHOD,SPEC) | at(OFFSET,SPEC)              only that method; only a Range from that offset
    `times=N` among the arguments of any ITEM is first(N,ITEM). Requests are counted by method and path.

Bytes (n) are written `1000`, `64K`, `60%` of the body, or `-1`, which is one before the end. A spec
comes from `--fault SPEC`, `--fault /prefix=SPEC`, the field `X-Fault` or the query parameter
`fault`; all that match apply.

Specs for the rows of the catalogue:

    F01 close_after(60%) close_after(-1)      F02 rst_after(60%)
    F03 framing(close);close_after(60%)       F04 framing(close);ragged_tls
    F05 chunk(no_last)                        F06 chunk(no_final_crlf) chunk(cut_trailers)
    F07 chunk(negative) ... every CHUNK word  F08 lie_cl(-1000) overrun(10)
    F09 dup_headers(...)                      F10 head_size(+1) size(N)
    F11 range(...)                            F12 after(1,status(416))
    F13 etag_seq(2) etag_seq(2,1)             F14 weak_etag;close_after(1K) no_etag
    F15 after(1,flip(0))                      F16 gzip gzip(bomb)
    F17 gzip(real);framing(chunked)           F19 redirect_infinite_body(302)
    F18 redirect(302,URL) redirect_loop(302) redirect_chain(6)
    F20 1xx(1000000) 1xx(1,103)               F21 header_bomb(count|line|nul|fold)
    F22 drip(0.05)                            F23 stall_before stall_after(0)
    F24 status(429,retry_after=5)             F25 after(1,status(403))
    F26 first(1,status(401))                  F27 html
    F28 on(GET,size(0))                       F29 (no fault: ?size=0)
    F31 early(413,64K) early(413,64K,rst)     F32 early(201,1,close|rst|keep)
    F33 no_read                               F34 rst_after(50%) close_after(50%)
    F35 truncate_store(n)                     F36 store_flip(n) zero_tail(n)
    F37 vanish                                F38 lose_answer
    F40 nth(3,status(503))                    F41 digest_lie no_digest
    F46 redirect(307,URL)                     F47 417 no_100
    F48 early(507,1M)                         F52 store_append(1)
    F56 idle_close(1)                         F90 --fault no_accept
    F57 --tls-cert ... --tls-version 1.0 --fault tls_stall

At a destination `close_after`, `rst_after`, `stall_after` and `drip` count the bytes of an upload's
body."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from simulators.malformed import CHUNK_FLAWS, FRAME_FLAWS, HEAD_FLAWS, RANGE_FLAWS
from simulators.message import Request
from simulators.quantities import parse_bytes, parse_rate, parse_seconds

# The kinds of arguments: n bytes, t seconds, r bytes a second, c a count, s a status, u any text,
# or the words allowed. A trailing ? may be left out.
_Kinds = tuple[str | Collection[str], ...]
VOCABULARY: Final[Mapping[str, tuple[_Kinds, str]]] = {
    "close_after": (("n",), "FIN after n bytes of body"),
    "rst_after": (("n",), "RST after n bytes of body"),
    "stall_after": (
        ("n", "t?"),
        "silence after n bytes of body (0: after the head), for t or forever",
    ),
    "close_before": ((), "FIN before any byte of the answer"),
    "rst_before": ((), "RST before any byte of the answer"),
    "stall_before": (("t?",), "silence before any byte of the answer"),
    "drip": (("r",), "r bytes a second, may be below one; a destination reads so slowly"),
    "slice": (("c", "t?"), "send the head of the answer c bytes at a time"),
    "lie_cl": (("n",), "Content-Length differs by n; with more promised than sent, FIN follows"),
    "overrun": (("n",), "n bytes more than promised"),
    "flip": (("n",), "one bit of byte n of the object is wrong"),
    "framing": ((("length", "chunked", "close"),), "how the body is framed"),
    "chunk": ((CHUNK_FLAWS,), "a flaw in the chunked coding"),
    "dup_headers": ((FRAME_FLAWS,), "contradictory or malformed framing fields"),
    "header_bomb": ((HEAD_FLAWS,), "a head that no one should read"),
    "header": (("u", "u"), "set a field of the answer"),
    "drop_header": (("u",), "leave a field of the answer out"),
    "1xx": (("c", "s?"), "c interim answers first, 100 by default"),
    "ragged_tls": ((), "end the connection after the body, in TLS without close_notify"),
    "idle_close": (("t",), "close the connection after t of idling, unannounced"),
    "status": (("s",), "this status instead; retry_after=, location=, www= add fields"),
    "redirect": (("s", "u"), "redirect to a URL"),
    "redirect_loop": (("s?",), "redirect to itself"),
    "redirect_chain": (("c",), "c redirects, then the answer"),
    "redirect_infinite_body": (("s?", "u?"), "a redirect whose body never ends"),
    "html": ((), "200 and a login page"),
    "raw": (("u",), "these bytes and a FIN instead of an answer"),
    "gzip": (
        (("raw", "real", "bomb"), "?"),
        "Content-Encoding: gzip; on raw bytes, on gzip, on a 10 GB bomb",
    ),
    "digest_lie": ((), "a Repr-Digest that is wrong"),
    "no_digest": ((), "no Repr-Digest"),
    "weak_etag": ((), "the ETag is weak"),
    "no_etag": ((), "no ETag"),
    "etag_seq": (
        ("c?", "n?"),
        "another version (ETag, bytes) every c GETs; n more bytes each time",
    ),
    "size": (("n",), "the object has n bytes"),
    "head_size": (("n",), "HEAD says n more than GET"),
    "range": ((RANGE_FLAWS,), "a wrong answer to a Range"),
    "early": (
        ("s", "n", ("close", "rst", "keep", "drain"), "?"),
        "answer after n bytes of upload, then close|rst|keep|drain",
    ),
    "lose_answer": ((("close", "rst"), "?"), "do it, and end the connection instead of answering"),
    "no_read": ((), "never read the upload"),
    "no_100": ((), "never send 100 Continue"),
    "417": ((), "refuse an Expect"),
    "truncate_store": (("n",), "store n bytes, acknowledge all"),
    "store_flip": (("n",), "store one wrong bit, acknowledge it"),
    "zero_tail": (("n",), "store n last bytes as zeros, acknowledge them"),
    "store_append": (("n",), "store n bytes more"),
    "vanish": (("t?",), "201, but invisible for t or forever"),
    "tls_stall": (("t?",), "silence before the TLS handshake; by --fault only"),
    "no_accept": ((), "listen, never accept; by --fault only"),
}
_CONDITIONS: Final = ("first", "after", "nth", "on", "at")
_OPTIONS: Final = ("times", "retry_after", "location", "www")


class BadFault(ValueError):
    """A spec that is not in the vocabulary."""


@dataclass(frozen=True)
class Fault:
    """One word with its arguments; `options` are the `key=value` ones."""

    name: str
    args: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Write it as a spec."""
        args = [*self.args, *(f"{key}={value}" for key, value in self.options)]
        return f"{self.name}({','.join(args)})" if args else self.name

    def word(self, index: int, default: str = "") -> str:
        """Return an argument as text."""
        return self.args[index] if index < len(self.args) else default

    def option(self, key: str) -> str | None:
        """Return a `key=value` argument."""
        return dict(self.options).get(key)

    def bytes(self, index: int, whole: int, default: str = "0") -> int:
        """Return an argument as a place in `whole` bytes: a percentage, or from the end when
        negative."""
        text = self.word(index, default)
        if text.endswith("%"):
            return int(whole * float(text[:-1]) / 100)
        count = parse_bytes(text)
        return max(0, whole + count) if count < 0 else count

    def delta(self, index: int, default: str = "0") -> int:
        """Return an argument as a signed difference of bytes."""
        return parse_bytes(self.word(index, default))

    def rate(self, index: int) -> float:
        """Return an argument as bytes a second."""
        return parse_rate(self.args[index])

    def seconds(self, index: int) -> float | None:
        """Return an argument as a duration, None when it is absent (forever)."""
        return parse_seconds(self.args[index]) if index < len(self.args) else None


@dataclass(frozen=True)
class Condition:
    """A wrapper: which requests meet the items inside. `text` names its counter."""

    kind: str
    operand: str
    items: tuple[Item, ...]
    text: str


Item = Fault | Condition


@dataclass(frozen=True)
class Plan:
    """The faults of one request."""

    faults: tuple[Fault, ...] = ()

    def get(self, name: str) -> Fault | None:
        """Return the first fault of that name."""
        return next((fault for fault in self.faults if fault.name == name), None)


class Faults:
    """The faults of one server: those of its command line, and the counters of all. Raises
    BadFault."""

    def __init__(self, specs: Iterable[str] = ()) -> None:
        self._rules = [_rule(spec) for spec in specs]
        self._counts: dict[tuple[str, str, str], int] = {}
        self._lock = threading.Lock()

    def of_the_port(self, name: str) -> Fault | None:
        """Return a fault of the command line, which applies before any request."""
        items = (item for _, parsed in self._rules for item in parsed)
        return next((item for item in items if isinstance(item, Fault) and item.name == name), None)

    def plan(self, request: Request) -> Plan:
        """Return the faults of this request, and count it. Raises BadFault for a spec in the
        request."""
        items = [
            item
            for prefix, parsed in self._rules
            if request.path.startswith(prefix)
            for item in parsed
        ]
        # A presigned URL has its fault in X-Amz-Fault: relay takes that for a part of the
        # signature, so that a fresh URL may have another one (relay/identity.py).
        for spec in (
            request.get("x-fault"),
            request.query.get("fault"),
            request.query.get("X-Amz-Fault"),
        ):
            if spec:
                items += parse_spec(spec)
        return Plan(tuple(self._active_faults(items, request))) if items else Plan()

    def _active_faults(self, items: Iterable[Item], request: Request) -> Iterator[Fault]:
        for item in items:
            if isinstance(item, Fault):
                yield item
            elif self._is_met(item, request):
                yield from self._active_faults(item.items, request)

    def _is_met(self, condition: Condition, request: Request) -> bool:
        if condition.kind == "on":
            return request.method == condition.operand.upper()
        if condition.kind == "at":
            return (request.get("range") or "").startswith(
                f"bytes={parse_bytes(condition.operand)}-"
            )
        key = (condition.text, request.method, request.path)
        with self._lock:
            count = self._counts[key] = self._counts.get(key, 0) + 1
        limit = int(condition.operand)
        return {"first": count <= limit, "after": count > limit, "nth": count == limit}[
            condition.kind
        ]


def parse_spec(text: str) -> tuple[Item, ...]:
    """Parse a SPEC of the grammar above. Raises BadFault."""
    return tuple(_item(part.strip()) for part in _split(text, ";") if part.strip())


def describe() -> str:
    """Return the vocabulary as lines of help: each word, its arguments, its effect."""
    lines = [
        "faults, several joined by ';', by --fault, the field X-Fault or the query parameter fault:"
    ]
    for name, (kinds, meaning) in VOCABULARY.items():
        args = [
            "|".join(kind) if not isinstance(kind, str) else kind for kind in kinds if kind != "?"
        ]
        lines.append(f"  {name}({','.join(args)})" if args else f"  {name}")
        lines.append(f"      {meaning}")
    lines.append("  first(N,SPEC) after(N,SPEC) nth(N,SPEC) on(METHOD,SPEC) at(OFFSET,SPEC)")
    lines.append("      only for some requests; times=N among any arguments is first(N,...)")
    return "\n".join(lines)


def _rule(text: str) -> tuple[str, tuple[Item, ...]]:
    """Parse `SPEC` or `/prefix=SPEC`."""
    if not text.startswith("/"):
        return "/", parse_spec(text)
    prefix, _, spec = text.partition("=")
    return prefix, parse_spec(spec)


def _item(text: str) -> Item:
    name, _, rest = text.partition("(")
    if rest and not rest.endswith(")"):
        raise BadFault(f"a parenthesis is missing in {text!r}")
    args = [arg.strip() for arg in _split(rest[:-1], ",")] if rest[:-1] else []
    if name in _CONDITIONS:
        return _condition(name, args, text)
    words = tuple(unquote(arg) for arg in args if not _is_option(arg))
    # `chunk(bad=negative)` is the catalogue's form of `chunk(negative)`.
    words = tuple(word.removeprefix("bad=") for word in words)
    pairs = tuple(
        (arg.partition("=")[0], unquote(arg.partition("=")[2])) for arg in args if _is_option(arg)
    )
    fault = Fault(name, words, tuple(pair for pair in pairs if pair[0] != "times"))
    _check(fault)
    times = dict(pairs).get("times")
    return fault if times is None else _condition("first", [times, str(fault)], text, (fault,))


def _is_option(arg: str) -> bool:
    return arg.partition("=")[0] in _OPTIONS and "=" in arg


def _condition(
    kind: str, args: list[str], text: str, items: tuple[Item, ...] | None = None
) -> Condition:
    if len(args) < 2:
        raise BadFault(f"{kind} needs an operand and a fault")
    operand = args[0]
    try:
        if kind == "at":
            parse_bytes(operand)
        elif kind != "on":
            int(operand)
    except ValueError as error:
        raise BadFault(f"{kind}: not a number: {operand!r}") from error
    return Condition(kind, operand, items or parse_spec(",".join(args[1:])), text)


def _check(fault: Fault) -> None:
    if fault.name not in VOCABULARY:
        raise BadFault(f"no fault is called {fault.name!r}; see simulators/faults.py")
    kinds = list(VOCABULARY[fault.name][0])
    optional = kinds[-1:] == ["?"]  # the last kind is a list of words and may be left out
    if optional:
        kinds.pop()
    optionals = sum(isinstance(kind, str) and kind.endswith("?") for kind in kinds) + optional
    needed = len(kinds) - optionals
    endless = kinds[-1:] in (["u"], ["u?"])  # a URL or a value may hold commas
    if not needed <= len(fault.args) <= (len(fault.args) if endless else len(kinds)):
        raise BadFault(
            f"{fault.name} takes {needed} to {len(kinds)} arguments, not {len(fault.args)}"
        )
    for kind, arg in zip(kinds, fault.args, strict=False):
        _check_argument(fault.name, kind, arg)


def _check_argument(name: str, kind: str | Collection[str], arg: str) -> None:
    if not isinstance(kind, str):
        if arg not in kind:
            raise BadFault(f"{name}: {arg!r} is not one of {', '.join(kind)}")
        return
    try:
        _READ[kind[0]](arg)
    except ValueError as error:
        raise BadFault(f"{name}: {error}") from error


def _place(text: str) -> float:
    return float(text[:-1]) if text.endswith("%") else parse_bytes(text)


_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "n": _place,
    "t": parse_seconds,
    "r": parse_rate,
    "c": int,
    "s": int,
    "u": str,
}


def _split(text: str, separator: str) -> list[str]:
    """Split outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
