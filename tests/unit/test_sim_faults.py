"""Each fault has its documented effect on the wire, and none if it is not requested."""

from __future__ import annotations

import re
import socket
import time
import zlib
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from simulators import faults
from simulators.client import Reply, get, head, put, talk
from simulators.content import Content
from simulators.destination import Destination
from simulators.faults import BadFault, parse_spec
from simulators.malformed import CHUNK_FLAWS, FRAME_FLAWS, HEAD_FLAWS, RANGE_FLAWS
from simulators.source import Source

SIZE = 1000
CONTENT = Content("unit")


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source(seed="unit") as running:
        yield running


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination(keep_bytes=10_000_000) as running:
        yield running


def ask(
    source: Source, spec: str, path: str = "/o", *, patient: bool = False, **fields: str | int
) -> Reply:
    return get(source.port, f"{path}?size={SIZE}&fault={quote(spec)}", patient=patient, **fields)


def whole_content(path: str = "/o") -> bytes:
    return CONTENT.read(path, 0, SIZE)


@pytest.mark.parametrize(("where", "count"), [("60%", 600), ("-1", 999), ("0", 0), ("10", 10)])
def test_close_after(source: Source, where: str, count: int) -> None:
    reply = ask(source, f"close_after({where})")
    assert (reply.ending, reply.body) == ("fin", whole_content()[:count])
    assert reply.fields["content-length"] == str(SIZE)


def test_rst_after(source: Source) -> None:
    reply = ask(source, "rst_after(300)")
    assert reply.ending == "reset" and len(reply.body) <= 300


def test_before_any_answer(source: Source) -> None:
    assert ask(source, "close_before") == Reply(b"", "fin")
    assert ask(source, "rst_before") == Reply(b"", "reset")
    assert ask(source, "lose_answer") == Reply(b"", "fin")
    assert ask(source, "stall_before") == Reply(b"", "open")


def test_stalls(source: Source) -> None:
    assert (ask(source, "stall_after(0)").body, ask(source, "stall_after(10)").body) == (
        b"",
        whole_content()[:10],
    )
    started = time.monotonic()
    assert ask(source, "stall_after(10,100ms)").body == whole_content()
    assert time.monotonic() - started >= 0.1


def test_drip(source: Source) -> None:
    started = time.monotonic()
    assert ask(source, "drip(5000)", patient=True).body == whole_content()
    assert 0.15 <= time.monotonic() - started < 5
    assert len(ask(source, "drip(0.05)").body) == 1


def test_flip_is_at_one_place_of_the_object(source: Source) -> None:
    wrong = bytearray(whole_content())
    wrong[77] ^= 1
    assert ask(source, "flip(77)").body == bytes(wrong)
    assert ask(source, "flip(77)", Range="bytes=70-79").body == bytes(wrong[70:80])
    assert ask(source, "flip(77)", Range="bytes=0-9").body == whole_content()[:10]


def test_lengths_that_lie(source: Source) -> None:
    more = ask(source, "lie_cl(10)")
    assert (more.fields["content-length"], more.body, more.ending) == (
        "1010",
        whole_content(),
        "fin",
    )
    less = ask(source, "lie_cl(-100)")
    assert (less.fields["content-length"], less.body) == ("900", whole_content())
    over = ask(source, "overrun(5)")
    assert (over.fields["content-length"], over.body) == ("1000", whole_content() + b"xxxxx")
    response = talk(source.port, head("HEAD", f"/o?size={SIZE}&fault=head_size(%2B1)"))
    assert response.fields["content-length"] == "1001"
    assert ask(source, "head_size(+1)").body == whole_content()
    assert ask(source, "size(0)").fields["content-length"] == "0"


@pytest.mark.parametrize("word", sorted(CHUNK_FLAWS))
def test_every_chunk_flaw(source: Source, word: str) -> None:
    endless = word.startswith("endless")
    target = f"/o?size={SIZE}&fault=chunk(bad={word})"
    reply = talk(source.port, head("GET", target), limit_bytes=300_000 if endless else 10_000_000)
    assert reply.fields["transfer-encoding"] == "chunked" and "content-length" not in reply.fields
    legal = word in ("tiny", "ext", "leading_zeros", "trailers")
    assert reply.ending == ("open" if legal or endless else "fin")
    assert _join_chunks(reply.body) == (whole_content() if legal else None)


