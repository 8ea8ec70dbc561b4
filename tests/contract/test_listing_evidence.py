"""A listing is evidence: whole by its document and its framing, or an error; the failure of one
page is retried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from urllib.parse import parse_qs, quote, urlsplit

import gevent
import pytest

from relay.errors import (
    ConnectionLost,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    RedirectRefused,
    Rejected,
    RelayError,
    StoreError,
    Throttled,
    Unauthenticated,
    Unavailable,
    UnsafeKey,
    Unsupported,
)
from relay.location import Location, parse_location
from relay.stores import http_reads
from relay.stores.interfaces import Entry, ObjectInfo, UnknownObject, Upload
from relay.stores.s3 import listing
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.s3.store import S3Store
from relay.stores.table import STORES
from relay.stores.url_lists import list_location
from relay.stores.webdav.account import webdav_location
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.scripted import Peer, Script, Talk, length_of

Answers = Callable[[str, str], bytes]
"""Gives the whole answer to a method and a target; one that ends in CUT closes the connection."""
CUT = b"<<the connection ends>>"


def answers_script(answers: Answers) -> Script:
    def script(talk: Talk) -> None:
        while head := talk.head():
            method, target, _ = head.decode("latin-1").split(" ", 2)
            talk.body(length_of(head))
            data = answers(method, target)
            talk.send(data.removesuffix(CUT))
            if data.endswith(CUT):
                return talk.sock.close()

    return script


def reply(status: int, body: str | bytes, *fields: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    more = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data


def closing_answer(body: str | bytes) -> bytes:
    """Return an answer that ends with its connection."""
    data = body if isinstance(body, bytes) else body.encode()
    return b"HTTP/1.0 200 OK\r\n\r\n" + data + CUT


def index(path: str, *hrefs: str) -> str:
    links = "".join(f"<a href='{href}'>x</a>\n" for href in hrefs)
    return f"<html><title>Index of {path}</title><a href='../'>up</a>{links}</html>"


def dav(*rows: tuple[str, str]) -> str:
    text = "".join(f"<d:response><d:href>{href}</d:href>{more}</d:response>" for href, more in rows)
    return f'<d:multistatus xmlns:d="DAV:">{text}</d:multistatus>'


FOLDER = (
    "<d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop></d:propstat>"
)
FILE = "<d:propstat><d:prop><d:resourcetype/><d:getcontentlength>5</d:getcontentlength></d:prop></d:propstat>"


def bucket(*keys: str, more: str = "") -> str:
    rows = "".join(f"<Contents><Key>{quote(key)}</Key><Size>5</Size></Contents>" for key in keys)
    return f"<ListBucketResult><Name>b</Name><EncodingType>url</EncodingType>{more}{rows}</ListBucketResult>"


def place_of(kind: str, peer: Peer, path: str = "f/") -> Location:
    if kind == "s3":
        config = S3Config(
            Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"), peer.url("")
        )
        return s3_location(config, "bucket", path)
    if kind == "webdav":
        return webdav_location(peer.url(f"/{path}"))
    place = parse_location(peer.url(f"/{path}"))
    return list_location(place) if kind == "list" else place


def list_place(
    wire: Wire, place: Location, seconds: float = 0.0, recursive: bool = True, **more: str
) -> list[Entry]:
    wire = Wire(wire.pool, replace(wire.limits, listing_seconds=seconds))
    store = STORES[place.store](wire, "source", Watchdog(wire.limits))
    return list(store.list(place, recursive, **more))


GOOD = {
    "s3": bucket("f/a", "f/b"),
    "webdav": dav(("/f/", FOLDER), ("/f/a", FILE), ("/f/b", FILE)),
    "http": index("/f/", "a", "b"),
    "list": "http://a.example/a\nhttp://a.example/b\n",
}
STATUS = {"webdav": 207}
NAMES = {kind: ["a.example/a", "a.example/b"] if kind == "list" else ["a", "b"] for kind in GOOD}
KINDS = tuple(GOOD)


def good_answer(kind: str) -> bytes:
    return reply(STATUS.get(kind, 200), GOOD[kind])


# -- answers that are not listings


OTHERS = {
    "an error": "<Error><Code>InternalError</Code><Message>sorry</Message></Error>",
    "a login page": "<html xmlns='http://www.w3.org/1999/xhtml'><title>Log in</title><body/></html>",
    "a page": "<!DOCTYPE html><html><title>Log in</title><a href='x'>y</a><br></html>",
    "another listing": "<ListPartsResult/>",
    "a DAV error": '<d:error xmlns:d="DAV:"/>',
    "nothing": "",
    "an empty multistatus": '<d:multistatus xmlns:d="DAV:"/>',
    "another name space": "<multistatus><response><href>/f/a</href></response></multistatus>",
    "JSON": '{"error": "sorry"}',
}


@pytest.mark.parametrize("kind", ["s3", "webdav", "http"])
@pytest.mark.parametrize("what", OTHERS)
def test_another_document_is_an_error_not_an_empty_folder(wire: Wire, kind: str, what: str) -> None:
    answer = reply(STATUS.get(kind, 200), OTHERS[what])
    with Peer(answers_script(lambda *_: answer)) as peer, pytest.raises(RelayError):
        list_place(wire, place_of(kind, peer))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_listing_is_an_error_in_every_framing(
    wire: Wire, kind: str, part: float
) -> None:
    status, body = STATUS.get(kind, 200), GOOD[kind].encode()
    piece = body[: int(len(body) * part)]
    cuts = [f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + piece + CUT]
    cuts.append(
        f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n{len(piece):x}\r\n".encode()
        + piece
        + CUT
    )
    cuts.append(f"HTTP/1.0 {status} X\r\n\r\n".encode() + piece + CUT)
    if kind != "list":  # a proxy frames the bytes of a dead server again
        cuts.append(reply(status, piece))
    for cut in cuts:
        with Peer(answers_script(lambda *_, cut=cut: cut)) as peer, pytest.raises(RelayError):
            list_place(wire, place_of(kind, peer))


LINKS = "<a href='a'>a</a>  2024-01-01 10:00  12\n<a href='b'>b</a>"


@pytest.mark.parametrize(
    "end", ["", "<a href='c", "<!-- </html>", "<script>'</html>", "</bo", "</html"]
)
@pytest.mark.parametrize("begin", ["<html>", "<!DOCTYPE HTML>\n<HTML lang=en>"])
def test_a_page_without_its_end_is_cut_however_it_is_framed(
    wire: Wire, begin: str, end: str
) -> None:
    page = f"{begin}<title>Index of /f/</title>{LINKS}"
    with (
        Peer(answers_script(lambda *_: reply(200, page + end))) as peer,
        pytest.raises(ConnectionLost),
    ):
        list_place(wire, place_of("http", peer))
    with Peer(answers_script(lambda *_: reply(200, f"{page}</html>\n"))) as peer:
        assert [entry.name for entry in list_place(wire, place_of("http", peer))] == ["a", "b"]


@pytest.mark.parametrize("end", ["", "</html>"])
def test_the_end_of_an_included_page_is_not_the_end(wire: Wire, end: str) -> None:
    """Apache's HEADER.html may be a whole document, before the list."""
    header = "<html><title>Our mirror</title><h1>Welcome</h1></html>"
    page = f"<html><title>Index of /f/</title>{header}{LINKS}{end}"
    with Peer(answers_script(lambda *_: reply(200, page))) as peer:
        place = place_of("http", peer)
        if end:
            assert [entry.name for entry in list_place(wire, place)] == ["a", "b"]
        else:
            with pytest.raises(ConnectionLost):
                list_place(wire, place)


