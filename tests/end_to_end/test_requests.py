"""The number of requests and of round trips for an object between honest stores: printed, and
compared with a table.

The stores are simulators without habits, which record every request; in front of each stands a
proxy, which counts how often a connection waited. The costs of the tree itself (its listings, its
first inspections) are left out: two trees of different sizes are moved, and the difference is the
cost of the objects."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.wire.exchange import HEADS
from simulators.liars.dav import DavLiar
from simulators.liars.plain import PlainLiar
from simulators.liars.s3 import BUCKET, S3Liar
from simulators.liars.store_habits import StoreHabits
from simulators.proxy import Proxy
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
KINDS: Mapping[str, type[PlainLiar | S3Liar]] = {"http": PlainLiar, "webdav": DavLiar, "s3": S3Liar}
TYPES = {"http": "http", "webdav": "webdav", "s3": "s3"}
KEY = "honest-key"
FEW, MORE = 20, 40
"""Objects of the two trees, one at a time: both contain the requests that detect a store's features
once."""
SIZE = 5000
OF_FOLDERS = ("list", "folder", "mkcol")
ROUND_TRIPS, CONNECTIONS = "round trips", "connections"
SIDES = ("source", "destination")
SLOTS = 1
"""Objects of a tree that move at a time."""
UNVERIFIED = 3
"""Exit code of a tree whose sizes alone were compared."""
LISTING = 1
"""Connections of the listing and of the first inspections, beside those of the slots."""
Cost = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The requests of one object, by store and verb: in a tree, and alone with all requests of its
    migration. `tree_run` and `alone_run` have all requests of the larger tree and of the object
    alone, with the round trips and connections."""

    tree: Cost
    alone: Cost
    tree_run: Cost = field(default_factory=dict)
    alone_run: Cost = field(default_factory=dict)


def options(kind: str, url: str) -> dict[str, str]:
    """Return the options of a remote for a store."""
    if kind == "s3":
        keys = {"access_key_id": KEY, "secret_access_key": "secret"}
        return {"type": "s3", "endpoint": url, "region": "us-east-1", **keys}
    return {"type": TYPES[kind], "url": url}