def _join_chunks(wire: bytes) -> bytes | None:
    """A strict reader of the chunked coding (RFC 9112 §7.1): None for malformed or cut bodies."""
    body = b""
    while True:
        line, end, wire = wire.partition(b"\r\n")
        size = line.partition(b";")[0]
        if (
            not end
            or not size
            or size.strip(b"0123456789abcdef")
            or len(line) > 100
            or len(size) > 16
        ):
            return None
        count = int(size, 16)
        if count == 0:
            return body if wire.endswith(b"\r\n") and len(wire) < 1000 else None
        if wire[count : count + 2] != b"\r\n":
            return None
        body, wire = body + wire[:count], wire[count + 2 :]


@pytest.mark.parametrize("word", sorted(FRAME_FLAWS))
def test_every_framing_flaw(source: Source, word: str) -> None:
    # Only the head matters; the fault is about whether a body follows that a client could delimit.
    reply = talk(
        source.port, head("GET", f"/o?size={SIZE}&fault=dup_headers({word})"), limit_bytes=SIZE
    )
    lines = [
        line
        for line in reply.head.split(b"\r\n")
        if line.startswith((b"Content-Length", b"Transfer-Enc"))
    ]
    assert lines and lines != [b"Content-Length: 1000"]
    expected = {
        "cl2": [b"Content-Length: 1000", b"Content-Length: 1001"],
        "cl_te": [b"Content-Length: 1000", b"Transfer-Encoding: chunked"],
        "cl_underscore": [b"Content-Length: 1_000"],
        "cl_plus": [b"Content-Length: +1000"],
        "cl_negative": [b"Content-Length: -1000"],
        "cl_list": [b"Content-Length: 1000, 1000"],
        "cl_unicode": ["Content-Length: \u0661\u0660\u0660\u0660".encode()],
    }
    assert lines == expected.get(word, lines)


@pytest.mark.parametrize("word", sorted(set(HEAD_FLAWS)))
def test_every_head_flaw(source: Source, word: str) -> None:
    target = f"/o?size={SIZE}&fault=header_bomb({word})"
    reply = talk(source.port, head("GET", target), limit_bytes=200_000)
    holds = {
        "count": reply.head.count(b"\r\nX-Bomb-") == 200,
        "line": max(len(line) for line in reply.head.split(b"\r\n")) > 65536,
        "nul": b"a\0b" in reply.head,
        "fold": b"a\r\n b" in reply.head,
        "no_colon": b"\r\nno colon here\r\n" in reply.head,
        "space_colon": b"X-Bomb : 1" in reply.head,
        "endless": len(reply.wire) >= 200_000 and b"\r\n\r\n" not in reply.wire,
    }
    assert holds[word]


@pytest.mark.parametrize("word", sorted(RANGE_FLAWS))
def test_every_range_flaw(source: Source, word: str) -> None:
    reply = ask(source, f"range({word})", Range="bytes=100-199")
    where = reply.fields.get("content-range")
    assert {
        "ignore": (reply.status, where) == (200, None) and reply.body == whole_content(),
        "shift": where == "bytes 101-200/1000" and reply.body == whole_content()[101:201],
        "short": where == "bytes 100-149/1000" and reply.body == whole_content()[100:150],
        "total": where == "bytes 100-199/1001",
        "star": where == "bytes 100-199/*",
        "unit": where == "items 100-199/1000",
        "backwards": where == "bytes 199-100/1000",
        "no_content_range": (reply.status, where) == (206, None),
        "multipart": b"--part\r\n" in reply.body and where is None,
    }[word]


