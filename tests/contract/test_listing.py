"""Listings: every store reports the same about the same objects, one folder or all below it;
hostile ones are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from loadtests.bench.ports import free_port
from relay.errors import (
    ConnectionLost,
    NotFound,
    ProtocolViolation,
    RelayError,
    ReservedKey,
    SourceChanged,
    Unsupported,
)
from relay.location import Location, parse_location
from relay.receipt import Version
from relay.stores.interfaces import Entry, Store
from relay.stores.local_locations import local_location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.table import STORES
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.contract.conftest import wait_for
from tests.scripted import Peer, Script, Talk, length_of
from tests.seaweed import Seaweed

TREE = {"a.bin": 1, "b c+ü&%.bin": 20, "deep/one.bin": 3, "deep/er/two.bin": 0, "deep.bin": 5}


def prefix_of(request: pytest.FixtureRequest) -> str:
    return f"list-{os.urandom(4).hex()}"


@pytest.fixture(params=["seaweed", "wsgidav", "local"])
def folder(request: pytest.FixtureRequest) -> Location:
    """Return a folder that holds TREE, written by programs other than relay."""
    base: Any = request.getfixturevalue(request.param)
    prefix = prefix_of(request)
    if isinstance(base, Seaweed):
        client = base.client()
        for name, size in TREE.items():
            client.put_object(Bucket=base.bucket, Key=f"{prefix}/{name}", Body=bytes(size))
        return s3_location(base.config, base.bucket, f"{prefix}/")
    root: Path = base if isinstance(base, Path) else request.getfixturevalue("wsgidav_root")
    for name, size in TREE.items():
        path = root / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return (
        local_location(root / prefix, destination=True)
        if base is root
        else webdav_location(f"{base}/{prefix}/")
    )


def store(wire: Wire, location: Location) -> Store:
    return STORES[location.store](wire, "source", Watchdog(Limits()))


def test_a_folder(wire: Wire, folder: Location) -> None:
    found = {entry.name: entry for entry in store(wire, folder).list(folder)}
    assert {name: entry.size for name, entry in found.items()} == {
        "a.bin": 1,
        "b c+ü&%.bin": 20,
        "deep.bin": 5,
        "deep/": None,
    }
    assert found["deep/"].folder
    modified = found["a.bin"].modified
    assert modified is not None
    assert abs(datetime.now(UTC) - modified) < timedelta(minutes=5)


def test_all_below_a_folder(wire: Wire, folder: Location) -> None:
    found = [(entry.name, entry.size) for entry in store(wire, folder).list(folder, recursive=True)]
    assert dict(found) == TREE
    assert len(found) == len(TREE)


def test_folders_that_are_not_entered_are_not_listed(folder: Location, wire: Wire) -> None:
    """A bucket has no folders to enter: it may name what is in them."""
    asked: list[str] = []

    def enters(name: str) -> bool:
        asked.append(name)
        return name != "deep/"

    found = {entry.name for entry in store(wire, folder).list(folder, True, enters=enters)}
    if folder.store == "s3":
        assert found == set(TREE) and not asked
    else:
        assert found == {"a.bin", "b c+ü&%.bin", "deep.bin"} and asked == ["deep/"]


def test_a_folder_inside(wire: Wire, folder: Location) -> None:
    inside = folder.with_target(f"{folder.path}deep/")
    assert {entry.name for entry in store(wire, folder).list(inside)} == {"one.bin", "er/"}


OURS = (
    ".relay-0.part",
    ".relay-notes.part",
    ".relay-019abc12-3456-12-3.part",
    "relay-0123456789abcdef0123.upload",
    "relay-019abc12-3456-12-3.upload.jpg",
)


def test_a_user_name_like_an_unfinished_upload_is_listed(
    wire: Wire, request: pytest.FixtureRequest, wsgidav: str, wsgidav_root: Path, tmp_path: Path
) -> None:
    """At a source it is moved or named with an error; at a destination it may be ours, and counts
    as absent."""
    prefix = prefix_of(request)
    for root in (tmp_path, wsgidav_root / prefix):
        (root / "deep").mkdir(parents=True)
        for name in OURS:
            (root / name).write_bytes(b"12345")
            (root / "deep" / name).write_bytes(b"12345")
        (root / "fine").write_bytes(b"12345")
    places = {
        "local": local_location(tmp_path, destination=False),
        "webdav": webdav_location(f"{wsgidav}/{prefix}/"),
    }
    for kind, place in places.items():
        folder, reserved = place.folder(), OURS if kind == "webdav" else OURS[:3]
        for recursive in (False, True):
            found = {
                entry.name: entry for entry in store(wire, folder).list(folder, recursive=recursive)
            }
            names = [*OURS, *(f"deep/{name}" for name in OURS if recursive)]
            assert set(found) == {"fine", *names, *(() if recursive else ("deep/",))}
            failed = {name for name, entry in found.items() if entry.error is not None}
            assert failed == {name for name in names if name.removeprefix("deep/") in reserved}
            assert all(
                isinstance(found[name].error, ReservedKey) and found[name].size == 5
                for name in failed
            )
        there = STORES[folder.store](wire, "destination", Watchdog(Limits()))
        assert {entry.name for entry in there.list(folder)} == {
            "fine",
            "deep/",
            *(set(OURS) - set(reserved)),
        }


def test_an_absent_folder_is_empty(wire: Wire, folder: Location) -> None:
    nowhere = folder.with_target(f"{folder.path}nowhere/")
    try:
        assert list(store(wire, folder).list(nowhere)) == []
    except NotFound as error:
        assert error.side == "source"


def test_a_bucket_is_listed_page_by_page(wire: Wire, seaweed: Seaweed) -> None:
    client, prefix = seaweed.client(), f"pages-{os.urandom(4).hex()}"
    names = [f"{number:04}" for number in range(1100)]
    for name in names:
        client.put_object(Bucket=seaweed.bucket, Key=f"{prefix}/{name}", Body=b"")
    place = s3_location(seaweed.config, seaweed.bucket, f"{prefix}/")
    assert [entry.name for entry in store(wire, place).list(place)] == names


NAMES = ("a b+c%.txt", "ünï.bin", "in/deep/er/x&y<z>.txt", "in/one", ".hidden", "#?.x")


@pytest.fixture(scope="module")
def python_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return Python's own server, and its folder."""
    root, port = tmp_path_factory.mktemp("www"), free_port()
    command = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "-d",
        str(root),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}", root
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("prefix", ["", "json/"])
def test_an_index_of_nginx_is_a_listing(wire: Wire, nginx: str, prefix: str) -> None:
    folder = f"index-{prefix.strip('/')}"
    for name in NAMES:
        request = Request(f"{nginx}/{folder}/{quote(name)}", b"12345", method="PUT")
        with urlopen(request, timeout=10) as answer:
            assert answer.status == 201
    place = parse_location(f"{nginx}/{prefix}{folder}/")
    seen = [name for name in NAMES if not name.startswith(".")]  # nginx leaves hidden ones out
    found = {entry.name: entry.size for entry in store(wire, place).list(place, recursive=True)}
    assert found == dict.fromkeys(seen, 5)
    assert {e.name for e in store(wire, place).list(place)} == {
        n.partition("/")[0] + "/" * ("/" in n) for n in seen
    }