def configure(folder: Path, remotes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Write these remotes into a folder; return the environment of a command that uses them."""
    lines = [
        f"[remotes.{name}]\n"
        + "".join(f"{key} = {json.dumps(one)}\n" for key, one in values.items())
        for name, values in remotes.items()
    ]
    (folder / "relay.toml").write_text("".join(lines))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "AWS_"))
    }
    return environment | {
        "RELAY_CONFIG": str(folder / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{folder}/ledger.db",
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
    }


def trees_of(pair: tuple[str, str]) -> list[str]:
    """Return the tree of each of the two remotes, as a command names it."""
    roots = [f"{BUCKET}/" if kind == "s3" else "" for kind in pair]
    return [f"here:{roots[0]}tree/", f"there:{roots[1]}tree/"]


def count_requests(
    pair: tuple[str, str], names: list[str], folder: Path, *words: str
) -> Counter[str]:
    """Migrate objects from an honest store to another; return the requests, by store and verb, and
    the round trips and connections, by store."""
    folder.mkdir()
    with (
        KINDS[pair[0]]("source", StoreHabits((), 1), {"", KEY}) as source,
        KINDS[pair[1]]("destination", StoreHabits((), 2), {"", KEY}) as destination,
        Proxy(f"127.0.0.1:{source.port}") as from_there,
        Proxy(f"127.0.0.1:{destination.port}") as to_there,
    ):
        proxies = {"source": from_there, "destination": to_there}
        for name in names:
            source.shelf.put(name, name.encode() * (SIZE // len(name)), "source")
        remotes = {
            "here": options(pair[0], from_there.url(urlsplit(source.url()).path)),
            "there": options(pair[1], to_there.url(urlsplit(destination.url()).path)),
        }
        environment = configure(folder, remotes)
        places = trees_of(pair)
        if not words:
            places = [place + names[0].removeprefix("tree/") for place in places]
        code, _, err = forked.run(("migrate", *words, *places, "--json"), environment, 60)
        assert code == (UNVERIFIED if "size" in words else 0), err
        assert set(destination.shelf.names()) == set(names)
        sent = [("source", request) for request in source.log] + [
            ("destination", r) for r in destination.log
        ]
        counts = Counter(f"{side} {request.op.kind}" for side, request in sent)
        for side, proxy in proxies.items():
            counts[f"{side} {ROUND_TRIPS}"] = proxy.round_trips
            counts[f"{side} {CONNECTIONS}"] = proxy.connections
        return counts


def costs(pair: tuple[str, str], folder: Path) -> Costs:
    """Return the cost of an object between two kinds of stores."""
    few, more = (
        count_requests(
            pair,
            [f"tree/{i:03}" for i in range(count)],
            folder / f"{count}",
            "-r",
            "--slots",
            f"{SLOTS}",
        )
        for count in (FEW, MORE)
    )
    alone = count_requests(pair, ["tree/000"], folder / "alone")
    tree = {kind: (more[kind] - few[kind]) / (MORE - FEW) for kind in more}
    return Costs(
        tree=object_requests(tree),
        alone=object_requests(alone),
        tree_run=more,
        alone_run=alone,
    )


def object_requests(cost: Cost) -> Cost:
    """Return the requests of objects alone, those of folders left out."""
    return {
        kind: cost[kind]
        for kind in sorted(cost)
        if cost[kind] and kind.partition(" ")[2] not in (*OF_FOLDERS, ROUND_TRIPS, CONNECTIONS)
    }


def of_sockets(run: Cost) -> dict[str, float]:
    """Return the round trips and the connections of a run, by store."""
    return {name: run[name] for name in sorted(run) if name.endswith((ROUND_TRIPS, CONNECTIONS))}


BEFORE: Mapping[tuple[str, str], Costs] = {
    ("s3", "s3"): Costs(
        tree={"destination put": 1, "source get": 1},
        alone={"destination put": 1, "source get": 1, "source head": 1},
    ),
    ("http", "s3"): Costs(
        tree={"destination put": 1, "source get": 1},
        alone={"destination put": 1, "source get": 1, "source head": 1},
    ),
    ("http", "webdav"): Costs(
        tree={
            "destination get": 1,
            "destination head": 2,
            "destination move": 1,
            "destination put": 1,
            "source get": 1,
        },
        alone={
            "destination get": 1,
            "destination head": 2,
            "destination move": 1,
            "destination put": 1,
            "source get": 1,
            "source head": 1,
        },
    ),
    ("http", "http"): Costs(
        tree={"destination get": 1, "destination head": 1, "destination put": 1, "source get": 1},
        alone={
            "destination get": 1,
            "destination head": 2,
            "destination put": 1,
            "source get": 1,
            "source head": 1,
        },
    ),
}
"""At commit 8148be8, measured by this test; from HTTP to S3 at the first commit with that row."""
GROWN: Mapping[tuple[str, str], Costs] = {
    # A web server's listing may omit existing objects: relay inspects each name. Where HEAD shows
    # no digest, an object is read back without it: that saves one HEAD again.
    ("http", "http"): Costs(tree={"destination head": 1 - 1}, alone={}),
    # An object that may be overwritten alone is not inspected before. A MOVE over an old object of
    # equal length that was acknowledged and not done is detected by the temporary name alone. In a
    # tree, an object is read back without a HEAD; the one after the MOVE stays.
    ("http", "webdav"): Costs(tree={"destination head": -1}, alone={"destination head": 1}),
}
"""Requests that were added since, or saved (below 0), with the reason."""


@pytest.mark.parametrize("pair", BEFORE, ids=" to ".join)
def test_an_honest_store_gets_the_minimum_of_requests(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of request, for an object of a tree and for one alone."""
    before, now = BEFORE[pair], costs(pair, tmp_path)
    lines = [
        f"\n{' to '.join(pair)}: requests an object\n  {'':18} {'in a tree':>16} {'alone':>16}"
    ]
    for kind in sorted({*before.tree, *now.tree, *before.alone, *now.alone}):
        tree, alone = (
            f"{was.get(kind, 0):g} -> {is_.get(kind, 0):g}"
            for was, is_ in before_and_now(before, now)
        )
        lines.append(f"  {kind:18} {tree:>16} {alone:>16}")
    with capsys.disabled():
        sys.stdout.write("\n".join(lines) + "\n")
        for name, count in of_sockets(now.tree_run).items():
            alone = f"{now.alone_run[name]:g}"
            sys.stdout.write(f"  {name:23} {f'{count:g} in all':>11} {alone:>16}\n")
    grown = GROWN.get(pair, Costs(tree={}, alone={}))
    assert now.tree == sum_of(before.tree, grown.tree)
    assert now.alone == sum_of(before.alone, grown.alone)
    for run in (now.tree_run, now.alone_run):
        # No request waits twice, as for a `100 Continue`: each costs one round trip.
        requests = Counter[str]()
        for name, count in run.items():
            requests[name.split()[0]] += 0 if name in of_sockets(run) else int(count)
        assert requests == {side: run[f"{side} {ROUND_TRIPS}"] for side in SIDES}
    # A slot keeps its connections, whatever the size of the tree. (To a destination that is asked by
    # HEAD some more are opened, until it is known to send no body behind the answers.)
    asked = any(name == "destination head" for name in now.tree)
    doubted = {"source": 0, "destination": HEADS if asked else 0}
    for side in SIDES:
        name = f"{side} {CONNECTIONS}"
        assert now.tree_run[name] <= SLOTS + LISTING + doubted[side]
        assert now.alone_run[name] <= 1 + doubted[side]


def test_answers_to_head_cost_no_connections(tmp_path: Path) -> None:
    """Without a read-back, only the byte that is asked for shows that no body follows an answer to
    HEAD."""
    names = [f"tree/{number:03}" for number in range(MORE)]
    words = ("-r", "--slots", f"{SLOTS}", "--verify", "size")
    counts = count_requests(("http", "webdav"), names, tmp_path / "size", *words)
    assert counts["destination head"] == 2 * MORE
    assert counts["destination get"] == 1
    assert counts[f"destination {CONNECTIONS}"] <= SLOTS + LISTING + HEADS


def sum_of(one: Cost, other: Cost) -> Cost:
    """Return the sum of two costs."""
    return {kind: one.get(kind, 0) + other.get(kind, 0) for kind in {*one, *other}}


def before_and_now(before: Costs, now: Costs) -> list[tuple[Cost, Cost]]:
    """Return the columns of the table, before and now."""
    return [(before.tree, now.tree), (before.alone, now.alone)]