def test_framing_close_and_cut_is_undetectable_but_for_the_size(source: Source) -> None:
    reply = ask(source, "framing(close);close_after(60%)")
    assert (reply.body, reply.ending) == (whole_content()[:600], "fin")
    assert not {"content-length", "transfer-encoding"} & set(reply.fields)
    assert _join_chunks(ask(source, "framing(chunked)").body) == whole_content()


def test_etag_seq_changes_version_and_bytes_but_not_size(source: Source) -> None:
    replies = [ask(source, "etag_seq(2)", "/versions") for _ in range(4)]
    etags, bodies = [reply.fields["etag"] for reply in replies], [reply.body for reply in replies]
    assert etags[0] == etags[1] != etags[2] == etags[3]
    assert bodies[0] == bodies[1] == whole_content("/versions") != bodies[2] == bodies[3]
    assert len(bodies[2]) == SIZE
    pinned = ask(source, "etag_seq(2)", "/versions", If_Match=etags[0])
    assert pinned.status == 412
    assert len([ask(source, "etag_seq(1,5)", "/grows") for _ in range(2)][1].body) == SIZE + 5


def test_etags(source: Source) -> None:
    assert ask(source, "weak_etag").fields["etag"].startswith('W/"')
    assert "etag" not in ask(source, "no_etag").fields


def test_statuses_and_redirects(source: Source) -> None:
    busy = ask(source, "status(503,retry_after=5)")
    assert (busy.status, busy.fields["retry-after"]) == (503, "5")
    date = ask(source, "status(429,retry_after=Fri%2C 31 Dec 2027 23:59:59 GMT)")
    assert date.fields["retry-after"] == "Fri, 31 Dec 2027 23:59:59 GMT"
    away = ask(source, "redirect(302,http://host/a,b?c=d)")
    assert (away.status, away.fields["location"]) == (302, "http://host/a,b?c=d")
    loop = ask(source, "redirect_loop(307)")
    assert loop.status == 307 and get(source.port, loop.fields["location"]).status == 307
    zeros = talk(
        source.port, head("GET", "/o?fault=redirect_infinite_body(302)"), limit_bytes=5_000_000
    )
    assert zeros.status == 302 and zeros.ending == "open" and not zeros.body.strip(b"\0")


def test_a_redirect_chain_ends(source: Source) -> None:
    reply, hops = ask(source, "redirect_chain(6)"), 0
    while reply.status == 302:
        reply, hops = get(source.port, reply.fields["location"]), hops + 1
    assert hops == 6 and reply.body == whole_content()


def test_interim_answers(source: Source) -> None:
    assert ask(source, "1xx(20)", patient=True).wire.count(b"HTTP/1.1 100 Interim\r\n\r\n") == 20
    early = ask(source, "1xx(1,103)", patient=True)
    assert early.wire.startswith(b"HTTP/1.1 103 ") and early.wire.endswith(whole_content())
    endless = talk(source.port, head("GET", "/o?size=1&fault=1xx(1000000)"), limit_bytes=1_000_000)
    assert endless.wire.count(b"HTTP/1.1 100") > 30_000


def test_gzip(source: Source) -> None:
    raw = ask(source, "gzip")
    assert raw.fields["content-encoding"] == "gzip" and raw.body == whole_content()
    real = ask(source, "gzip(real)")
    assert zlib.decompress(real.body, 31) == whole_content() and int(
        real.fields["content-length"]
    ) == len(real.body)
    bomb = ask(source, "gzip(bomb)")
    assert int(bomb.fields["content-length"]) == len(bomb.body) < 20_000_000
    assert len(zlib.decompressobj(31).decompress(bomb.body, 100_000_000)) == 100_000_000


def test_other_answers(source: Source) -> None:
    assert b"Please sign in" in ask(source, "html").body
    assert ask(source, "raw(SSH-2.0-x%0D%0A)") == Reply(b"SSH-2.0-x\r\n", "fin")
    assert ask(source, "header(Content-Disposition,attachment; filename=../x)").fields[
        "content-disposition"
    ] == ("attachment; filename=../x")
    assert "last-modified" not in ask(source, "drop_header(Last-Modified)").fields
    true = ask(source, "no_accept", Want_Repr_Digest="crc32c=1").fields["repr-digest"]
    lie = ask(source, "digest_lie", Want_Repr_Digest="crc32c=1").fields["repr-digest"]
    assert lie != true and len(lie) == len(true)
    assert "repr-digest" not in ask(source, "no_digest", Want_Repr_Digest="crc32c=1").fields