def test_an_index_of_python_is_a_listing(wire: Wire, python_server: tuple[str, Path]) -> None:
    base, root = python_server
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12345")
    place = parse_location(f"{base}/")
    assert {entry.name for entry in store(wire, place).list(place, recursive=True)} == set(NAMES)
    with pytest.raises(NotFound):
        list(store(wire, place).list(parse_location(f"{base}/nowhere/")))


def test_a_page_that_is_not_a_list_is_reported(wire: Wire, python_server: tuple[str, Path]) -> None:
    base, root = python_server
    (root / "site").mkdir(exist_ok=True)
    (root / "site" / "index.html").write_text(
        "<html><title>My shop</title><a href='buy'>buy</a></html>"
    )
    place = parse_location(f"{base}/site/")
    with pytest.raises(Unsupported, match="not an index of a folder"):
        list(store(wire, place).list(place))


# -- hostile listings


def reply(status: int, body: str) -> bytes:
    data = body.encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def dav(*hrefs: str) -> bytes:
    kind = "<d:propstat><d:prop><d:resourcetype/></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
    rows = "".join(f"<d:response><d:href>{href}</d:href>{kind}</d:response>" for href in hrefs)
    return reply(207, f'<d:multistatus xmlns:d="DAV:">{rows}</d:multistatus>')


