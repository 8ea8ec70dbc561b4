"""Tenants in the ledger: each has its own numbers, keys and lists, and a foreign migration is an
unknown one. An index serves every list."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Select, text

from relay.errors import IllegalTransition, KeyReused, MigrationUnknown
from relay.ledger import ledger_log
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.migration_lists import ListForm, MigrationFilter, list_query, list_values
from relay.ledger.migration_rows import one_query, values_of_name
from relay.ledger.migration_values import Spec
from relay.ledger.overview import query_by_name
from relay.ledger.viewer import EVERYTHING, Viewer
from relay.ledger.workers import SERVER
from tests.ledgers import OBJECT, TREE, Opened, assert_stages_counted, statements_of, tree

ACME, DEFAULT = Viewer(tenant="acme"), Viewer()
CHIEF = Viewer(tenant="acme", sees_all=True)


def test_each_tenant_has_its_own_numbers(ledger: Ledger) -> None:
    made = [ledger.create(OBJECT, tenant=tenant)[0] for tenant in ("acme", "default", "acme")]
    assert [(m.tenant, m.number, m.sequence) for m in made] == [
        ("acme", 1, 1),
        ("default", 1, 2),
        ("acme", 2, 3),
    ]
    assert [m.number for m in ledger.migrations(viewer=ACME)] == [2, 1]
    assert [m.id for m in ledger.migrations()] == [m.id for m in reversed(made)]


def test_the_log_of_a_failed_object_names_its_migration(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, Any]] = []
    ledger.create(OBJECT)
    made, _ = ledger.create(OBJECT, tenant="acme")
    monkeypatch.setattr(ledger_log, "emit", lambda _, **members: lines.append(members))
    (claim,) = ledger.claims.claim(1, made.id)
    ledger.claims.settle(
        [Settlement(claim, "failed", error={"code": "not-found", "side": "source"})]
    )
    found = {name: lines[0][name] for name in ("migration", "number", "tenant", "transfer")}
    assert found == {"migration": made.id, "number": 1, "tenant": "acme", "transfer": claim.id}


def test_a_name_means_the_same_to_each_reader(ledger: Ledger) -> None:
    """A viewer that sees all tenants reads `7` as it is printed: as of the default tenant."""
    ours, _ = ledger.create(OBJECT, tenant="acme")
    theirs, _ = ledger.create(OBJECT)
    for viewer, id in ((ACME, ours.id), (CHIEF, theirs.id), (DEFAULT, theirs.id)):
        assert ledger.migration("1", viewer).id == id
    for viewer in (CHIEF, EVERYTHING):
        shown = ledger.migrations(viewer=viewer)
        assert len(shown) == 2
        names = [one.name for one in shown]
        assert [ledger.migration(name, viewer).id for name in names] == [one.id for one in shown]
        found = ledger.overview.migrations_by_name(names, viewer)
        assert {one.id for one in found} == {ours.id, theirs.id}
    assert ledger.migration("acme:1", ACME).id == ours.id


def test_a_foreign_migration_is_unknown(ledger: Ledger) -> None:
    for _ in range(2):
        theirs, _ = ledger.create(TREE)
    for id in (theirs.id, "2", "default:2", f"default:{theirs.number}"):
        with pytest.raises(MigrationUnknown) as found:
            ledger.migration(id, ACME)
        assert found.value.message == f"there is no migration {id!a}"
    assert ledger.migrations(viewer=ACME) == []
    assert ledger.migrations(9, MigrationFilter(search="photos"), ACME) == []
    assert not +ledger.stage_counts(ACME)


def test_an_idempotency_key_belongs_to_its_tenant(ledger: Ledger) -> None:
    other = replace(OBJECT, destination="https://c/x")
    ours, _ = ledger.create(OBJECT, "key", tenant="acme")
    theirs, is_new = ledger.create(other, "key")
    assert is_new
    assert ledger.create(OBJECT, "key", tenant="acme") == (ledger.migration(ours.id), False)
    assert ledger.create(other, "key") == (ledger.migration(theirs.id), False)
    for tenant, spec in (("acme", other), ("default", OBJECT)):
        with pytest.raises(KeyReused):
            ledger.create(spec, "key", tenant=tenant)
    long = "k" * 255
    first, _ = ledger.create(OBJECT, long, tenant="t" * 64)
    assert ledger.create(OBJECT, long, tenant="t" * 64)[0].id == first.id


def test_the_same_request_of_another_tenant_is_not_resumed(ledger: Ledger) -> None:
    ours, _ = ledger.create(TREE, go_on=True, tenant="acme")
    theirs, is_new = ledger.create(TREE, go_on=True)
    assert is_new
    assert ledger.create(TREE, go_on=True, tenant="acme")[0].id == ours.id
    assert ledger.create(TREE, go_on=True)[0].id == theirs.id


# -- lists


def test_a_list_is_narrowed_and_paged(ledger: Ledger) -> None:
    made = [ledger.create(replace(OBJECT, source=f"https://a/{n}%x"))[0] for n in range(6)]
    for number in (1, 3):
        ledger.create(OBJECT, tenant="acme")
        ledger.act(made[number].id, "pause")
    ledger.act(made[2].id, "cancel")
    for viewer in (DEFAULT, EVERYTHING):

        def numbers(viewer: Viewer = viewer, limit: int = 2, **members: Any) -> list[int]:
            found, wanted = list[int](), MigrationFilter(**members)
            while some := ledger.migrations(limit, wanted, viewer):
                found += [m.number for m in some if m.tenant == "default"]
                wanted = replace(wanted, before=some[-1].cursor_for(viewer))
            return found

        assert numbers() == [6, 5, 4, 3, 2, 1]
        assert numbers(states=frozenset({"paused"})) == [4, 2]
        assert numbers(states=frozenset({"paused", "cancelled"})) == [4, 3, 2]
        assert numbers(states=frozenset({"paused", "running"}), search="/5%X") == [6]
        assert numbers(search="%x") == numbers()
        assert (numbers(search="#4"), numbers(search="4%")) == ([4], [5])
        assert numbers(search="a_x") == numbers(search="\0") == []
        assert numbers(needs_attention=True) == []
        assert numbers(needs_attention=False, states=frozenset({"paused"})) == [4, 2]


def test_a_list_and_its_counts_take_five_queries(ledger: Ledger) -> None:
    costs = []
    for _ in range(2):
        tree(ledger, 1, 2)
        ledger.claims.claim(1)
        with statements_of(ledger) as seen:
            ledger.migrations(50)
            ledger.stage_counts()
        costs.append(len(seen))
        with statements_of(ledger) as seen:
            ledger.migration("1")
        costs.append(len(seen))
    assert costs == [5, 5, 5, 5]


MANY = 10_000
_MADE = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :many)",
    "postgresql": "WITH n(i) AS (SELECT * FROM generate_series(1, :many))",
}
_ROWS = (
    "INSERT INTO migrations (id, number, tenant, ordinal, state, needs_attention, source,"
    " destination, options, spec, listing, created, runner) {} SELECT 'm' || i, i, CASE i % 2 WHEN"
    " 0 THEN 'acme' ELSE 'default' END, i, CASE WHEN i % 50 = 0 THEN 'partial' ELSE 'succeeded'"
    " END, i % 50 = 0, 'a', 'b', '{{}}', '', 'none', 0, 'server' FROM n"
)
LISTS = {
    "all": MigrationFilter(),
    "next page": MigrationFilter(before=5000),
    "one state": MigrationFilter(states=frozenset({"partial"}), before=9000),
    "absent state": MigrationFilter(states=frozenset({"paused"})),
    "ended": MigrationFilter(states=frozenset({"partial", "failed", "succeeded"})),
    "search": MigrationFilter(search="a"),
}


def test_an_index_serves_every_list(address: str) -> None:
    """No list sorts or reads the whole table, which has ten thousand rows."""
    ledger = Ledger.connect(address, SERVER)
    try:
        ledger.database.run(_fill)
        for viewer in (ACME, EVERYTHING):
            for name, wanted in LISTS.items():
                plan = _plan(ledger, _list_query(wanted, viewer))
                assert _is_served(plan), (name, viewer, plan)
            needy = MigrationFilter(needs_attention=True)
            plan = _plan(ledger, _list_query(needy, viewer))
            assert "migrations_needy" in plan or _is_served(plan), plan
            named = one_query(True, viewer.sees_all, False).order_by(None)
            plan = _plan(ledger, named.params(values_of_name("7", viewer, None)))
            assert "tenant=? AND ordinal=?" in plan or "migrations_numbered" in plan, plan
            assert _is_served(plan), plan
            listed = query_by_name([str(number) for number in range(1, 51)], viewer, SERVER)
            plan = _plan(ledger, listed)
            assert "tenant=? AND ordinal=?" in plan or "migrations_numbered" in plan, plan
            assert not re.search("tenant=\\?\\)|Seq Scan", plan), plan
    finally:
        ledger.close()


def _list_query(wanted: MigrationFilter, viewer: Viewer) -> Select[Any]:
    values = list_values(50, wanted, viewer, SERVER)
    return list_query(ListForm.of(wanted, viewer, SERVER)).params(values)


def _fill(connection: Connection) -> None:
    rows = _ROWS.format(_MADE[connection.dialect.name])
    connection.execute(text(rows), {"many": MANY})
    connection.exec_driver_sql("ANALYZE")


def _plan(ledger: Ledger, query: Any) -> str:
    """Return how a database runs a query, one step a line."""

    def explain(connection: Connection) -> str:
        plan = "EXPLAIN QUERY PLAN " if ledger.database.sqlite else "EXPLAIN "
        compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
        rows = connection.exec_driver_sql(plan + str(compiled)).all()
        return "\n".join(str(row[-1]) for row in rows)

    return ledger.database.run(explain, write=False)


def _is_served(plan: str) -> bool:
    """Return whether every read of the table goes by an index, and at most the ids of a few pages
    are sorted."""
    if re.search(r"SCAN migrations(?! USING)|Seq Scan on migrations", plan):
        return False
    if "QUERY" in plan or "SCAN" in plan or "SEARCH" in plan:  # SQLite
        return "UNION" in plan or "B-TREE" not in plan
    return all(int(rows) <= 500 for rows in re.findall(r"Sort +\(cost=\S+ rows=(\d+)", plan))


# -- migrations that need a person


def _end_with_failure(ledger: Ledger) -> str:
    id = tree(ledger, 1)
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([Settlement(claim, "failed", error={"code": "x", "side": "source"})])
    ledger.finish()
    return id


def test_a_failed_migration_needs_a_person_until_acknowledged(ledger: Ledger) -> None:
    id = _end_with_failure(ledger)
    assert [m.id for m in ledger.migrations(9, MigrationFilter(needs_attention=True))] == [id]
    assert ledger.migration(id).needs_attention
    assert +ledger.stage_counts() == {("failed", True): 1}
    for _ in range(2):
        assert not ledger.acknowledge(id).needs_attention
    assert +ledger.stage_counts() == {("failed", False): 1}
    assert [e["kind"] for e in ledger.events.all(id)].count("acknowledge") == 1


ENDINGS: dict[str, Callable[[Ledger, str], object]] = {
    "retry": lambda ledger, id: ledger.act(id, "retry"),
    "cancel": lambda ledger, id: ledger.act(id, "cancel"),
    "list again": lambda ledger, id: ledger.list_again(id),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_verb_is_an_answer_to_a_failure(ledger: Ledger, name: str) -> None:
    id = _end_with_failure(ledger)
    ENDINGS[name](ledger, id)
    assert not ledger.migration(id).needs_attention
    assert_stages_counted(ledger)


def test_a_cancelled_migration_needs_no_retry_to_be_seen(ledger: Ledger) -> None:
    id = tree(ledger, 1)
    ledger.act(id, "cancel")
    with pytest.raises(IllegalTransition) as refused:
        ledger.acknowledge(id)
    assert refused.value.hint is not None and "etry" not in refused.value.hint


def test_only_relays_own_pause_needs_a_person(ledger: Ledger) -> None:
    id = tree(ledger, 1)
    ledger.act(id, "pause")
    assert not ledger.migration(id).needs_attention
    with pytest.raises(IllegalTransition):
        ledger.acknowledge(id)
    ledger.act(id, "resume")
    ledger.pause_for(id, {"code": "unauthenticated"})
    assert ledger.migration(id).needs_attention
    assert_stages_counted(ledger)
    ledger.act(id, "resume")
    assert not ledger.migration(id).needs_attention
    assert_stages_counted(ledger)


def test_a_server_counts_only_the_migrations_that_it_lists(address: str) -> None:
    terminal, server = Ledger.connect(address), Ledger.connect(address, SERVER)
    try:
        terminal.create(TREE)
        server.create(TREE)
        assert +server.stage_counts() == {("running", False): 1}
        assert +terminal.stage_counts() == {("running", False): 2}
    finally:
        terminal.close()
        server.close()


def test_a_settlement_touches_no_count_of_migrations(open_ledger: Opened) -> None:
    """Nor the reasons of failures: an object that arrives costs what it did before."""
    ledger = open_ledger()
    tree(ledger, 1, 2, 3)
    claims = ledger.claims.claim(3)
    with statements_of(ledger) as seen:
        ledger.claims.settle([Settlement(claim, "skipped", bytes=1) for claim in claims])
    assert not [sql for sql, _ in seen if "stage_counts" in sql or "reasons" in sql]


@pytest.mark.parametrize("request_of", [TREE, OBJECT], ids=["tree", "object"])
def test_a_paused_request_starts_with_a_resume(ledger: Ledger, request_of: Spec) -> None:
    spec = replace(request_of, paused=True)
    made, is_new = ledger.create(spec, "key")
    assert (made.state, is_new, made.needs_attention) == ("paused", True, False)
    assert [event["kind"] for event in ledger.events.all(made.id)] == ["accepted", "pause"]
    assert ledger.listings.claim() is None and not ledger.claims.claim(9)
    assert_stages_counted(ledger)
    assert ledger.act(made.id, "resume").state == "running"
    assert bool(ledger.listings.claim()) == spec.recursive
    assert len(ledger.claims.claim(9)) == 1 - spec.recursive
    # The same request again is the same migration, which runs on.
    again, is_new = ledger.create(spec, "key")
    assert (again.id, again.state, is_new) == (made.id, "running", False)
    assert_stages_counted(ledger)