def test_slice_sends_the_head_in_small_segments(source: Source) -> None:
    with socket.create_connection(("127.0.0.1", source.port), 5) as sock:
        sock.sendall(head("GET", "/o?size=1&fault=slice(1,5ms)"))
        assert len(sock.recv(65536)) < 20


def test_idle_close_is_after_a_whole_answer(source: Source) -> None:
    reply = ask(source, "idle_close(50ms)", patient=True)
    assert (reply.body, reply.ending) == (
        whole_content(),
        "fin",
    ) and "connection" not in reply.fields


def test_conditions_choose_the_requests(source: Source) -> None:
    def statuses(spec: str, path: str, **fields: str) -> list[int]:
        return [ask(source, spec, path, **fields).status for _ in range(4)]

    assert statuses("first(2,status(500))", "/first") == [500, 500, 200, 200]
    assert statuses("status(500,times=1)", "/times") == [500, 200, 200, 200]
    assert statuses("after(3,status(403))", "/after") == [200, 200, 200, 403]
    assert statuses("nth(2,status(500))", "/nth") == [200, 500, 200, 200]
    assert statuses("on(PUT,status(500))", "/on") == [200] * 4
    assert statuses("on(GET,first(1,status(500)))", "/both") == [500, 200, 200, 200]
    assert statuses("at(10,status(500))", "/at") == [200] * 4
    assert statuses("at(10,status(500))", "/at", Range="bytes=10-") == [500] * 4


def test_header_and_command_line_faults() -> None:
    with Source(seed="unit", faults=["/bad=status(500)", "header(X-All,yes)"]) as source:
        assert get(source.port, "/bad/a?size=1").status == 500
        good = get(source.port, "/good?size=1", X_Fault="weak_etag")
        assert good.fields["x-all"] == "yes" and good.fields["etag"].startswith("W/")
        assert source.journal.snapshot()[-1]["faults"] == ["header(X-All,yes)", "weak_etag"]


REFUSED = (
    *(
        "nothing",
        "close_after",
        "close_after(x)",
        "close_after(1",
        "chunk(odd)",
        "early(413)",
        "first(2)",
    ),
    *("first(x,gzip)", "status(ok)", "drip(0)", "gzip(a,b)", "stall_after(1,soon)", "dup_headers"),
)


@pytest.mark.parametrize("spec", REFUSED)
def test_specs_that_are_refused(source: Source, spec: str) -> None:
    with pytest.raises(BadFault):
        parse_spec(spec)
    assert ask(source, spec).status == 400


def test_every_spec_of_the_catalogue_table_is_in_the_vocabulary() -> None:
    table = (faults.__doc__ or "").partition("    F01 ")[2].partition("\n\n")[0]
    specs = re.findall(r"(?<![\w-])[a-z0-9_]+\([^ \n]*\)", table)
    assert len(specs) > 30
    for spec in specs:
        if "..." not in spec and "|" not in spec:
            assert parse_spec(
                re.sub(r"\bn\b", "5", spec.replace("N", "5").replace("URL", "http://h/"))
            ), spec


ENDINGS = [("close", "reset"), ("rst", "reset"), ("keep", "open"), ("drain", "fin")]


@pytest.mark.parametrize(("follows", "ending"), ENDINGS)
def test_early_answers(destination: Destination, follows: str, ending: str) -> None:
    with socket.create_connection(("127.0.0.1", destination.port), 5) as sock:
        spec = f"early(413,1K,{follows})"
        sock.sendall(head("PUT", "/a", Content_Length=10_000_000, X_Fault=spec) + bytes(1024))
        if follows in ("keep", "drain"):
            assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")
        else:
            assert (_read_rest(sock)[:13], follows) in ((b"HTTP/1.1 413 ", follows), (b"", "rst"))
    reply = put(destination.port, "/a", bytes(2_000_000), X_Fault=spec)
    assert reply.ending == ending
    assert [entry["complete"] for entry in destination.received.snapshot()] == [False, False]
    assert talk(destination.port, head("HEAD", "/a")).status == 404


