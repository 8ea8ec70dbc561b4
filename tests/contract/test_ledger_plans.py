"""Plans in the ledger: accepted once, made by one worker at a time, started once. On both
databases."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from sqlalchemy import event, func, insert, select, update

from relay.errors import IllegalTransition, PlanUnknown, TooManyRequests
from relay.ledger import ledger_log, plans
from relay.ledger.audit_log import Actor
from relay.ledger.endings import KEPT_SECONDS
from relay.ledger.ledger import Ledger
from relay.ledger.plan_tables import plan_secrets
from relay.ledger.plan_tables import plans as table
from relay.ledger.plan_values import StoredPlan
from relay.ledger.sample_values import Traffic
from relay.ledger.schema import migrations
from relay.ledger.states import MigrationState, PlanState, PlanVerb
from relay.ledger.upkeep import Upkeep
from relay.ledger.viewer import EVERYTHING, Viewer
from relay.ledger.workers import SERVER
from relay.throttle import Bounds
from tests.ledgers import TREE, Opened, tree, verified_end

ACME, OTHER = Viewer(tenant="acme"), Viewer(tenant="other")
REPORT = {"objects": 3}


def plan(ledger: Ledger, key: str | None = None, tenant: str = "acme") -> StoredPlan:
    """Accept a plan of a tree."""
    return ledger.plans.create(TREE, key, tenant=tenant)


def secrets_of(ledger: Ledger) -> int:
    """Return the number of plans whose secrets are stored."""
    query = select(func.count()).select_from(plan_secrets)
    return ledger.database.run(lambda c: c.execute(query).scalar_one(), write=False)


def test_a_plan_sent_twice_is_one(ledger: Ledger) -> None:
    first = plan(ledger, "k")
    assert plan(ledger, "k") == first
    other = replace(TREE, bounds=Bounds(slots=3))
    assert ledger.plans.create(other, "k", tenant="acme").id != first.id
    assert plan(ledger, "k", "other").id != first.id
    assert plan(ledger).id != plan(ledger).id
    assert ledger.plans.secret(first.id) == TREE.secret


def test_a_plan_sent_twice_at_once_is_one(ledger: Ledger, open_ledger: Opened) -> None:
    """The second one is accepted after the first has looked for its key."""
    if ledger.database.sqlite:
        pytest.skip("its writers wait for each other")
    other, made = open_ledger(), list[StoredPlan]()

    def race(*args: object) -> None:
        if str(args[2]).startswith("INSERT INTO plans") and not made:
            made.append(plan(other, "k"))

    event.listen(ledger.database._engine, "before_cursor_execute", race)
    assert plan(ledger, "k") == made[0]
    assert ledger.plans.newest(9, EVERYTHING) == made and secrets_of(ledger) == 1


def test_a_foreign_plan_is_an_unknown_one(ledger: Ledger) -> None:
    ours, theirs = plan(ledger), plan(ledger, tenant="other")
    assert ledger.plans.one(ours.id, ACME) == ours
    for id in (theirs.id, "0" * 36, "x", "1", "%"):
        with pytest.raises(PlanUnknown):
            ledger.plans.one(id, ACME)
    assert ledger.plans.newest(9, ACME) == [ours]
    assert ledger.plans.newest(9, EVERYTHING) == [theirs, ours]
    assert ledger.plans.newest(9, EVERYTHING, theirs.id) == [ours]
    assert ledger.plans.newest(9, ACME, ours.id) == []
    with pytest.raises(PlanUnknown):
        ledger.plans.newest(9, ACME, theirs.id)


def test_each_kind_of_worker_has_its_own_plans(ledger: Ledger, open_ledger: Opened) -> None:
    ours = plan(ledger)
    server = open_ledger()
    server.access = replace(server.access, worker=replace(server.worker, kind=SERVER))
    assert server.plans.newest(9, ACME) == [] and server.plans.claim() is None
    with pytest.raises(PlanUnknown):
        server.plans.one(ours.id, ACME)


def test_one_worker_makes_a_plan(ledger: Ledger, open_ledger: Opened) -> None:
    made, other = plan(ledger), open_ledger()
    assert ledger.plans.is_unmade()
    claim = ledger.plans.claim()
    assert claim is not None and (claim.plan.id, claim.secret) == (made.id, TREE.secret)
    assert other.plans.claim() is None and other.plans.is_unmade()
    assert ledger.plans.note(claim, {"objects": 1})
    assert ledger.plans.one(made.id, ACME).report == {"objects": 1}
    assert ledger.plans.end(claim, REPORT)
    found = ledger.plans.one(made.id, ACME)
    assert (found.state, found.report, found.error) == (PlanState.READY, REPORT, None)
    assert found.ended is not None and not ledger.plans.is_unmade()
    assert not ledger.plans.note(claim, {}) and not ledger.plans.end(claim, {})


def test_no_tenant_keeps_the_others_waiting(ledger: Ledger, open_ledger: Opened) -> None:
    ours = [plan(ledger) for _ in range(plans.MADE + 1)]
    theirs = plan(ledger, tenant="other")
    other = open_ledger()
    claims = [one.plans.claim() for one in (ledger, other) * 2]
    assert [claim and claim.plan.id for claim in claims] == [
        *(one.id for one in ours[: plans.MADE]),
        theirs.id,
    ]
    assert ledger.plans.claim() is None
    other.leases.leave()  # two of the claims are free, in their order
    again = [ledger.plans.claim() for _ in range(2)]
    assert [claim and claim.plan.id for claim in again] == [ours[1].id, theirs.id]


def test_a_lost_worker_is_replaced(ledger: Ledger, open_ledger: Opened) -> None:
    """The next one has a higher fence; after LOST of them the plan fails."""
    made, claim = plan(ledger), ledger.plans.claim()
    assert claim is not None
    ledger.leases.leave()
    for number in range(1, plans.LOST):
        worker = open_ledger()
        again = worker.plans.claim()
        assert again is not None and again.fence == claim.fence + number
        assert not ledger.plans.note(claim, {}) and not ledger.plans.end(claim, {})
        worker.leases.leave()
    worker = open_ledger()
    assert worker.plans.claim() is None and not worker.plans.is_unmade()
    found = worker.plans.one(made.id, ACME)
    assert found.state == PlanState.FAILED and found.error is not None
    assert found.error["code"] == "plan-abandoned"


def test_a_plan_that_is_handed_back_waits(ledger: Ledger, open_ledger: Opened) -> None:
    """It does not count as one whose worker was lost."""
    plan(ledger)
    for _ in range(2 * plans.LOST):
        claim = ledger.plans.claim()
        assert claim is not None
        ledger.plans.hand_back(claim)


def test_a_worker_that_is_not_registered_claims_nothing(ledger: Ledger) -> None:
    plan(ledger)
    ledger.leases.leave()
    assert ledger.plans.claim() is None and ledger.plans.is_unmade()


def test_a_stopped_plan_takes_no_report(ledger: Ledger) -> None:
    made, claim = plan(ledger), ledger.plans.claim()
    assert claim is not None
    for _ in range(2):
        stopped = ledger.plans.act(made.id, PlanVerb.CANCEL)
        assert stopped.state == PlanState.CANCELLED
    assert not ledger.plans.note(claim, {}) and not ledger.plans.end(claim, REPORT)
    again = ledger.plans.act(made.id, PlanVerb.AGAIN)
    assert (again.state, again.report, again.ended) == (PlanState.PLANNING, None, None)
    assert not ledger.plans.end(claim, REPORT)
    second = ledger.plans.claim()
    assert second is not None and ledger.plans.end(second, {}, {"code": "x"})
    assert ledger.plans.one(made.id, ACME).state == PlanState.FAILED
    with pytest.raises(IllegalTransition):
        ledger.plans.act(made.id, PlanVerb.CANCEL)


def test_a_plan_starts_one_migration(ledger: Ledger) -> None:
    """Of the plan's tenant; its secrets are then the migration's alone."""
    made = plan(ledger)
    with pytest.raises(IllegalTransition):
        ledger.plans.start(made.id, TREE)
    claim = ledger.plans.claim()
    assert claim is not None and ledger.plans.end(claim, REPORT)
    assert ledger.plans.migration_of(ledger.plans.one(made.id, ACME)) is None
    started = [ledger.plans.start(made.id, TREE) for _ in range(2)]
    assert started[0].id == started[1].id and len(ledger.migrations()) == 1
    assert (started[0].tenant, started[0].state) == ("acme", MigrationState.RUNNING)
    found = ledger.plans.one(made.id, ACME)
    assert (found.state, found.migration) == (PlanState.STARTED, started[0].id)
    assert ledger.plans.migration_of(found) == started[0]
    assert ledger.plans.secret(made.id) is None and secrets_of(ledger) == 0
    assert ledger.secret(started[0].id) == TREE.secret
    with pytest.raises(IllegalTransition):
        ledger.plans.act(made.id, PlanVerb.AGAIN)


def test_the_audit_log_has_the_migration_of_a_plan(ledger: Ledger) -> None:
    """As one that was accepted without a plan: where it goes, and whether it moves anything."""
    made = ledger.plans.create(TREE, None, tenant="acme")
    known = ledger.by(Actor(name="ann"))
    for _ in range(2):
        known.plans.act(made.id, PlanVerb.CANCEL)
    assert [row.verb for row in known.audit.newest(9)] == ["plan cancel"]
    started = known.plans.start(made.id, replace(TREE, paused=True))
    after = known.audit.newest(1)[0].after or {}
    assert after["migration"] == f"migration {started.name} {started.id}"
    assert [after[name] for name in ("source", "destination", "state")] == [
        *(TREE.source, TREE.destination),
        "paused",
    ]


def test_a_plan_that_leads_elsewhere_does_not_start(ledger: Ledger) -> None:
    """Its remote is another one now: neither its numbers nor its title are of that."""
    planned = replace(TREE, places=("a", "b"))
    made = ledger.plans.create(planned, None, tenant="acme")
    elsewhere = replace(planned, places=("a", "c"))
    assert ledger.plans.is_at(made, planned) and not ledger.plans.is_at(made, elsewhere)
    claim = ledger.plans.claim()
    assert claim is not None and claim.secret == TREE.secret and ledger.plans.end(claim, REPORT)
    with pytest.raises(IllegalTransition, match="another location"):
        ledger.plans.start(made.id, elsewhere)
    assert ledger.migrations() == []
    assert ledger.plans.start(made.id, planned).id == ledger.plans.start(made.id, elsewhere).id


def test_a_plan_of_an_older_relay_has_its_printed_places(ledger: Ledger) -> None:
    made = plan(ledger)
    older = update(plan_secrets).values(locations=json.dumps(TREE.secret))
    ledger.database.run(lambda c: c.execute(older))
    assert ledger.plans.is_at(made, replace(TREE, places=("a", "b")))
    assert not ledger.plans.is_at(made, replace(TREE, destination="c:photos"))


def test_a_started_plan_is_logged_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any migration that is accepted; and its file is checked."""
    logged, checked = list[str](), list[bool]()
    monkeypatch.setattr(ledger_log, "log_accepted", lambda _, made: logged.append(made.id))
    monkeypatch.setattr(ledger.database, "check_file", lambda: checked.append(True))
    made = plan(ledger)
    ledger.plans.act(made.id, PlanVerb.CANCEL)
    ids = [ledger.plans.start(made.id, TREE).id for _ in range(2)]
    assert logged == ids[:1] and len(checked) == 3


