"""An endless listing is an error: pages or folders without entries, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from relay.errors import ProtocolViolation
from relay.location import Location, parse_location
from relay.stores import folder_walk, pieces
from relay.stores.interfaces import Entry
from relay.stores.s3 import listing
from relay.stores.table import STORES
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.contract.test_listing_evidence import (
    FILE,
    FOLDER,
    answers_script,
    bucket,
    dav,
    index,
    list_place,
    place_of,
    reply,
)
from tests.scripted import Peer, Talk


def entries_of(wire: Wire, place: Location) -> Iterator[Entry]:
    return STORES[place.store](wire, "source", Watchdog(wire.limits)).list(place)


def _row(path: str, more: str) -> str:
    return f"<d:response><d:href>{path}</d:href>{more}</d:response>"


@pytest.mark.parametrize("kind", ["tokens", "markers"])
def test_empty_pages_under_ever_new_tokens_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Some may be empty: such as a page that skips deleted keys."""
    monkeypatch.setattr(listing, "BARREN", 5)
    count, fruitful = [0], {4, 9}

    def tell(method: str, target: str) -> bytes:
        count[0] += 1
        name = "NextContinuationToken" if kind == "tokens" else "NextMarker"
        more = f"<IsTruncated>true</IsTruncated><{name}>t{count[0]:05}</{name}>"
        return reply(
            200, bucket(*(["f/" + str(count[0])] if count[0] in fruitful else []), more=more)
        )

    found = []
    with (
        Peer(answers_script(tell)) as peer,
        pytest.raises(ProtocolViolation, match="in a row are empty"),
    ):
        for entry in entries_of(wire, place_of("s3", peer)):
            found.append(entry.name)  # noqa: PERF402 - what came before the error counts
    assert found == ["4", "9"]
    assert count[0] <= 17


def test_empty_pages_end_where_several_cursors_list_them(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(listing, "BARREN", 5)
    count = [0]

    def tell(method: str, target: str) -> bytes:
        count[0] += 1
        more = "<IsTruncated>true</IsTruncated>"
        more += f"<NextContinuationToken>t{count[0]:05}</NextContinuationToken>"
        keys = [f"f/{number:04}" for number in range(1000)] if count[0] == 1 else []
        return reply(200, bucket(*keys, more=more))

    with (
        Peer(answers_script(tell)) as peer,
        gevent.Timeout(60),
        pytest.raises(ProtocolViolation, match="in a row are empty"),
    ):
        list_place(wire, place_of("s3", peer))


@pytest.mark.parametrize("kind", ["webdav", "http"])
def test_folders_that_branch_and_hold_nothing_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two links that lead back to the folder itself: the visible tree has no reachable end."""
    monkeypatch.setattr(folder_walk, "BARREN", 200)
    count = [0]

    def tell(method: str, target: str) -> bytes:
        count[0] += 1
        path = target.partition("?")[0]
        if kind == "http":
            return reply(200, index(path, "one/", "two/"))
        return reply(207, dav(*((path + name, FOLDER) for name in ("", "one/", "two/"))))

    with (
        Peer(answers_script(tell)) as peer,
        pytest.raises(ProtocolViolation, match="hold no object"),
    ):
        list_place(wire, place_of(kind, peer))
    assert count[0] <= 202


@pytest.mark.parametrize("kind", ["webdav", "http", "json", "list"])
def test_an_endless_answer_without_entries_ends(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Blank lines, markup, rows of the folder itself; the text between two entries may be long, but
    not endless."""
    monkeypatch.setattr(pieces, "BARREN_BYTES", 1 << 20)
    begin, entry, filler = {
        "webdav": ('<d:multistatus xmlns:d="DAV:">', _row("/f/a", FILE), _row("/f/", FOLDER)),
        "http": ("<html><title>Index of /f/</title>", '<a href="a">a</a><br>', "<p> </p>"),
        "json": ("[", '{"name": "a", "size": 1},', " "),
        "list": ("", "http://a.example/a\n", "\n"),
    }[kind]
    status = "207 X" if kind == "webdav" else "200 OK"

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(
            f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        text = begin + filler * ((900 << 10) // len(filler)) + entry
        for piece in (text, *([filler * ((64 << 10) // len(filler))] * 1000)):
            talk.send(b"%x\r\n%s\r\n" % (len(piece), piece.encode()))

    found: list[str] = []
    with (
        Peer(script) as peer,
        pytest.raises(ProtocolViolation, match="bytes without an entry"),
    ):
        place = parse_location(peer.url("/f/")) if kind == "json" else place_of(kind, peer)
        for one in entries_of(wire, place):
            found.append(one.name)  # noqa: PERF402 - what came before the error counts
    assert [name.rpartition("/")[2] for name in found] == (
        ["a"] if kind in ("webdav", "list") else []
    )


@pytest.mark.parametrize("kind", ["webdav", "http"])
@pytest.mark.parametrize("around", [1, 2])
def test_a_circle_of_branching_folders_ends(wire: Wire, kind: str, around: int) -> None:
    """Each folder leads to two that are itself, or to one that is above it."""
    count = [0]

    def tell(method: str, target: str) -> bytes:
        count[0] += 1
        path = target.partition("?")[0]
        depth = path.strip("/").count("/")
        names = ("one/", "two/", f"object-{depth % around}")
        if kind == "http":
            return reply(200, index(path, *names))
        return reply(
            207,
            dav(
                (path, FOLDER),
                *((path + name, FOLDER if name[-1] == "/" else FILE) for name in names),
            ),
        )

    with Peer(answers_script(tell)) as peer:
        found = list_place(wire, place_of(kind, peer))
    assert count[0] < 2 ** (4 * around)
    assert {type(entry.error) for entry in found} == {type(None), ProtocolViolation}
    assert "one/two/one/object-1" in {entry.name for entry in found} or around == 1


def test_folders_that_look_alike_and_end_are_listed_to_their_end(wire: Wire) -> None:
    """Like those of a program that numbers its versions."""

    def tell(method: str, target: str) -> bytes:
        names = ("1/", "object") if target.count("1/") < 4 else ("object",)
        return reply(200, index(target, *names))

    with Peer(answers_script(tell)) as peer:
        found = {entry.name: entry.error for entry in list_place(wire, place_of("http", peer))}
    assert found.keys() == {f"{'1/' * depth}object" for depth in range(4)} | {"1/1/1/1/"}
    assert [name for name, error in found.items() if error is not None] == ["1/1/1/1/"]