def answer_script(reply: bytes) -> Script:
    """Read one request to its end, and answer it."""

    def script(talk: Talk) -> None:
        head = talk.head()
        if b"content-length" in head.lower():
            talk.body(length_of(head))
        talk.send(reply)

    return script


BOMB = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize(
    ("page", "error"),
    [
        (dav("/folder/", "/etc/passwd"), ProtocolViolation),
        (dav("/folder/../up"), ProtocolViolation),
        (dav("/folder/a/b"), ProtocolViolation),
        (dav("http://other.example/"), ProtocolViolation),
        (reply(207, BOMB), ConnectionLost),
        (reply(207, "<d:multistatus"), ConnectionLost),
        (reply(200, "<html/>"), RelayError),
    ],
)
def test_b68_a_webdav_listing_that_leads_out_is_refused(
    wire: Wire, page: bytes, error: type[RelayError]
) -> None:
    with Peer(answer_script(page)) as peer:
        place = webdav_location(peer.url("/folder/"))
        with pytest.raises(error):
            list(store(wire, place).list(place))


def test_a_webdav_listing_may_hold_whole_or_unescaped_urls(wire: Wire) -> None:
    with Peer(
        answer_script(dav("http://a.example/folder/", "http://a.example/folder/b%20c", "/folder/d"))
    ) as peer:
        place = webdav_location(peer.url("/folder/"))
        assert list(store(wire, place).list(place)) == [Entry("b c"), Entry("d")]


def bucket_at(peer: Peer, key: str = "") -> Location:
    config = S3Config(Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"), peer.url(""))
    return s3_location(config, "bucket", key)


def keys(*names: str, coded: bool = False) -> bytes:
    rows = "".join(f"<Contents><Key>{name}</Key><Size>1</Size></Contents>" for name in names)
    coding = "<EncodingType>url</EncodingType>" if coded else ""
    return reply(200, f"<ListBucketResult><Name>bucket</Name>{coding}{rows}</ListBucketResult>")


@pytest.mark.parametrize("name", ["elsewhere", "folde", "Folder/a", "/folder/a"])
def test_b68_a_listing_outside_the_prefix_is_refused(wire: Wire, name: str) -> None:
    with Peer(answer_script(keys("folder/good", name))) as peer, pytest.raises(ProtocolViolation):
        place = bucket_at(peer, "folder/")
        list(store(wire, place).list(place, True))


def test_b63_a_key_with_a_final_slash_fails_unless_a_marker(
    wire: Wire,
) -> None:
    page = keys("folder/", "folder/a/", "folder/b").replace(b"<Size>1</Size>", b"<Size>0</Size>", 2)
    for answer, names in ((page, ["a/", "b"]), (keys("folder/a/"), ["a/(an object)"])):
        with Peer(answer_script(answer)) as peer:
            place = bucket_at(peer, "folder/")
            found = list(store(wire, place).list(place, True))
        assert [entry.name for entry in found] == names
        assert [entry.error is not None for entry in found] == [
            "(an object)" in name for name in names
        ]


BAD = "bad\udcff"
"""A name of bytes that are not UTF-8."""


@pytest.mark.parametrize("scheme", ["s3", "webdav", "json", "html"])
def test_b61_an_undecodable_name_is_named_and_never_replaced(wire: Wire, scheme: str) -> None:
    pages = {
        "s3": keys("folder/bad%ff", "folder/good", coded=True),
        "webdav": dav("/folder/bad%ff", "/folder/good"),
        "json": reply(200, '[{"name": "bad\\udcff"}, {"name": "good"}]'),
        "html": reply(
            200, "<title>Index of /folder/</title><a href='bad%ff'>bad</a><a href='good'>good</a>"
        ),
    }
    with Peer(answer_script(pages[scheme])) as peer:
        if scheme == "s3":
            place = bucket_at(peer, "folder/")
        elif scheme == "webdav":
            place = webdav_location(peer.url("/folder/"))
        else:
            place = parse_location(peer.url("/folder/"))
        assert [entry.name for entry in store(wire, place).list(place, True)] == [BAD, "good"]


def test_b61_an_undecodable_folder_name_hides_no_sibling(wire: Wire) -> None:
    pages = {
        b"/folder/": "<a href='bad%ff/'>bad</a><a href='good/'>good</a>",
        b"/folder/good/": "<a href='object'>object</a>",
    }

    def script(talk: Talk) -> None:
        while head := talk.head():
            path = head.split(b" ")[1]
            talk.send(reply(200, f"<title>Index of {path.decode()}</title>{pages[path]}"))

    with Peer(script) as peer:
        place = parse_location(peer.url("/folder/"))
        found = list(store(wire, place).list(place, True))
    assert {entry.name: entry.error is not None for entry in found} == {
        BAD: True,
        "good/object": False,
    }


def test_b68_outward_links_of_an_index_are_not_listed(wire: Wire) -> None:
    links = (
        "/etc/passwd",
        "../up",
        "//evil.example/x",
        "https://evil.example/x",
        "%2e%2e/up",
        "good",
    )
    page = "<title>Index of /folder/</title>" + "".join(f"<a href='{link}'>x</a>" for link in links)
    with Peer(answer_script(reply(200, page))) as peer:
        place = parse_location(peer.url("/folder/"))
        assert [entry.name for entry in store(wire, place).list(place)] == ["good"]


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", ProtocolViolation),
        (BOMB, ConnectionLost),
        ("<ListBucketResult>", ConnectionLost),
        ("<ListBucketResult/>", ProtocolViolation),
        (
            "<ListBucketResult><EncodingType>url</EncodingType></ListBucketResult>",
            ProtocolViolation,
        ),
    ],
)
def test_an_endless_or_invalid_bucket_listing_is_refused(
    wire: Wire, page: str, error: type[RelayError]
) -> None:
    with Peer(answer_script(reply(200, page))) as peer:
        place = bucket_at(peer)
        with pytest.raises(error):
            list(store(wire, place).list(place))