def test_an_unstarted_plan_keeps_credentials_a_day(ledger: Ledger) -> None:
    """Those of a plan that is being made stay, and so do places without any."""
    signed = replace(TREE, secret={"source": {"text": "https://a/?sig=1", "headers": []}})
    made = [ledger.plans.create(signed, None, tenant="acme") for _ in range(3)]
    plain = plan(ledger)
    for one in (*made[:2], plain):
        ledger.plans.act(one.id, PlanVerb.CANCEL)
    long_ago = {"ended": time.time() - KEPT_SECONDS - 1}
    old = update(table).where(table.c.id.in_([made[0].id, plain.id])).values(**long_ago)
    ledger.database.run(lambda c: c.execute(old))
    ledger.finish()
    kept = [ledger.plans.secret(one.id) is not None for one in (*made, plain)]
    assert kept == [False, True, True, True]
    with pytest.raises(IllegalTransition, match="forgotten") as caught:
        ledger.plans.act(made[0].id, PlanVerb.AGAIN)
    assert "again" in caught.value.hint
    assert ledger.plans.one(made[0].id, ACME).state == PlanState.CANCELLED
    assert ledger.plans.act(made[1].id, PlanVerb.AGAIN).state == PlanState.PLANNING


def test_old_credentials_are_looked_for_once_a_minute(ledger: Ledger) -> None:
    """The other chores of a worker at each poll."""
    texts, at = list[str](), [0.0]
    event.listen(
        ledger.database._engine, "before_cursor_execute", lambda *args: texts.append(args[2])
    )
    upkeep, looks = Upkeep(clock=lambda: at[0]), list[tuple[bool, bool]]()
    for at[0] in (0.0, 1.0, 59.0, 60.0, 61.0):
        texts.clear()
        upkeep.run(ledger.access)
        found = [
            any(f"{name}.locations" in text for text in texts)
            for name in ("plan_secrets", "secrets")
        ]
        looks.append((found[0], found[1]))
    assert looks == [(True, True), (False, True), (False, True), (True, True), (False, True)]