@pytest.mark.parametrize(
    "more",
    [
        *(f"<a href='{link}'>next</a>" for link in ("?page=2", "/f/?offset=100", "?marker=b")),
        "<a href='./?C=N&amp;start=7'>next</a>",
        "<h3>\n There may be additional items to display.\n</h3>",  # Sonatype Nexus
    ],
)
def test_a_page_of_a_partial_list_is_refused(wire: Wire, more: str) -> None:
    page = f"<html><title>Index of /f/</title>{more}{LINKS}</html>"
    with (
        Peer(answers_script(lambda *_: reply(200, page))) as peer,
        pytest.raises(Unsupported, match="a part of the folder"),
    ):
        list_place(wire, place_of("http", peer))


@pytest.mark.parametrize(
    "other", ["?C=N;O=D", "?sort=name&amp;order=asc", "/f/?C=M&amp;O=A", "../?page=2x", "?page="]
)
def test_a_link_that_sorts_leads_to_no_other_page(wire: Wire, other: str) -> None:
    page = f"<html><title>Index of /f/</title><a href='{other}'>x</a>{LINKS}</html>"
    with Peer(answers_script(lambda *_: reply(200, page))) as peer:
        assert [entry.name for entry in list_place(wire, place_of("http", peer))] == ["a", "b"]


@pytest.mark.parametrize(("age", "is_old"), [("80000", True), ("2", False)])
def test_an_old_index_from_a_cache_is_no_listing(wire: Wire, age: str, is_old: bool) -> None:
    page = reply(200, index("/f/", "a.txt"), f"Age: {age}")
    with Peer([answers_script(lambda *_: page)] * 2) as peer:
        place = place_of("http", peer)
        if is_old:
            with pytest.raises(Rejected, match="80000 s old"):
                list_place(wire, place)
        else:
            assert [entry.name for entry in list_place(wire, place)] == ["a.txt"]


@pytest.mark.parametrize("field", ["Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", 'ETag: "1"'])
@pytest.mark.parametrize("name", ["index.html", "index.htm", None])
def test_a_saved_copy_of_an_index_is_refused(wire: Wire, name: str | None, field: str) -> None:
    """`wget -r` saves the index of each folder under that name, and a server shows the file in place
    of its own index. A page of the server may have a date or an ETag too."""
    dated = reply(200, index("/f/", "a.txt"), field)

    def answer(method: str, target: str) -> bytes:
        known = target in ("/f/", f"/f/{name}")
        data = dated if known else reply(404, "")
        return data if method == "GET" else data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    with Peer([answers_script(answer)] * 3) as peer:
        place = place_of("http", peer)
        if name is None:
            assert [entry.name for entry in list_place(wire, place)] == ["a.txt"]
        else:
            with pytest.raises(Unsupported, match="stored page"):
                list_place(wire, place)


JSON_ROWS = (
    '[{"name": "a.txt", "type": "file", "mtime": "Mon, 01 Jan 2024 00:00:00 GMT", "size": 1}]'
)


@pytest.mark.parametrize("page", ["json", "html"])
def test_an_index_with_the_date_of_its_folder_is_a_listing(wire: Wire, page: str) -> None:
    """The folder's date is that of the file that was written last (Apache's `TrackModified`), here
    an index.html that the server does not show in place of the index."""
    date = "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT"
    text = JSON_ROWS if page == "json" else index("/f/", "a.txt")
    kind = "Content-Type: application/json" if page == "json" else 'ETag: "of-the-folder"'
    listed = reply(200, text, date, kind)
    file = reply(200, "x" * len(text), date, *([] if page == "json" else ['ETag: "of-the-file"']))

    def answer(method: str, target: str) -> bytes:
        data = {"/f/": listed, "/f/index.html": file}.get(target, reply(404, ""))
        return data if method == "GET" else data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    with Peer([answers_script(answer)] * 3) as peer:
        assert [entry.name for entry in list_place(wire, place_of("http", peer))] == ["a.txt"]


def test_a_list_that_ends_with_its_connection_is_noted(wire: Wire) -> None:
    with Peer(answers_script(lambda *_: closing_answer(GOOD["list"]))) as peer:
        wire = Wire(wire.pool, wire.limits)
        place = place_of("list", peer)
        found = STORES["list"](wire, "source", Watchdog(wire.limits)).list(place, True)
        assert [next(iter(found)).name, next(iter(found)).name] == NAMES["list"]
        with pytest.raises(Unsupported, match="unknown if it is complete"):
            next(iter(found))


