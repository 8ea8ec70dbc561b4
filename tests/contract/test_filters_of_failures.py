"""What can't be listed is left out only if the filters exclude all that it may stand for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relay.engine.listing_filter import ListingFilter, list_chosen
from relay.filters.filter_set import read_filters
from relay.location import Location
from relay.stores.local_locations import local_location
from relay.stores.table import STORES
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.contract.test_listing_evidence import (
    FILE,
    FOLDER,
    answers_script,
    dav,
    place_of,
    reply,
)
from tests.scripted import Peer

JPG = {"include": ["*.jpg"]}


def failures(wire: Wire, place: Location, **given: Any) -> set[str]:
    """Return the names of the chosen entries that have an error."""
    meter = Watchdog(wire.limits)
    store = STORES[place.store](wire, "source", meter)
    filters = read_filters(given, datetime.now(UTC))
    assert filters is not None
    chosen = ListingFilter(filters, store, place, meter, now=0, seed="")
    found = chosen.chosen(list_chosen(store, place, chosen))
    return {entry.name for entry in found if entry.error is not None}


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
