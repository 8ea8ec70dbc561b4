"""The page's queries: their number, and that an index serves each, whatever the size of the ledger.
`make bench-page` measures the time that they take."""

from __future__ import annotations

import gc
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection

from loadtests.bench.large_ledger import LedgerSize, fill_ledger
from relay.api.app import create_app
from relay.api.ledger_context import ledger_context
from relay.api.migration_routes import MIGRATIONS_READ
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger import object_lists
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.workers import SERVER
from tests.conftest import LOOPBACK
from tests.ledgers import Statement, assert_counted, assert_stages_counted, statements_of

SIZE = LedgerSize(migrations=600, objects=1000)
LIST, MIGRATION = 5, 8
"""Maximum numbers of queries for a page of the list, and for one of a migration."""
LARGE = f"/ui/migrations/{SIZE.large}"
OBJECTS = f"{LARGE}/objects"
PAGES = {
    "/ui/": LIST,
    "/ui/?before=300": LIST,
    "/ui/?group=running": LIST,
    "/ui/?group=paused": LIST,
    "/ui/?group=needs_you": LIST,
    "/ui/?group=ended": LIST,
    "/ui/?q=photos": LIST,
    "/ui/values?list=600,599,598": LIST,
    LARGE: MIGRATION,
    f"/ui/values?m={SIZE.large}": MIGRATION,
    f"{LARGE}/cancel": MIGRATION,
    OBJECTS: MIGRATION,
    f"{OBJECTS}?after=2200": MIGRATION,
    f"{OBJECTS}?state=failed": MIGRATION,
    f"{OBJECTS}?reason=destination:key-too-long": MIGRATION,
    f"{OBJECTS}?level=size&prefix=photos/1": MIGRATION,
    f"{OBJECTS}?level=size&state=unverified": MIGRATION,
    f"{OBJECTS}/2000": MIGRATION,
}
GROWING = "(transfers|migrations|tallies|counters|receipts|reasons|events|samples)"
"""Tables whose rows are never all read for a page."""
SCANS = re.compile(
    rf"SCAN {GROWING}\b(?! USING)"  # SQLite
    r"|SEARCH transfers USING (?:COVERING )?INDEX \w+ \(migration_id=\?\)"
    r"|SEARCH transfers USING (?:COVERING )?INDEX \w+ \(migration_id=\? AND \w+[<>]"
    r"|SEARCH transfers USING INTEGER PRIMARY KEY \(rowid[<>]\?\)"
    rf"|Seq Scan on {GROWING}\b"  # PostgreSQL
    r"|Index (?:Only )?Scan using transfers_pkey on transfers\b.*\n *Index Cond: \(id >"
    r"|Index (?:Only )?Scan using \w+ on transfers\b.*\n *Index Cond: \(\(migration_id[^)]*\)::text = [^)]*\)\n"
)
"""Steps of a plan that read all rows of a table, or all objects of a migration."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URL of a ledger that all tests of this file read."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('budgets')}/relay.db"
    return str(request.getfixturevalue("postgres").database())


@pytest.fixture(scope="module")
def large_ledger(address: str) -> Iterator[Ledger]:
    """Return a ledger with many migrations, one of them with many objects."""
    with closing(Ledger.connect(address, SERVER)) as ledger:
        fill_ledger(address, SIZE)
        yield ledger


@pytest.fixture
def client(large_ledger: Ledger, address: str) -> Iterator[FlaskClient]:
    """Return a client of a server with it."""
    engine = TransferEngine(Settings(ledger=address), LOOPBACK)
    works = ledger_context(large_ledger, Worker(large_ledger, engine, 1), engine)
    yield create_app(engine, (), works).test_client()
    engine.wire.pool.close()


def reads_of(seen: list[Statement]) -> list[Statement]:
    """Return the queries of a page; tokens are read once in some seconds, for all requests."""
    return [
        one
        for one in seen
        if one[0].lstrip("( ").startswith(("SELECT", "WITH")) and "FROM tokens" not in one[0]
    ]


def plan_of(ledger: Ledger, statement: Statement) -> str:
    """Return how a database runs a statement, one step a line."""
    text, values = statement

    def explain(connection: Connection) -> str:
        if ledger.database.sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
        else:
            # Of a small table all rows are read quickly; here an index must be able to serve.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = connection.exec_driver_sql(f"EXPLAIN {text}", values).all()
        return "\n".join(str(row[-1]) for row in rows) + "\n"

    return ledger.database.run(explain, write=False)


STEPS_OF_A_ROW = 30
"""Most instructions of SQLite's machine for a row that it reads, sorts and returns."""


def rows_read(ledger: Ledger, statement: Statement) -> float:
    """Return how many rows of `transfers` a statement reads; for SQLite, about how many."""
    text, values = statement

    def analyze(connection: Connection) -> float:
        # Of a small table all rows are read quickly; a large one is read so without these.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", values)
        return _rows_of_scans(explained.scalar_one()[0]["Plan"])

    def count_steps(connection: Connection) -> float:
        driver: Any = connection.connection.driver_connection
        steps = itertools.count()
        driver.set_progress_handler(lambda: next(steps) and None, 10)
        connection.exec_driver_sql(text, values).all()
        driver.set_progress_handler(None, 0)
        return next(steps) * 10 / STEPS_OF_A_ROW

    return ledger.database.run(count_steps if ledger.database.sqlite else analyze, write=False)