def test_parts_and_uploads_need_their_own_documents(wire: Wire) -> None:
    with Peer(answers_script(lambda *_: reply(200, "<ListBucketResult/>"))) as peer:
        store, place = (
            S3Store(wire, "destination", Watchdog(wire.limits)),
            place_of("s3", peer, "f/a"),
        )
        for ask in (
            lambda: store.stored_parts(Upload(place, "id", checked=False)),
            lambda: store.lost_uploads(place, 0, 2e9),
        ):
            with pytest.raises(ProtocolViolation):
                ask()
    circle = "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>7</NextPartNumberMarker>"
    with Peer(answers_script(lambda *_: reply(200, f"{circle}</ListPartsResult>"))) as peer:
        store = S3Store(wire, "destination", Watchdog(wire.limits))
        with pytest.raises(ProtocolViolation):
            store.stored_parts(Upload(place_of("s3", peer, "f/a"), "id", checked=False))


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (403, PermissionDenied), (503, Unavailable)]
)
def test_a_status_inside_a_multistatus_counts_as_its_own(
    wire: Wire, status: int, error: type[RelayError]
) -> None:
    element = f"<d:status>HTTP/1.1 {status} X</d:status>"
    with (
        Peer(answers_script(lambda *_: reply(207, dav(("/f/", element))))) as peer,
        pytest.raises(error),
    ):
        list_place(wire, place_of("webdav", peer))
    rows = dav(("/f/", FOLDER), ("/f/a", element), ("/f/b", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        found = list_place(wire, place_of("webdav", peer))
    assert [(entry.name, entry.error and type(entry.error)) for entry in found] == [
        ("a", error),
        ("b", None),
    ]


# -- passing failures


def troubles(kind: str) -> Iterator[tuple[str, bytes]]:
    whole = GOOD[kind].encode()
    for status in (429, 500, 502, 503):
        yield f"{status}", reply(status, "<Error><Code>SlowDown</Code></Error>", "Retry-After: 0")
    yield "no answer", CUT
    yield (
        "a cut",
        f"HTTP/1.1 {STATUS.get(kind, 200)} X\r\nContent-Length: 9999\r\n\r\n".encode()
        + whole[:-9]
        + CUT,
    )
    if kind in ("s3", "webdav"):
        yield "cut XML", reply(STATUS.get(kind, 200), whole[:-9])
        yield "another document", reply(STATUS.get(kind, 200), OTHERS["a login page"])


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name, _ in troubles(kind)]
)
def test_a_page_that_fails_once_is_asked_for_again(wire: Wire, kind: str, name: str) -> None:
    answers = [dict(troubles(kind))[name]] * 2

    def tell(method: str, target: str) -> bytes:
        return answers.pop() if answers else good_answer(kind)

    with Peer(answers_script(tell)) as peer:
        found = list_place(wire, place_of(kind, peer), seconds=20)
    assert [entry.name for entry in found] == NAMES[kind]
    assert not answers


@pytest.mark.parametrize("kind", KINDS)
def test_trouble_that_does_not_pass_ends_within_the_budget(wire: Wire, kind: str) -> None:
    asked = []
    with Peer(
        answers_script(lambda *_: asked.append(1) or reply(503, "", "Retry-After: 0"))
    ) as peer:  # type: ignore[func-returns-value]
        with pytest.raises((Unavailable, Throttled)):
            list_place(wire, place_of(kind, peer), seconds=1.0)
        assert len(asked) > 1
        asked.clear()
        with pytest.raises((Unavailable, Throttled)):
            list_place(wire, place_of(kind, peer))
        assert len(asked) == 1


def test_a_refusal_is_not_asked_for_again(wire: Wire) -> None:
    asked = []
    with (
        Peer(answers_script(lambda *_: asked.append(1) or reply(403, ""))) as peer,
        pytest.raises(PermissionDenied),
    ):  # type: ignore[func-returns-value]
        list_place(wire, place_of("http", peer), seconds=20)
    assert len(asked) == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_repeated_page_is_yielded_once_without_loss(wire: Wire, changed: bool) -> None:
    names = [f"{number:04}" for number in range(2000)]
    first = index("/f/", *names).encode()
    second = [name for name in names if name != "0007"] + ["new"] if changed else names
    answers = [
        b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(first)
        + first[: len(first) // 2]
        + CUT
    ]

    def tell(method: str, target: str) -> bytes:
        return answers.pop() if answers else reply(200, index("/f/", *second))

    with Peer(answers_script(tell)) as peer:
        found = [entry.name for entry in list_place(wire, place_of("http", peer), seconds=20)]
    assert set(found) == {*names, *second} if changed else found == names


# -- one folder


TREE = {"/f/": ("a", "in/", "z/"), "/f/in/": ("b",), "/f/z/": ("c",)}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(403, ""), PermissionDenied),
        (reply(404, ""), NotFound),
        (reply(401, ""), Unauthenticated),
        (reply(500, ""), Unavailable),
        (reply(200, "<html><title>My shop</title></html>"), Unsupported),
        (reply(302, "", "Location: /login"), Unsupported),
        (reply(207, "<html/>"), StoreError),
        (CUT, ConnectionLost),
    ],
)
@pytest.mark.parametrize("kind", ["http", "webdav"])
def test_one_folder_that_cannot_be_listed_is_its_own_failure(
    wire: Wire, kind: str, answer: bytes, error: type[RelayError]
) -> None:
    def tell(method: str, target: str) -> bytes:
        if target == "/f/in/":
            return answer
        if target == "/login":
            return reply(200, "<html><title>Log in</title></html>")
        names = TREE[target]
        if kind == "http":
            return reply(200, index(target, *names))
        rows = [(target + name, FOLDER if name.endswith("/") else FILE) for name in names]
        return reply(207, dav((target, FOLDER), *rows))

    with Peer(answers_script(tell)) as peer:
        found = {entry.name: entry.error for entry in list_place(wire, place_of(kind, peer))}
    assert found.keys() == {"a", "in/", "z/c"}
    assert found["a"] is found["z/c"] is None
    assert isinstance(found["in/"], StoreError | Unsupported)
    if kind == "http":
        assert isinstance(found["in/"], error)