def _read_rest(sock: socket.socket) -> bytes:
    got = b""
    try:
        while block := sock.recv(65536):
            got += block
    except ConnectionResetError:
        pass
    return got


@pytest.mark.parametrize(
    ("spec", "ending"), [("close_after(1K)", ("fin", "reset")), ("rst_after(50%)", ("reset",))]
)
def test_uploads_that_break(destination: Destination, spec: str, ending: tuple[str, ...]) -> None:
    reply = put(destination.port, "/a", bytes(4096), X_Fault=spec)
    assert reply.wire == b"" and reply.ending in ending
    entry = destination.received.snapshot()[-1]
    assert entry["complete"] is False and entry["size"] in (1024, 2048)
    assert talk(destination.port, head("HEAD", "/a")).status == 404


def test_lost_answers_store_all_the_same(destination: Destination) -> None:
    assert put(destination.port, "/a", b"abc", X_Fault="lose_answer") == Reply(b"", "fin")
    assert put(destination.port, "/b", b"abc", X_Fault="lose_answer(rst)") == Reply(b"", "reset")
    assert get(destination.port, "/a").body == get(destination.port, "/b").body == b"abc"


def test_stores_that_lie(destination: Destination) -> None:
    for spec, stored in (
        ("truncate_store(4)", b"abcd"),
        ("store_flip(2)", b"abbdefgh"),
        ("zero_tail(3)", b"abcde\0\0\0"),
        ("store_append(2)", b"abcdefgh\0\0"),
    ):
        assert put(destination.port, "/a", b"abcdefgh", X_Fault=spec).status in (201, 204)
        assert get(destination.port, "/a").body == stored, spec


def test_vanish(destination: Destination) -> None:
    assert put(destination.port, "/a", b"abc", X_Fault="vanish").status == 201
    assert talk(destination.port, head("HEAD", "/a")).status == 404


def test_statuses_store_nothing(destination: Destination) -> None:
    away = put(destination.port, "/a", b"abc", X_Fault="redirect(307,http://else/where)")
    assert (away.status, away.fields["location"]) == (307, "http://else/where")
    assert put(destination.port, "/a", b"abc", X_Fault="status(503,retry_after=1)").status == 503
    assert talk(destination.port, head("HEAD", "/a")).status == 404


def test_expectations(destination: Destination) -> None:
    refused = talk(
        destination.port, head("PUT", "/a", Content_Length=3, Expect="100-continue", X_Fault="417")
    )
    assert refused.status == 417
    silent = talk(
        destination.port,
        head("PUT", "/a", Content_Length=3, Expect="100-continue", X_Fault="no_100"),
    )
    assert silent == Reply(b"", "open")
    sent = put(destination.port, "/a", b"abc", Expect="100-continue", X_Fault="no_100")
    assert sent.status == 201


def test_no_read_fills_the_window(destination: Destination) -> None:
    with socket.create_connection(("127.0.0.1", destination.port), 5) as sock:
        sock.sendall(head("PUT", "/a", Content_Length=10**9, X_Fault="no_read"))
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                sock.sendall(bytes(1_000_000))


def test_slow_and_stalled_reading(destination: Destination) -> None:
    started = time.monotonic()
    assert put(destination.port, "/a", bytes(1000), X_Fault="drip(10000)").status == 201
    assert time.monotonic() - started >= 0.08
    assert put(destination.port, "/a", bytes(1000), X_Fault="stall_after(500)") == Reply(
        b"", "open"
    )


def test_a_port_that_never_accepts() -> None:
    with Source(seed="unit", faults=["no_accept"]) as source:
        assert get(source.port, "/a?size=1") == Reply(b"", "open")
