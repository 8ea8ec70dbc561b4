"""What can't be listed is left out only if the filters exclude all that it may stand for."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from time import time
from typing import Any

import pytest

from relay.engine.listing_filter import ListingFilter, list_chosen
from relay.errors import Cancelled, PermissionDenied
from relay.filters.filter_set import read_filters
from relay.location import Location
from relay.stores import local
from relay.stores.interfaces import Entry, ObjectInfo
from relay.stores.local import LocalStore
from relay.stores.local_locations import local_location
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
    place_of,
    reply,
)
from tests.scripted import Peer

JPG = {"include": ["*.jpg"]}


def failures(wire: Wire, place: Location, **given: Any) -> set[str]:
    """Return the names of the chosen entries that have an error."""
    return {entry.name for entry in chosen_of(wire, place, **given) if entry.error is not None}


def chosen_of(wire: Wire, place: Location, **given: Any) -> list[Entry]:
    """Return the chosen entries."""
    meter = Watchdog(wire.limits)
    store = STORES[place.store](wire, "source", meter)
    filters = read_filters(given, datetime.now(UTC))
    assert filters is not None
    chosen = ListingFilter(filters, store, place, meter, now=time(), seed="")
    return list(chosen.chosen(list_chosen(store, place, chosen)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (JPG, {"folder", "lost"}),
        ({"files_from": ["folder/1.jpg", "lost"]}, {"folder", "lost"}),
        ({"files_from": ["a.jpg"]}, set()),
        ({"include": ["/other/**"]}, set()),
        ({"exclude": ["*.sock", "folder/**", "lost/**"]}, {"lost"}),
        ({"exclude": ["*.sock", "lost{,/**}"]}, {"folder"}),
        ({"filter": ["- folder/", "- *.sock"]}, {"lost"}),
        ({"exclude": ["x"]}, {"folder", "lost", "x.sock"}),
    ],
)
def test_a_link_may_stand_for_a_folder(
    wire: Wire, tmp_path: Path, given: dict[str, Any], wanted: set[str]
) -> None:
    """A pipe or a socket is certainly none."""
    source = tmp_path / "from"
    source.mkdir()
    (source / "a.jpg").write_bytes(b"1")
    (source / "folder").symlink_to(tmp_path)
    (source / "lost").symlink_to(tmp_path / "unmounted")
    os.mkfifo(source / "x.sock")
    place = local_location(source, destination=False).folder()
    assert failures(wire, place, **given) == wanted


PROPERTIES = "<d:propstat><d:prop><d:getetag>x</d:getetag></d:prop></d:propstat>"
REFUSED = "<d:status>HTTP/1.1 403 Forbidden</d:status>"
NGINX = '[{"name": "a"}, {"nome": "b"}, {"name": "x/y"}, {"name": "lost", "type": "other"}]'


@pytest.mark.parametrize(
    ("kind", "answer", "wanted"),
    [
        ("webdav", dav(("/f/", FOLDER), ("/f/x", PROPERTIES), ("/f/y", REFUSED)), {"x", "y"}),
        ("webdav", dav(("/f/", FOLDER), ("/f/a%2fb", FILE)), {"a%2fb"}),
        ("http", NGINX, {"row 2 of the list", "row 3 of the list", "lost"}),
        ("list", "http://a.example/x.jpg\nhttp:/", {"line 2"}),
    ],
)
def test_a_failure_without_a_type_or_a_name_counts(
    wire: Wire, kind: str, answer: str, wanted: set[str]
) -> None:
    fields = ("Content-Type: application/json",) if kind == "http" else ()
    data = reply(207 if kind == "webdav" else 200, answer, *fields)
    with Peer(answers_script(lambda *_: data)) as peer:
        assert failures(wire, place_of(kind, peer), **JPG) == wanted


def test_two_objects_of_one_name_are_chosen_by_it(wire: Wire) -> None:
    """Their entry has a name that relay made."""
    other = FILE.replace(">5<", ">6<")
    data = reply(207, dav(("/f/", FOLDER), *(("/f/a.jpg", one) for one in (FILE, other))))
    with Peer(answers_script(lambda *_: data)) as peer:
        place = place_of("webdav", peer)
        (name,) = failures(wire, place, **JPG)
        assert name.startswith("a.jpg ~")
        assert failures(wire, place, include=["*.png"]) == set()


def test_a_folder_of_a_failure_is_named_from_the_root(wire: Wire) -> None:
    rows = {
        "/f/": '[{"name": "a/"}, {"name": "b/"}]',
        "/f/a/": '[{"name": "x", "type": "other"}]',
        "/f/b/": '[{"name": "x", "type": "other"}]',
    }

    def answer(_: str, target: str) -> bytes:
        return reply(200, rows[target], "Content-Type: application/json")

    with Peer(answers_script(answer)) as peer:
        found = failures(wire, place_of("http", peer), include=["/a/x/**.jpg"])
    assert found == {"a/x"}


# -- markers of --exclude-if-present

MARKER = {"exclude_if_present": [".no"]}


def names(entries: list[Entry]) -> dict[str, bool]:
    """Return the names, and whether each has an error."""
    return {entry.name: entry.error is not None for entry in entries}


@pytest.mark.parametrize("missing", ["200 with a page", "302 to a page", "404 without HEAD"])
def test_a_marker_is_looked_for_in_the_listing(wire: Wire, missing: str) -> None:
    """A web server may answer each name with a page, and no HEAD at all."""
    pages = {
        "/f/": index("/f/", "a/", "b/", "c/", "x"),
        "/f/a/": index("/f/a/", ".no/", "1"),
        "/f/a/.no/": index("/f/a/.no/", "2"),
        "/f/b/": index("/f/b/", ".no", "1", "d/"),
    }

    def answer(method: str, target: str) -> bytes:
        if target in pages:
            return reply(200, pages[target], "Content-Type: text/html")
        if target.endswith("/"):
            return reply(403, "")
        if missing.startswith("302"):
            return reply(302, "", "Location: /f/")
        return reply(200 if missing.startswith("200") else 404, "" if method == "HEAD" else "page")

    with Peer(answers_script(answer)) as peer:
        found = chosen_of(wire, place_of("http", peer), **MARKER)
    assert names(found) == {"x": False, "c/": True, "a/1": False, "a/.no/2": False}


def test_a_marker_may_be_in_a_folder_of_the_folder(wire: Wire) -> None:
    """It is found by listings alone, too."""
    pages = {
        "/f/": index("/f/", "a/", "b/", "c/"),
        "/f/a/": index("/f/a/", ".git/", "1"),
        "/f/a/.git/": index("/f/a/.git/", "HEAD"),
        "/f/b/": index("/f/b/", ".git/", "1"),
        "/f/b/.git/": index("/f/b/.git/", "2"),
        "/f/c/": index("/f/c/", "3"),
    }

    def answer(_: str, target: str) -> bytes:
        return reply(200, pages.get(target, "a page"), "Content-Type: text/html")

    with Peer(answers_script(answer)) as peer:
        found = chosen_of(wire, place_of("http", peer), exclude_if_present=[".git/HEAD", ".no"])
    assert names(found) == {"b/1": False, "b/.git/2": False, "c/3": False}


def test_a_marker_in_a_webdav_folder(wire: Wire) -> None:
    pages = {
        "/f/": dav(("/f/", FOLDER), ("/f/a/", FOLDER), ("/f/b/", FOLDER), ("/f/x", FILE)),
        "/f/a/": dav(("/f/a/", FOLDER), ("/f/a/.no", FILE), ("/f/a/1", FILE)),
    }

    def answer(method: str, target: str) -> bytes:
        assert method == "PROPFIND"
        return reply(207, pages[target]) if target in pages else reply(403, "")

    with Peer(answers_script(answer)) as peer:
        found = chosen_of(wire, place_of("webdav", peer), **MARKER)
    assert names(found) == {"x": False, "b/": True}


def test_an_unknown_marker_of_a_bucket_fails_its_folder(wire: Wire) -> None:
    last = "<IsTruncated>false</IsTruncated>"

    def answer(method: str, target: str) -> bytes:
        if method == "GET" and "list-type" in target:
            return reply(200, bucket("f/a/1", "f/b/1", "f/b/c/2", "f/x", more=last))
        return reply(403 if "/b/.no" in target else 404, "")

    with Peer(answers_script(answer)) as peer:
        place = place_of("s3", peer)
        found = chosen_of(wire, place, **MARKER)
        assert names(found) == {"a/1": False, "b/1": True, "b/c/2": True, "x": False}
        found = chosen_of(wire, place, **MARKER, exclude=["c/**"])
        assert names(found) == {"a/1": False, "b/1": True, "x": False}


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_folder_without_access_fails_alone(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    for name in ("a/1", "denied/1", "no/.no", "no/1", "x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    head, scan = LocalStore.head, local.scan_folder

    def refusing_head(store: LocalStore, location: Location) -> ObjectInfo:
        if "/denied/" in location.path:
            raise PermissionDenied("Permission denied", side="source")
        return head(store, location)

    def refusing_scan(folders: Any, folder: Path, *rest: Any, **options: Any) -> Any:
        if folder.name == "denied" and not is_listed:
            raise PermissionError(13, "Permission denied")
        return scan(folders, folder, *rest, **options)

    monkeypatch.setattr(LocalStore, "head", refusing_head)
    monkeypatch.setattr(local, "scan_folder", refusing_scan)
    place = local_location(tmp_path, destination=False).folder()
    failed = "denied/1" if is_listed else "denied/"
    assert names(chosen_of(wire, place, **MARKER)) == {"a/1": False, failed: True, "x": False}


# -- a size or a time that the listing does not give

NOW = datetime.now(UTC).replace(microsecond=0)
HEADS = {"old": NOW - timedelta(days=9), "new": NOW - timedelta(hours=2), "dateless": None}


def answer_index(method: str, target: str) -> bytes:
    """Answer as a web server whose index has no values."""
    name = target.rpartition("/")[2]
    if not name:
        return reply(200, index("/f/", *HEADS, "gone", "other", "now"), "Content-Type: text/html")
    assert method == "HEAD" and name != "other"
    if name == "now":
        return reply(
            200, "", *(f"{field}: {http_time(NOW)}" for field in ("Date", "Last-Modified"))
        )
    when = HEADS.get(name)
    fields = () if when is None else (f"Last-Modified: {http_time(when)}",)
    return reply(404 if name == "gone" else 200, "", *fields)


def http_time(when: datetime) -> str:
    return format_datetime(when, usegmt=True)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"max_age": "1d"}, {"new": False, "now": False, "dateless": True, "gone": True}),
        ({"min_age": "1d"}, {"old": False, "now": True, "dateless": True, "gone": True}),
        (
            {"min_age": "1h", "max_age": "1d"},
            {"new": False, "now": True, "dateless": True, "gone": True},
        ),
    ],
)
def test_a_time_that_the_index_lacks_is_asked_for(
    wire: Wire, given: dict[str, str], wanted: dict[str, bool]
) -> None:
    with Peer(answers_script(answer_index)) as peer:
        found = chosen_of(wire, place_of("http", peer), **given, exclude=["other"])
    assert names(found) == wanted


@pytest.mark.parametrize("kind", ["http", "list"])
def test_a_size_that_the_listing_lacks_is_asked_for(wire: Wire, kind: str) -> None:
    def answer(method: str, target: str) -> bytes:
        name = target.rpartition("/")[2]
        if not name:
            text = "\n".join(peer.url(f"/f/{one}") for one in ("small", "large"))
            return reply(200, index("/f/", "small", "large") if kind == "http" else text)
        size = 5 if name == "small" else 5000
        return f"HTTP/1.1 200 X\r\nContent-Length: {size}\r\n\r\n".encode()

    with Peer(answers_script(answer)) as peer:
        found = chosen_of(wire, place_of(kind, peer), min_size="1K")
    assert [entry.name.rpartition("/")[2] for entry in found] == ["large"]
    assert found[0].error is None


def test_a_size_of_a_login_page_is_not_the_objects(wire: Wire) -> None:
    """A program may send its data as HTML, too."""
    page, data = "<!doctype html><title>Sign in</title>", "\0" * 2000
    bodies = {"page.mp4": page, "moved.bin": page, "large.bin": data, "small.bin": data[:5]}

    def answer(method: str, target: str) -> bytes:
        name = target.rpartition("/")[2]
        if target == "/f/":
            return reply(200, index("/f/", *bodies), "Content-Type: text/html")
        if name == "moved.bin":
            return reply(302, "", "Location: /login")
        if name not in bodies and name != "login":
            return reply(404, "")
        whole = reply(200, bodies.get(name, page), "Content-Type: text/html")
        return whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else whole

    with Peer(answers_script(answer)) as peer:
        found = chosen_of(wire, place_of("http", peer), min_size="1K")
    assert names(found) == {"page.mp4": True, "moved.bin": True, "large.bin": False}


# -- time


def test_a_listing_may_last_longer_than_a_transfer(wire: Wire, tmp_path: Path) -> None:
    limits = replace(wire.limits, total_seconds=0.0, yield_seconds=0.0)
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(b"1")
    place, meter = local_location(tmp_path, destination=False).folder(), Watchdog(limits)
    store = LocalStore(wire, "source", meter)
    rules = [f"{'+-'[number % 2]} x{number}" for number in range(100)]
    filters = read_filters({"filter": rules}, datetime.now(UTC))
    assert filters is not None
    chosen = ListingFilter(filters, store, place, meter, now=time(), seed="")
    assert len(list(chosen.chosen(store.list(place, True)))) == 3
    meter.cancel()
    with pytest.raises(Cancelled):
        list(chosen.chosen(store.list(place, True)))


def test_a_cancel_is_no_failure_of_a_folder(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)

    def enters(folder: str) -> bool:
        if folder == "a/":
            return True
        raise Cancelled("the transfer was cancelled")

    place = local_location(tmp_path, destination=False).folder()
    store = LocalStore(wire, "source", Watchdog(wire.limits))
    with pytest.raises(Cancelled):
        list(store.list(place, True, enters=enters))