def test_an_empty_last_page_may_show_the_requested_marker(wire: Wire) -> None:
    """A server without `list-type=2` need not send IsTruncated: the page after the last one is
    empty except for the marker."""

    def pages(talk: Talk) -> None:
        while request := talk.head():
            row = (
                "" if b"marker=a" in request else "<Contents><Key>a</Key><Size>1</Size></Contents>"
            )
            marker = "a" if b"marker=a" in request else ""
            talk.send(
                reply(200, f"<ListBucketResult><Marker>{marker}</Marker>{row}</ListBucketResult>")
            )

    with Peer(pages) as peer:
        place = bucket_at(peer)
        assert [entry.name for entry in store(wire, place).list(place)] == ["a"]


def test_an_empty_object_of_a_bucket_is_not_a_page(wire: Wire) -> None:
    """S3 gives each length: a page of a proxy after a HEAD of length 0 is another object. A web
    server may not know its length."""
    page = reply(200, "<html>Log in</html>")
    with Peer(answer_script(page)) as peer:
        place = bucket_at(peer, "empty")
        with pytest.raises(SourceChanged):
            store(wire, place).get(place, Version(size=0, etag='"e"'))
    with Peer(answer_script(page)) as peer:
        place = parse_location(peer.url("/empty"))
        opened = store(wire, place).get(place, Version(size=0))
        assert opened.body is not None
        opened.body.close()


# -- the command


def test_ls(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b\x1b[31m.bin").write_bytes(b"xy")
    (tmp_path / "a.bin").write_bytes(b"x")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
        }
        command = [sys.executable, "-m", "relay", "ls", *words]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run(".").stdout.splitlines() == ["a.bin", "deep/"]
    assert run("-r", ".").stdout.splitlines() == ["a.bin", "deep/b\\x1b[31m.bin"]
    assert run("--long", str(tmp_path)).stdout.split()[0] == "1"
    report = [json.loads(line) for line in run("--json", "-r", ".").stdout.splitlines()]
    assert [(row["size"], row["folder"]) for row in report] == [(1, False), (2, False)]
    missing = run("nowhere/")
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