def test_withdrawn_credentials_fail_the_tree_not_a_folder(wire: Wire) -> None:
    asked: list[str] = []

    def tell(method: str, target: str) -> bytes:
        asked.append(target)
        return reply(200, index(target, *TREE[target])) if asked == ["/f/"] else reply(401, "")

    with Peer(answers_script(tell)) as peer, pytest.raises(Unauthenticated):
        list_place(wire, place_of("http", peer))


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_page_behind_the_url_of_an_object_is_refused(wire: Wire, side: str) -> None:
    def tell(method: str, target: str) -> bytes:
        page = index("/f/sub/", "x")
        answer = reply(301, "", "Location: /f/sub/") if target == "/f/sub" else reply(200, page)
        return answer if method != "HEAD" else answer.removesuffix(page.encode())

    with Peer(answers_script(tell)) as peer:
        place = parse_location(peer.url("/f/sub"))
        store = STORES["http"](wire, side, Watchdog(wire.limits))  # type: ignore[arg-type]
        for ask in (store.head, store.get):
            with pytest.raises(Rejected, match="folder"):
                ask(place)


@pytest.mark.parametrize("more", ["", "Content-Type: text/html"])
def test_a_webdav_folder_with_a_page_is_not_an_object(wire: Wire, more: str) -> None:
    """Without a redirect, like copyparty: its page has neither an entity tag nor a date."""

    def tell(method: str, target: str) -> bytes:
        if method == "PROPFIND":
            return reply(207, dav((target, FOLDER if target == "/f/sub" else FILE)))
        date = "" if target == "/f/sub" else "Last-Modified: Sun, 29 Nov 2026 00:07:35 GMT"
        answer = reply(200, b"5 byt", *(field for field in (more, date) if field))
        return answer if method != "HEAD" else answer.removesuffix(b"5 byt")

    with Peer(answers_script(tell)) as peer:
        store = STORES["webdav"](wire, "source", Watchdog(wire.limits))
        with pytest.raises(Rejected, match="is a folder"):
            store.head(webdav_location(peer.url("/f/sub")))
        assert isinstance(store.head(webdav_location(peer.url("/f/dated"))), ObjectInfo)


@pytest.mark.parametrize("status", [403, 405, 501])
def test_an_object_without_a_date_in_propfind_is_read(wire: Wire, status: int) -> None:
    def tell(method: str, target: str) -> bytes:
        return reply(status, "") if method == "PROPFIND" else reply(200, "")

    with Peer(answers_script(tell)) as peer:
        store = STORES["webdav"](wire, "source", Watchdog(wire.limits))
        assert isinstance(store.head(webdav_location(peer.url("/f/a"))), ObjectInfo)


@pytest.mark.parametrize("href", ["/f/a", "/f/a/", "http://elsewhere.example/f/a"])
def test_a_webdav_object_listed_as_a_folder_is_reported(wire: Wire, href: str) -> None:
    """Many servers answer PROPFIND of `a/` with the entry of `a`, and an object holds nothing: an
    empty listing must not succeed."""
    with Peer(answers_script(lambda method, target: reply(207, dav((href, FILE))))) as peer:
        with pytest.raises(Rejected, match="is an object"):
            list_place(wire, place_of("webdav", peer, "f/a/"))
    for rows in ([(href, FOLDER)], [(href, FILE), ("/f/a/b", FILE)]):
        with Peer(answers_script(lambda method, target, rows=rows: reply(207, dav(*rows)))) as peer:  # type: ignore[misc]
            assert [entry.name for entry in list_place(wire, place_of("webdav", peer, "f/a/"))] == [
                "b"
            ][: len(rows) - 1]


# -- S3's pages


def paged_bucket(
    keys: list[str], step: int, tokens: bool, asked: list[dict[str, str]] | None = None
) -> Answers:
    """Return a bucket of `step` keys a page, in their own order; without `tokens` one that
    continues by marker."""

    def tell(method: str, target: str) -> bytes:
        query = {
            name: values[0]
            for name, values in parse_qs(urlsplit(target).query, keep_blank_values=True).items()
        }
        if asked is not None:
            asked.append(query)
        behind = query.get("continuation-token" if tokens else "marker") or query.get(
            "start-after" if tokens else ""
        )
        first = keys.index(behind) + 1 if behind in keys else 0
        page = keys[first : first + step]
        more = f"<IsTruncated>{'true' if first + step < len(keys) else 'false'}</IsTruncated>"
        if tokens and first + step < len(keys):
            more += f"<NextContinuationToken>{page[-1]}</NextContinuationToken>"
        return reply(200, bucket(*page, more=more))

    return tell


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("recursive", [True, False])
def test_a_bucket_is_listed_by_tokens_or_by_markers(
    wire: Wire, tokens: bool, recursive: bool
) -> None:
    names = [f"f/{number:03} +ü" for number in range(25)]
    with Peer(answers_script(paged_bucket(names, 10, tokens))) as peer:
        found = list_place(wire, place_of("s3", peer), recursive=recursive)
    assert [f"f/{entry.name}" for entry in found] == names


@pytest.mark.parametrize("status", [400, 405, 501])
def test_a_server_without_list_v2_is_asked_with_v1(wire: Wire, status: int) -> None:
    older = paged_bucket([f"f/{number}" for number in range(5)], 2, tokens=False)

    def tell(method: str, target: str) -> bytes:
        newer = "list-type" in target
        return (
            reply(status, "<Error><Code>NotImplemented</Code></Error>")
            if newer
            else older(method, target)
        )

    with Peer(answers_script(tell)) as peer:
        assert [entry.name for entry in list_place(wire, place_of("s3", peer))] == list("01234")