def test_the_secrets_of_the_oldest_plan_leave_the_log(ledger: Ledger) -> None:
    """SQLite's write-ahead log may hold what a new plan has deleted."""
    ledger.access.log.has_secrets = False
    plan(ledger)
    assert ledger.access.log.has_secrets
    ledger.finish()
    assert not ledger.access.log.has_secrets


def test_a_deleted_plan_leaves_nothing(ledger: Ledger) -> None:
    made, claim = plan(ledger), ledger.plans.claim()
    assert claim is not None
    for _ in range(2):
        ledger.plans.remove(made.id)
    assert not ledger.plans.note(claim, {}) and not ledger.plans.end(claim, {})
    assert secrets_of(ledger) == 0
    with pytest.raises(PlanUnknown):
        ledger.plans.start(made.id, TREE)
    assert ledger.migrations() == []


def test_a_tenant_has_a_maximum_of_plans(ledger: Ledger) -> None:
    """The oldest ones go, except those that are being made, of which there is a limit too."""
    unmade = [plan(ledger).id for _ in range(plans.UNMADE)]
    with pytest.raises(TooManyRequests):
        plan(ledger)
    ledger.plans.act(unmade[0], PlanVerb.CANCEL)
    latest = plan(ledger).id
    with pytest.raises(TooManyRequests):
        ledger.plans.act(unmade[0], PlanVerb.AGAIN)
    ledger.plans.remove(latest)
    ledger.plans.act(unmade[0], PlanVerb.AGAIN)
    plan(ledger, tenant="other")
    ready = update(table).where(table.c.id.in_(unmade[1:])).values(state=PlanState.READY)
    ledger.database.run(lambda c: c.execute(ready))
    values = {name: "{}" for name in ("source", "destination", "options", "limits")}
    rows = [
        {"id": f"{number:036}", "tenant": "acme", "runner": "x", "state": "ready", "created": 1.0}
        for number in range(plans.KEPT)
    ]
    ledger.database.run(lambda c: c.execute(insert(table), [row | values for row in rows]))
    last = plan(ledger)
    mine = select(table.c.id).where(table.c.tenant == "acme").order_by(table.c.number)
    left = ledger.database.run(lambda c: list(c.execute(mine).scalars()), write=False)
    assert (left[0], left[-1], len(left)) == (unmade[0], last.id, plans.KEPT + 1)