def _rows_of_scans(plan: Mapping[str, Any]) -> float:
    below = sum(_rows_of_scans(one) for one in plan.get("Plans", ()))
    own = plan["Actual Rows"] * plan["Actual Loops"] if plan.get("Relation Name") else 0
    return float(below + own + plan.get("Rows Removed by Filter", 0) * plan["Actual Loops"])


COUNTS_OBJECTS = re.compile(r"\b(?:count|sum|max)\([^)]*\)[^()]*\bFROM transfers\b")
"""A count of rows of `transfers`, except of those in a subquery, which are the rows of a page."""


def test_each_page_takes_few_queries_by_an_index(client: FlaskClient, large_ledger: Ledger) -> None:
    for path, most in PAGES.items():
        with statements_of(large_ledger) as seen:
            answer = client.get(path, headers={"Host": "localhost"})
        assert answer.status_code == 200, (path, answer.text)
        reads = reads_of(seen)
        assert 0 < len(reads) <= most, (path, [text for text, _ in reads])
        for one in reads:
            assert COUNTS_OBJECTS.search(one[0]) is None, (path, one[0])
            plan = plan_of(large_ledger, one)
            assert SCANS.search(plan) is None, (path, one[0], plan)


def test_a_long_list_is_read_in_pieces(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PostgreSQL has read becomes objects in one piece, which holds up every transfer."""
    lengths, read = list[int](), Ledger.migrations

    def note(*words: Any) -> list[Migration]:
        found = read(*words)
        lengths.append(len(found))
        return found

    monkeypatch.setattr(Ledger, "migrations", note)
    path, numbers = "/migrations?limit=450", list[int]()
    for rows in (450, 150):
        lengths.clear()
        answer = client.get(path, headers={"Host": "localhost"}).json
        assert answer is not None
        numbers += [one["number"] for one in answer["migrations"]]
        assert sum(lengths) == rows and max(lengths) <= MIGRATIONS_READ
        path = answer["next"]
    assert numbers == list(range(SIZE.migrations, 0, -1)) and path is None


MOST_LEFT = 100
"""Accepted number of objects in cycles for each page, whatever its length."""


def test_a_page_leaves_little_to_the_collector(client: FlaskClient) -> None:
    """A cycle with the values of a page would be thousands of objects, and the collection of some
    such pages would hold up every transfer of the process."""
    gc.freeze()  # the collector looks at the remains of the pages only, and not at every module
    for path in (*PAGES, f"{LARGE}/report.csv", f"/migrations/{SIZE.large}/transfers"):
        left = []
        for _ in range(3):  # the first of them compiles
            gc.collect()
            client.get(path, headers={"Host": "localhost"}).close()
            left.append(gc.collect())
        assert left[-1] <= MOST_LEFT, (path, left)


@pytest.mark.parametrize("filters", ["level=read_back", "level=size&state=unverified"])
def test_a_filter_reads_its_window_once(
    client: FlaskClient, large_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, filters: str
) -> None:
    monkeypatch.setattr(object_lists, "WINDOW", 50)
    with statements_of(large_ledger) as seen:
        client.get(f"{OBJECTS}?{filters}", headers={"Host": "localhost"})
    reads = [one for one in reads_of(seen) if "transfers.name" in one[0]]
    read = [rows_read(large_ledger, one) for one in reads]
    assert 0 < sum(read) <= 50 + 5, (read, reads)


def test_the_watcher_takes_three_queries(large_ledger: Ledger) -> None:
    """However many migrations and clients there are."""
    known = {one.id: one for one in large_ledger.migrations(50)}
    with statements_of(large_ledger) as seen:
        found = large_ledger.live.look(known, large_ledger.live.mark(), [*known][:1])
    reads = reads_of(seen)
    assert len(found.migrations) == 50
    assert len(reads) <= 1 + 3, [text for text, _ in reads]  # the mark is a client's own
    for one in reads:
        plan = plan_of(large_ledger, one)
        assert SCANS.search(plan) is None, (one[0], plan)


def test_a_filled_ledger_is_counted_as_relay_counts(large_ledger: Ledger) -> None:
    """So that a page of it costs what one of a ledger costs that relay has filled."""
    for name in (SIZE.large, "20", "101", "2", "3", "4"):
        assert_counted(large_ledger, large_ledger.migration(name).id)
    assert_stages_counted(large_ledger)
    large = large_ledger.migration(SIZE.large)
    assert (large.state, large.needs_attention, large.count_in().objects) == (
        "paused",
        True,
        SIZE.objects,
    )
    assert {"failed", "queued", "skipped", "unverified", "verified"} == set(large.tally)