KEYS = ["a b", "a%20b", "a%2Bb", "a+b", "caf\u00e9", "x&y", "z+"]


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(("encoded", "says"), [(True, True), (False, True), (False, False)])
def test_keys_with_a_false_encoding_mark_stay_as_they_are(
    wire: Wire, encoded: bool, step: int, says: bool
) -> None:
    """`a+b`, decoded by mistake, is `a b`: one of the two was listed twice then, and the other
    never."""

    def tell(method: str, target: str) -> bytes:
        asked = parse_qs(urlsplit(target).query, keep_blank_values=True)
        first = int(asked.get("continuation-token", ["0"])[0])
        shown = [
            quote(key) if encoded else key.replace("&", "&amp;")
            for key in KEYS[first : first + step]
        ]
        rows = "".join(f"<Contents><Key>f/{key}</Key><Size>5</Size></Contents>" for key in shown)
        last = first + step >= len(KEYS)
        more = f"<IsTruncated>{str(not last).lower()}</IsTruncated>"
        more += "" if last else f"<NextContinuationToken>{first + step}</NextContinuationToken>"
        kind = "<EncodingType>url</EncodingType>" if says else ""
        return reply(200, f"<ListBucketResult>{kind}{more}{rows}</ListBucketResult>")

    with Peer(answers_script(tell)) as peer:
        assert [entry.name for entry in list_place(wire, place_of("s3", peer))] == KEYS


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_pages_that_go_round_in_a_circle_end(wire: Wire, length: int) -> None:
    count = [0]

    def tell(method: str, target: str) -> bytes:
        count[0] += 1
        token = f"<NextContinuationToken>t{count[0] % length}</NextContinuationToken>"
        return reply(
            200, bucket(f"f/{count[0]:05}", more=f"<IsTruncated>true</IsTruncated>{token}")
        )

    with (
        Peer(answers_script(tell)) as peer,
        pytest.raises(ProtocolViolation, match="repeats its pages"),
    ):
        list_place(wire, place_of("s3", peer))
    assert count[0] < 5 * length + 5