def test_the_measured_migration_is_of_the_same_stores(ledger: Ledger, open_ledger: Opened) -> None:
    """With its samples; without any it says nothing."""
    made = plan(ledger, tenant="default")
    id = tree(ledger, 5)
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1, id)])
    assert ledger.plans.find_measured(made) == []
    ledger.live.write_samples({id: Traffic(moved=5)})
    ledger.finish()
    ((found, samples),) = ledger.plans.find_measured(made)
    assert (found.id, samples) == (id, ledger.live.samples(id)) and samples
    assert ledger.plans.find_measured(plan(ledger, tenant="acme")) == []
    elsewhere = replace(TREE, destination="c:photos")
    other = ledger.plans.create(elsewhere, None, tenant="default")
    assert ledger.plans.find_measured(other) == []
    server = open_ledger()  # no page of it shows the migration of a command
    server.access = replace(server.access, worker=replace(server.worker, kind=SERVER))
    assert server.plans.find_measured(made) == []


@pytest.mark.parametrize(
    ("place", "store"),
    [
        ("old:photos/a:b", "old:"),
        ("https://h:8443/a?…", "https://h:8443"),
        ("s3://bucket/key", "s3://bucket"),
        ("/home/x: y", "/"),
        ("list+https://h/a", "list+https://h"),
    ],
)
def test_a_printed_place_names_its_store(place: str, store: str) -> None:
    assert plans.store_of(place) == store


def test_a_migration_of_an_older_relay_is_no_newest_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MEASURED_AMONG", 1)
    made, ids = plan(ledger, tenant="default"), list[str]()
    for _ in range(2):
        ids.append(tree(ledger, 5))
        ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1, ids[-1])])
        ledger.live.write_samples({ids[-1]: Traffic(moved=5)})
        ledger.finish()
    older = update(migrations).where(migrations.c.id == ids[0]).values(ordinal=None)
    ledger.database.run(lambda c: c.execute(older))
    assert [found.id for found, _ in ledger.plans.find_measured(made)] == ids[1:]
