"""Filters choose from each kind of store what rclone chooses from it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from relay.engine.listing_filter import ListingFilter
from relay.errors import InvalidFilter
from relay.filters.filter_set import Filters, read_filters
from relay.location import Location
from relay.stores.s3.aws_settings import s3_location
from relay.stores.table import STORES
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.properties.test_filters_like_rclone import NOW, flags_of, rclone, run
from tests.seaweed import KEY, SECRET, Seaweed

__all__ = ["rclone"]

CASES = 40
NAMES = (
    *("a", "A b", "aa/b.txt", "aa/\u00e9.jpg", "aa/b/c/1.jpg", "aa/b/c/2.JPG", "[x]/{y},z.txt"),
    *(
        "b/.skip",
        "b/1.jpg",
        "b/c/2.jpg",
        "c/d/e/f",
        "c/d.e/f!",
        "c-d/a",
        "node_modules/x/y.js",
    ),
)
PIECES = (
    *("a", "aa", "b", "c", ".jpg", ".txt", "*", "**", "?", "/", "/", "{a,b}", "{aa,c}/**", "[ab]"),
    *("[^a]", r"\[", "{{[a-c]+}}", r"{{\d}}", "node_modules/", ".skip"),
)


def rules(chance: random.Random) -> dict[str, Any]:
    """Return filters, which may be wrong."""

    def pattern() -> str:
        return "".join(chance.choices(PIECES, k=chance.randint(1, 4)))

    made: dict[str, Any] = {}
    if chance.random() < 0.5:
        made["filter"] = [f"{chance.choice('+-')} {pattern()}" for _ in range(chance.randint(1, 5))]
    if chance.random() < 0.4:
        made["include"] = [pattern() for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.4:
        made["exclude"] = [f"{pattern()}*" for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.2:
        made["exclude_if_present"] = [".skip"]
    if chance.random() < 0.2:
        made["max_size"] = "4b"
    return made


@pytest.fixture(params=["seaweed", "wsgidav"])
def place(request: pytest.FixtureRequest) -> tuple[Location, str]:
    """Return a folder with NAMES in a store, for relay and for rclone."""
    base: Any = request.getfixturevalue(request.param)
    if isinstance(base, Seaweed):
        for name in NAMES:
            base.client().put_object(Bucket=base.bucket, Key=f"chosen/{name}", Body=name.encode())
        flags = f"provider=Other,endpoint='{base.endpoint}',access_key_id={KEY}"
        remote = f":s3,{flags},secret_access_key={SECRET}:{base.bucket}/chosen"
        return s3_location(base.config, base.bucket, "chosen/"), remote
    root = request.getfixturevalue("wsgidav_root") / "chosen"
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return webdav_location(f"{base}/chosen/"), f":webdav,url='{base}/chosen/':"


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_rclone_chooses_the_same_from_a_store(
    place: tuple[Location, str], rclone: str, wire: Wire
) -> None:
    location, remote = place
    chance, compared = random.Random(7), 0
    while compared < CASES:
        given = rules(chance)
        try:
            found = read_filters(given, NOW)
        except InvalidFilter:
            continue
        words = ("-R", "--files-only", "--no-modtime", "--no-mimetype", *flags_of(given), remote)
        answer = run(rclone, "lsjson", *words)
        assert not answer.returncode, answer.stderr
        meter = Watchdog(Limits())
        store = STORES[location.store](wire, "source", meter)
        chosen = ListingFilter(found or Filters(), store, location, meter, now=0, seed="")
        entries = store.list(location, True, enters=chosen.enters)
        ours = {entry.name for entry in chosen.chosen(entries)}
        assert ours == {row["Path"] for row in json.loads(answer.stdout)}, given
        compared += 1