def test_the_same_page_under_ever_new_tokens_ends(wire: Wire) -> None:
    count = [0]

    def tell(method: str, target: str) -> bytes:
        count[0] += 1
        token = f"<NextContinuationToken>t{count[0]}</NextContinuationToken>"
        return reply(200, bucket("f/a", "f/b", more=f"<IsTruncated>true</IsTruncated>{token}"))

    with (
        Peer(answers_script(tell)) as peer,
        pytest.raises(ProtocolViolation, match="repeats its pages"),
    ):
        list_place(wire, place_of("s3", peer))


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_page_that_lacks_its_token_ends_no_listing(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Also where several cursors list the pages."""
    monkeypatch.setattr(listing, "SLOW_SECONDS", 0.0)
    names = [f"f/{number:05}" for number in range(8000)]

    def tell(method: str, target: str) -> bytes:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        places = ("continuation-token", "start-after", "marker")
        after = next((query[place] for place in places if place in query), "")
        rest = [name for name in names if name > after]
        more = f"<IsTruncated>{str(len(rest) > 1000).lower()}</IsTruncated>"
        if 1000 < len(rest) != 8000 - 1000 * missing:
            more += f"<NextContinuationToken>{rest[999]}</NextContinuationToken>"
        return reply(200, bucket(*rest[:1000], more=more))

    with Peer(answers_script(tell)) as peer:
        found = list_place(wire, place_of("s3", peer))
    assert [f"f/{entry.name}" for entry in found] == names


def test_a_listing_resumes_by_key_only_where_keys_are_sorted(wire: Wire) -> None:
    in_order, shuffled = ["f/!x", "f/a", "f/z/", "f/z/!b"], ["f/b", "f/a", "f/c", "f/d"]
    with Peer(answers_script(paged_bucket(in_order, 2, tokens=True))) as peer:
        found = list_place(wire, place_of("s3", peer))
    assert [(entry.name, entry.after) for entry in found] == [
        ("!x", "!x"),
        ("a", "a"),
        ("z/(an object)", "z/"),
        ("z/!b", "z/!b"),
    ]
    for keys in (shuffled, ["f/c", "f/d", "f/a", "f/b"]):
        with Peer(answers_script(paged_bucket(keys, 2, tokens=True))) as peer:
            assert list_place(wire, place_of("s3", peer))[-1].after == ""
    asked: list[dict[str, str]] = []
    with Peer(answers_script(paged_bucket(in_order, 2, tokens=True, asked=asked))) as peer:
        found = list_place(wire, place_of("s3", peer), after="z/")
    assert ([entry.name for entry in found], asked[0]["start-after"]) == (["z/!b"], "f/z/")


def test_an_object_with_the_key_of_the_folder_is_reported(wire: Wire) -> None:
    with Peer(answers_script(lambda *_: reply(200, bucket("f/", "f/a")))) as peer:
        found = list_place(wire, place_of("s3", peer))
    assert [(entry.name, entry.error is not None) for entry in found] == [
        ("(an object)", True),
        ("a", False),
    ]


@pytest.mark.parametrize("kind", ["s3", "webdav"])
@pytest.mark.parametrize("char", ["&#1;", "\x02", "&#xFFFE;", "&#xD800;", "\x7f"])
def test_a_character_invalid_in_xml_fails_one_key(wire: Wire, kind: str, char: str) -> None:
    rows = f"<Contents><Key>f/x{char}</Key></Contents><Contents><Key>f/good</Key></Contents>"
    answers = {
        "s3": reply(200, f"<ListBucketResult>{rows}</ListBucketResult>"),
        "webdav": reply(207, dav((f"/f/x{char}", FILE), ("/f/good", FILE))),
    }
    with Peer(answers_script(lambda *_: answers[kind])) as peer:
        found = [entry.name for entry in list_place(wire, place_of(kind, peer))]
    assert len(found) == 2
    assert found[1] == "good"


@pytest.mark.parametrize("char", ["&#xD800;", "&#xDC80;", "%ED%A0%80", "&#xDBFF;%20"])
def test_a_folder_without_a_valid_url_fails_alone(wire: Wire, char: str) -> None:
    rows = dav(("/f/", FOLDER), (f"/f/x{char}/", FOLDER), ("/f/good", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        found = list_place(wire, place_of("webdav", peer))
    assert sorted((entry.name == "good", type(entry.error)) for entry in found)[1] == (
        True,
        type(None),
    )
    assert [type(entry.error) for entry in found if entry.name != "good"] == [UnsafeKey]


@pytest.mark.parametrize("name", ["a%2Fb", "%2e%2e%2f%2e%2e", "..%2Fx/", "%2e%2e", "a%2f/"])
def test_a_webdav_name_that_leads_elsewhere_is_its_own_failure(wire: Wire, name: str) -> None:
    rows = dav(("/f/", FOLDER), (f"/f/{name}", FILE), ("/f/good", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        found = list_place(wire, place_of("webdav", peer))
    assert [(entry.name, type(entry.error)) for entry in found] == [
        (name.rstrip("/"), UnsafeKey),
        ("good", type(None)),
    ]


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("char", ["&#xD800;", "&#xDC80;", "&#10;", "\u6f22", "&amp;"])
def test_a_listing_goes_on_behind_any_text(wire: Wire, char: str, tokens: bool) -> None:
    asked: list[str] = []

    def answers(_: str, target: str) -> bytes:
        asked.append(target)
        token = f"<NextContinuationToken>t{char}</NextContinuationToken>" if tokens else ""
        more = f"<IsTruncated>true</IsTruncated>{token}<Contents><Key>f/x{char}</Key></Contents>"
        rows = more if len(asked) == 1 else "<Contents><Key>f/zz</Key></Contents>"
        return reply(200, f"<ListBucketResult>{rows}</ListBucketResult>")

    with Peer(answers_script(answers)) as peer:
        assert [entry.name for entry in list_place(wire, place_of("s3", peer))][1:] == ["zz"]
    assert ("continuation-token=t%" if tokens else "marker=f%2Fx%") in asked[1]


# -- spelling, size, and yielding to others


@pytest.mark.parametrize(
    "spelled", ["/u%CC%88/", "/%c3%bc/", "/ü/", "http://other.example/%C3%BC/"]
)
def test_a_webdav_folder_may_be_spelled_in_another_way(wire: Wire, spelled: str) -> None:
    rows = dav((spelled, FOLDER), (f"{spelled}a", FILE), (f"{spelled}b", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        assert [entry.name for entry in list_place(wire, place_of("webdav", peer, "%C3%BC/"))] == [
            "a",
            "b",
        ]


@pytest.mark.parametrize("kind", ["http", "webdav"])
def test_a_folder_of_any_size_yields_to_others(wire: Wire, kind: str) -> None:
    count = 40_000
    names = [f"{number:06}-{'x' * 150}.jpg" for number in range(count)]
    if kind == "http":
        page = reply(200, index("/f/", *names))
    else:
        page = reply(207, dav(("/f/", FOLDER), *((f"/f/{name}", FILE * 2) for name in names)))
    turns: list[float] = []
    over = False

    def tick() -> None:
        while not over:
            turns.append(gevent.get_hub().loop.now())
            gevent.sleep(0.001)

    with Peer(answers_script(lambda *_: page)) as peer:
        ticker = gevent.spawn(tick)
        store = STORES[place_of(kind, peer).store](wire, "source", Watchdog(wire.limits))
        found = sum(1 for _ in store.list(place_of(kind, peer), True))
        over = True
        ticker.join()
    assert found == count
    assert len(turns) > 50  # about one for each piece


def test_invalid_lines_fail_alone(wire: Wire, tmp_path: Path) -> None:
    lines = [
        b'url,"name",size',
        b"http://a.example/1,one,1",
        b'http://a.example/2,"two,2',
        b"http://a.example/3,thr\ree,3",
        b"http://a.example/4,\xff,4",
        b"http://a.example/5,nul\0,5",
        b"http://a.example/6," + b"x" * 70_000 + b",6",
        b"http://a.example/7," + "ü".encode() * 40_000 + b",7",
        b"http://a.example/8,folder/,8",
        b"http://a.example/9,nine,99999999999999999999",
        "http://a.example/10,ten,²".encode(),
        b'"http://a.example/11","ele""ven",11',
    ]
    with Peer(answers_script(lambda *_: reply(200, b"\n".join(lines)))) as peer:
        found = list_place(wire, place_of("list", peer, "list.csv"))
    good = [(entry.name, entry.size) for entry in found if entry.error is None]
    assert good == [("one", 1), ('ele"ven', 11)]
    assert [entry.name for entry in found if entry.error] == [
        f"line {number}" for number in range(3, 12)
    ]
    assert not any("a.example" in str(entry.error) for entry in found)
    for first in (b"\xff\xfe", b"\0", b"x" * 70_000):
        with (
            Peer(answers_script(lambda *_, first=first: reply(200, first))) as peer,
            pytest.raises(ProtocolViolation),
        ):
            list_place(wire, place_of("list", peer, "list.csv"))


@pytest.mark.parametrize(
    "truncated", ["<IsTruncated>1</IsTruncated>", "<IsTruncated> True </IsTruncated>", ""]
)
def test_a_page_with_a_next_marker_is_not_the_last(wire: Wire, truncated: str) -> None:
    """XML writes a true boolean in two ways; without it, a marker of the next page means that the
    list continues there."""
    first = bucket("f/a", more=f"{truncated}<NextMarker>f/a</NextMarker>")

    def tell(method: str, target: str) -> bytes:
        goes_on = "marker" in parse_qs(urlsplit(target).query)
        return reply(200, bucket("f/b", more="<IsTruncated>0</IsTruncated>") if goes_on else first)

    with Peer(answers_script(tell)) as peer:
        assert [entry.name for entry in list_place(wire, place_of("s3", peer))] == ["a", "b"]


@pytest.mark.parametrize("step", [1, 2, 5, 9])
@pytest.mark.parametrize("pages", [True, False])
def test_a_page_without_a_mark_is_whole_if_nothing_follows(
    wire: Wire, step: int, pages: bool
) -> None:
    """Also if the server knows no pages, and always sends the same one."""
    names, asked = [f"f/{number}" for number in range(5)], []

    def tell(method: str, target: str) -> bytes:
        marker = parse_qs(urlsplit(target).query).get("marker")
        asked.append(marker)
        first = names.index(marker[0]) + 1 if marker and pages else 0
        return reply(200, bucket(*names[first : first + (step if pages else 5)]))

    with Peer(answers_script(tell)) as peer:
        assert [f"f/{entry.name}" for entry in list_place(wire, place_of("s3", peer))] == names
    assert len(asked) == (-(-5 // step) + 1 if pages else 2)


def test_a_repeated_full_page_without_a_mark_is_incomplete(
    wire: Wire,
) -> None:
    page = bucket(*(f"f/{number:04}" for number in range(1000)))
    with (
        Peer(answers_script(lambda *_: reply(200, page))) as peer,
        pytest.raises(ProtocolViolation),
    ):
        list_place(wire, place_of("s3", peer))


def test_a_list_of_parts_ends_where_no_upload_has_more(wire: Wire) -> None:
    """An endless one would use all memory."""
    asked: list[str] = []

    def tell(method: str, target: str) -> bytes:
        asked.append(target)
        row = "<Part><PartNumber>7</PartNumber><Size>5</Size></Part>"
        following = f"<NextPartNumberMarker>{4000 * len(asked)}</NextPartNumberMarker>"
        return reply(
            200,
            f"<ListPartsResult><IsTruncated>true</IsTruncated>{following}{row}</ListPartsResult>",
        )

    with Peer(answers_script(tell)) as peer:
        store = S3Store(wire, "destination", Watchdog(wire.limits))
        with pytest.raises(ProtocolViolation):
            store.stored_parts(Upload(place_of("s3", peer, "f/a"), "id", checked=False))
    assert len(asked) == 3


def test_an_untyped_multistatus_entry_is_not_an_object(wire: Wire) -> None:
    """GET of a folder may answer with a page, which would be stored as the object without its
    content."""
    tag = "<d:propstat><d:prop><d:getetag>x</d:getetag></d:prop></d:propstat>"
    denied = "<d:propstat><d:prop><d:resourcetype/></d:prop><d:status>HTTP/1.1 403 X</d:status></d:propstat>"
    sized = "<d:propstat><d:prop><d:getcontentlength>5</d:getcontentlength></d:prop></d:propstat>"
    rows = dav(
        ("/f/", FOLDER),
        ("/f/a", tag + denied),
        ("/f/b", tag),
        ("/f/c", sized),
        ("/f/d", FILE),
        ("/f/e/", tag),
    )
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        found = list_place(wire, place_of("webdav", peer), recursive=False)
    assert [(entry.name, entry.error is None) for entry in found] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("d", True),
        ("e/", True),
    ]


@pytest.mark.parametrize(
    ("rows", "is_folder"),
    [
        ((("/f/", FOLDER), ("/f/b", FILE), ("/f/a", FILE)), False),
        ((("/f/b", FILE), ("/f/a/", FOLDER)), True),
        ((("/f/b", FILE), ("http://other.example/f/%61", FOLDER)), True),
        ((("/behind/a/proxy", FOLDER),), True),
        ((("/behind/a/proxy", FILE),), False),
        ((("/f/", FOLDER),), None),
        ((("/", FOLDER),), None),
        ((("/f/b", FILE), ("/f/c", FILE)), None),
    ],
)
def test_a_property_of_a_resource_is_read_from_its_own_row(
    wire: Wire, rows: tuple[tuple[str, str], ...], is_folder: bool | None
) -> None:
    """A server may ignore the depth, and report other resources first. None: the answer has no row
    for it."""

    def tell(method: str, target: str) -> bytes:
        return reply(207, dav(*rows)) if method == "PROPFIND" else reply(405, "")

    with Peer(answers_script(tell)) as peer:
        store = STORES["webdav"](wire, "destination", Watchdog(wire.limits))
        if is_folder is False:
            assert isinstance(store.head(place_of("webdav", peer, "f/a")), ObjectInfo)
        else:
            with pytest.raises(Rejected if is_folder else ProtocolViolation):
                store.head(place_of("webdav", peer, "f/a"))


@pytest.mark.parametrize("kind", ["http", "webdav"])
@pytest.mark.parametrize(
    ("name", "is_refused"), [("f/read", True), ("f/read.me", False), ("f/rea", False)]
)
def test_a_name_a_server_takes_for_another_object_is_refused(
    wire: Wire, kind: str, name: str, is_refused: bool
) -> None:
    """Apache (MultiViews) answers for `read.me` if `read` is requested and does not exist. An
    upload to `read` would overwrite it."""

    def answer(method: str, target: str) -> bytes:
        if method == "PROPFIND":
            return reply(207, dav(("/f/read.me", FILE)))
        named = ("ETag: W/1", "Content-Location: read.me") if kind == "http" else ()
        return reply(200 if named else 405, "", *named)

    with Peer(answers_script(answer)) as peer:
        store = STORES[kind](wire, "destination", Watchdog(wire.limits))
        place = place_of(kind, peer, name)
        if is_refused:
            with pytest.raises(Rejected, match=r"read\.me"):
                store.head(place)
        else:
            assert isinstance(store.head(place), ObjectInfo)


def test_the_error_of_a_redirect_names_the_target(wire: Wire) -> None:
    def answer(_: str, target: str) -> bytes:
        return reply(301, "", f"Location: https://new.example{target}?token=planted")

    with Peer(answers_script(answer)) as peer, pytest.raises(RedirectRefused) as caught:
        list_place(wire, place_of("webdav", peer))
    assert "to https://new.example/f/?…" in caught.value.message
    assert "planted" not in f"{caught.value.message}{caught.value.hint}"


def test_a_head_that_is_not_answered_counts_for_minutes(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may have been asleep."""
    methods: list[str] = []

    def script(talk: Talk) -> None:
        while head := talk.head():
            methods.append(head.decode("latin-1").split(" ")[0])
            if len(methods) == 1:
                return talk.linger()
            talk.send(reply(200, ""))

    wire = Wire(wire.pool, replace(wire.limits, head_seconds=0.2))
    with Peer(script) as peer:
        store = STORES["http"](wire, "source", Watchdog(wire.limits))
        place = place_of("http", peer, "f/a")
        assert isinstance(store.head(place), UnknownObject)
        assert isinstance(store.head(place), UnknownObject)
        assert methods == ["HEAD"]
        later = monotonic() + http_reads.AGAIN_SECONDS
        monkeypatch.setattr(http_reads, "monotonic", lambda: later)
        assert isinstance(store.head(place), ObjectInfo)


@pytest.mark.parametrize("kind", ["http"])
def test_a_folder_redirected_to_its_neighbour_is_gone(wire: Wire, kind: str) -> None:
    """Apache (mod_speling) redirects to a similar name once the listed folder is gone."""

    def answer(_: str, target: str) -> bytes:
        if target == "/f/":
            return reply(200, index("/f/", "a1/", "a2/"))
        if target == "/f/a1/":
            return reply(301, "", "Location: /f/a2/")
        return reply(200, index(target, "b"))

    with Peer(answers_script(answer)) as peer:
        found = list_place(wire, place_of(kind, peer))
    assert {entry.name: entry.error is None for entry in found} == {"a1/": False, "a2/b": True}


@pytest.mark.parametrize("status", [200, 403])
def test_a_row_of_a_multistatus_may_hold_several_statuses(wire: Wire, status: int) -> None:
    """RFC 4918 section 14.24: several addresses have one status."""
    more = f"<d:href>/f/b</d:href><d:href>/f/c</d:href><d:status>HTTP/1.1 {status} X</d:status>"
    rows = dav(("/f/", FOLDER), ("/f/a", more), ("/f/d", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        found = list_place(wire, place_of("webdav", peer))
    assert [(entry.name, entry.error is None) for entry in found] == [
        ("a", False),
        ("b", False),
        ("c", False),
        ("d", True),
    ]


def pages_of(peer: Peer, more: str) -> Answers:
    """Return the answers of a server whose folder has two pages; `more` is the link to the second
    one, with the server's own address for `HERE`."""

    def answer(method: str, target: str) -> bytes:
        first = "?" not in target
        link = f"Link: {more.replace('HERE', peer.url(''))}"
        rows = dav(("/f/", FOLDER), ("/f/a" if first else "/f/b", FILE))
        return reply(207, rows, *((link,) if first or "again" in more else ()))

    return answer


@pytest.mark.parametrize(
    "link",
    [
        '<HERE/f/?mk=2>; rel="next"',
        "</f/?mk=2>;rel=next",
        '<?mk=2>; title="a, b"; REL="last next"',
        '</>; rel="up", <?mk=2>; rel="next"',
    ],
)
def test_a_listing_of_several_pages_is_read_to_its_end(wire: Wire, link: str) -> None:
    """As that of Nutstore, with 750 entries on a page."""
    with Peer(lambda talk: answers_script(pages_of(peer, link))(talk)) as peer:
        found = list_place(wire, place_of("webdav", peer))
    assert [entry.name for entry in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        ("webdav", '<http://elsewhere.example/f/?mk=2>; rel="next"'),
        ("webdav", '<ftp://x/>; rel="next"'),
        ("http", '<?page=2>; rel="next"'),
    ],
)
def test_a_listing_that_goes_on_elsewhere_is_refused(wire: Wire, kind: str, link: str) -> None:
    def answer(method: str, target: str) -> bytes:
        rows = dav(("/f/", FOLDER), ("/f/a", FILE)) if kind == "webdav" else index("/f/", "a")
        return reply(207 if kind == "webdav" else 200, rows, f"Link: {link}")

    with Peer(answers_script(answer)) as peer, pytest.raises(Unsupported, match="continues"):
        list_place(wire, place_of(kind, peer))


@pytest.mark.parametrize("link", ['<x>; rel="next-archive"', "<x>; rel=prev", "<x>", "next"])
def test_another_link_is_no_further_page(wire: Wire, link: str) -> None:
    rows = dav(("/f/", FOLDER), ("/f/a", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows, f"Link: {link}"))) as peer:
        found = list_place(wire, place_of("webdav", peer))
    assert [entry.name for entry in found] == ["a"]


def test_pages_without_entries_have_an_end(wire: Wire) -> None:
    rows = dav(("/f/", FOLDER))
    with (
        Peer(answers_script(lambda *_: reply(207, rows, 'Link: <?mk=1>; rel="next"'))) as peer,
        pytest.raises(ProtocolViolation, match="names another page"),
    ):
        list_place(wire, place_of("webdav", peer))


def row_with_tag(tag: str, folder: bool = False) -> str:
    more = f'<d:getetag>"{tag}"</d:getetag></d:prop>'
    return (FOLDER if folder else FILE).replace("</d:prop>", more)


@pytest.mark.parametrize(("path", "name"), [("/f/a", "a"), ("/f/a/", "a/")])
def test_a_second_object_of_a_name_is_an_error_of_its_own(wire: Wire, path: str, name: str) -> None:
    """As behind a server in front of Google Drive. A row that comes twice is one object."""
    same, other = (row_with_tag(tag, path.endswith("/")) for tag in ("one", "two"))
    rows = dav(("/f/", FOLDER), (path, same), (path, same), (path, other), ("/f/b", FILE))
    with Peer(answers_script(lambda *_: reply(207, rows))) as peer:
        place = place_of("webdav", peer)
        found = list(STORES["webdav"](wire, "source", Watchdog(wire.limits)).list(place))
    clash = [entry for entry in found if entry.error is not None]
    assert [one.name for one in found if one.error is None] == [name, name, "b"]
    assert [(one.name[:3], type(one.error)) for one in clash] == [("a ~", UnsafeKey)]
