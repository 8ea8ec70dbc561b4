"""Plans: a request of a migration, kept with what was found out about it before anything moves.

Theory of operation. A plan is accepted as a row, so that its client may leave and come back, and
any server process may make it. The worker that makes it is its `owner`: as with the claims of
transfers, a plan whose owner is not registered any longer is free for the next worker. Each claim
has the next fence; what an earlier owner writes then changes nothing. A person may stop a plan,
make it again, delete it, or start its migration once.

Decided here: which plans are kept, and who makes one. Never here: what a plan finds out
(`relay/engine/dry_run.py`)."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from relay.errors import IllegalTransition, PlanUnknown, TooManyRequests
from relay.ledger.endings import KEPT_SECONDS
from relay.ledger.identity_hashes import identity_hashes_of
from relay.ledger.migration_rows import of_kind
from relay.ledger.migration_values import Spec
from relay.ledger.plan_tables import plan_secrets, plans
from relay.ledger.plan_values import PlanClaim, StoredPlan
from relay.ledger.schema import migrations, runners
from relay.ledger.states import PLAN, PlanState, PlanVerb, state_after
from relay.ledger.viewer import EVERYTHING, Viewer
from relay.throttle import Bounds

KEPT: Final = 200
"""Maximum number of a tenant's plans. Beyond it the oldest ones are deleted, except those that
are being made."""
UNMADE: Final = 20
"""Maximum number of a tenant's plans that are being made, or wait for that."""
MADE: Final = 3
"""Maximum number of a tenant's plans that are made at a time: fewer than one process makes, so that
a store that answers slowly does not keep the plans of other tenants waiting."""
LOST: Final = 3
"""Number of workers that may be lost with a plan. It fails then: it may be what ends them."""
MEASURED: Final = 5
"""Maximum number of migrations by whose speed the time of a plan is estimated."""
MEASURED_AMONG: Final = 400
"""Number of the newest migrations among which `find_measured` looks."""
AGAIN_SECONDS: Final = 30.0
"""When a client may ask for a plan again that was refused since too many wait."""
_PLACES: Final = "places"
"""The member of the stored locations that has their keyed hash, as a migration has in a column."""
LEADS_ELSEWHERE: Final = (
    "the source or destination of the plan now leads to another location than when it was accepted"
)
LEADS_ELSEWHERE_HINT: Final = (
    "Plan again from the same form, or restore the settings of its remotes and endpoints."
)
_ID: Final = re.compile(r"[0-9a-f-]{36}")
_PLACE: Final = re.compile(r"[^:/]+:(?://[^/]*)?")
_INSERT: Final = text(
    "INSERT INTO plans (id, tenant, runner, state, source, destination, options, limits, key,"
    " created) VALUES (:id, :tenant, :runner, :state, :source, :destination, :options, :limits,"
    " :key, :created) ON CONFLICT (key) DO NOTHING"
)
_HOLDS_SECRET: Final = (
    plan_secrets.c.locations.like("%?%")
    | plan_secrets.c.locations.like('%"headers": [[%')
    | plans.c.source.ilike("list+%")
)
"""As that of `endings.py`, of a plan."""
_LOST_ERROR: Final = {
    "code": "plan-abandoned",
    "side": "relay",
    "detail": f"the process that made the plan ended {LOST} times",
    "hint": "Read the server's log, and plan again.",
}


def create(
    connection: Connection, spec: Spec, key: str | None, *, runner: str, tenant: str
) -> StoredPlan:
    """Accept a plan of a tenant, for one kind of worker. With a `key`, the same request that was
    sent with it before is the same plan. Raises TooManyRequests if UNMADE plans wait already."""
    hash = None if key is None else _key_hash(tenant, key, spec)
    if hash is not None:
        row = connection.execute(select(plans).where(plans.c.key == hash)).first()
        if row is not None:
            return _plan_of(row)
    _refuse_many(connection, tenant)
    id = str(uuid.uuid4())
    values = {
        "id": id,
        "tenant": tenant,
        "runner": runner,
        "state": PlanState.PLANNING.value,
        "source": spec.source,
        "destination": spec.destination,
        "options": json.dumps(spec.options),
        "limits": json.dumps({"priority": spec.priority, **spec.bounds.to_json()}),
        "key": hash,
        "created": time.time(),
    }
    if not connection.execute(_INSERT, values).rowcount:
        # The same request, sent twice at once, was accepted since this one looked.
        return create(connection, spec, key, runner=runner, tenant=tenant)
    locations = {**spec.secret, _PLACES: identity_hashes_of(connection, spec).places}
    secret = {"plan_id": id, "locations": json.dumps(locations)}
    connection.execute(insert(plan_secrets), secret)
    _delete_oldest(connection, tenant)
    return one(connection, id)


def one(
    connection: Connection, id: str, runner: str | None = None, viewer: Viewer = EVERYTHING
) -> StoredPlan:
    """Return a plan. Raises PlanUnknown, also for one that the viewer does not see or that belongs
    to another kind of worker."""
    row = None
    if _ID.fullmatch(id) is not None:
        query = select(plans).where(plans.c.id == id, *_visible(runner, viewer))
        row = connection.execute(query).first()
    if row is None:
        raise PlanUnknown(f"there is no plan {id[:80]!a}")
    return _plan_of(row)


def newest(
    connection: Connection,
    limit: int,
    before: str | None = None,
    *,
    runner: str | None = None,
    viewer: Viewer = EVERYTHING,
) -> list[StoredPlan]:
    """Return the newest plans that a viewer sees, those behind the plan `before`. Raises
    PlanUnknown, also for one that was deleted since: it no longer has a place among them."""
    query = select(plans).where(*_visible(runner, viewer))
    if before is not None:
        query = query.where(plans.c.number < one(connection, before, runner, viewer).number)
    rows = connection.execute(query.order_by(plans.c.number.desc()).limit(limit))
    return [_plan_of(row) for row in rows]


def secret(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the stored locations and credentials of a plan, or None if it has started, or
    `forget_secrets` has deleted them."""
    stored = _locations(connection, id)
    return None if stored is None else {name: stored[name] for name in stored if name != _PLACES}


def is_at(connection: Connection, plan: StoredPlan, spec: Spec) -> bool:
    """Return whether the locations of a plan are those of `spec`: an alias or an endpoint may lead
    elsewhere since the plan was accepted. Reads only."""
    places = (_locations(connection, plan.id) or {}).get(_PLACES)
    if places is None:  # accepted by an older relay, or forgotten
        return (plan.source, plan.destination) == (spec.source, spec.destination)
    return bool(places == identity_hashes_of(connection, spec).places)


# -- a person's verbs


def act(connection: Connection, id: str, verb: PlanVerb) -> StoredPlan:
    """Stop a plan, or make it again. Idempotent. Raises PlanUnknown, and IllegalTransition, also
    for a plan to make again whose credentials were forgotten; TooManyRequests as `create`."""
    found = lock(connection, id)
    state = state_after(PLAN, verb, found.state)
    if state is None:
        return found
    values: dict[str, Any] = {"state": state, "owner": None, "fence": plans.c.fence + 1}
    if verb is PlanVerb.AGAIN:
        if secret(connection, id) is None:
            raise forgotten()
        _refuse_many(connection, found.tenant)
        values |= {"report": None, "error": None, "ended": None, "lapses": 0}
    else:
        values |= {"ended": time.time()}
    connection.execute(update(plans).where(plans.c.id == id).values(**values))
    return one(connection, id)


def forgotten() -> IllegalTransition:
    """Return the error of a verb that needs the credentials of a plan, which were forgotten."""
    return IllegalTransition(
        "the credentials of the plan were forgotten after it ended",
        hint="Give the credentials again, in a new plan.",
    )


def start(connection: Connection, id: str, migration: str) -> None:
    """Note that a plan has started a migration, and delete its secrets; the caller has locked
    it."""
    found = one(connection, id)
    state = state_after(PLAN, PlanVerb.START, found.state)
    if state is None:
        return
    values = {"state": state, "owner": None, "fence": plans.c.fence + 1, "migration_id": migration}
    connection.execute(update(plans).where(plans.c.id == id).values(**values))
    connection.execute(delete(plan_secrets).where(plan_secrets.c.plan_id == id))


def remove(connection: Connection, id: str) -> None:
    """Delete a plan. One that is gone already is ignored."""
    # As every verb: the plan is locked before its secrets, so that there is no deadlock.
    connection.execute(select(plans.c.id).where(plans.c.id == id).with_for_update())
    connection.execute(delete(plan_secrets).where(plan_secrets.c.plan_id == id))
    connection.execute(delete(plans).where(plans.c.id == id))


def lock(connection: Connection, id: str) -> StoredPlan:
    """Return a plan, and lock its row until this transaction ends. Raises PlanUnknown."""
    connection.execute(select(plans.c.id).where(plans.c.id == id).with_for_update())
    return one(connection, id)


# -- forgotten credentials


def has_forgettable(connection: Connection, now: float) -> bool:
    """Return whether `forget_secrets` has something to delete. Reads only."""
    return connection.execute(_forgettable(now).limit(1)).first() is not None


def forget_secrets(connection: Connection, now: float) -> None:
    """Delete the credentials of the plans that have ended, and were not started for KEPT_SECONDS:
    those of a failed migration are kept as long. A plan that a verb has locked is left for the next
    call."""
    due = _forgettable(now).with_for_update(of=plans, skip_locked=True)
    ids = list(connection.execute(due).scalars())
    connection.execute(delete(plan_secrets).where(plan_secrets.c.plan_id.in_(ids)))


def _forgettable(now: float) -> Select[tuple[str]]:
    ended = (plans.c.state != PlanState.PLANNING) & (plans.c.ended < now - KEPT_SECONDS)
    of = select(plans.c.id).join(plan_secrets, plan_secrets.c.plan_id == plans.c.id)
    return of.where(ended, _HOLDS_SECRET)


# -- the workers


def is_unmade(connection: Connection, runner: str) -> bool:
    """Return whether a plan of this kind of worker is being made, or waits for that. Reads only."""
    query = select(plans.c.number).where(_unmade(runner)).limit(1)
    return connection.execute(query).first() is not None


def claim(connection: Connection, worker: str, runner: str) -> PlanClaim | None:
    """Claim the oldest plan that waits for a worker, or whose worker was lost, of a tenant with
    fewer than MADE others; None without one, and for a worker that is not registered."""
    registered = select(runners.c.id)
    if connection.execute(registered.where(runners.c.id == worker)).first() is None:
        return None
    free = or_(plans.c.owner.is_(None), plans.c.owner.not_in(registered))
    held = select(plans.c.tenant).where(_unmade(runner), plans.c.owner.in_(registered))
    full = held.group_by(plans.c.tenant).having(func.count() >= MADE)
    due = free & plans.c.tenant.not_in(full)
    query = select(plans).where(_unmade(runner), due).order_by(plans.c.number)
    for row in connection.execute(query.limit(KEPT)).all():
        lapses = row.lapses + (row.owner is not None)
        stored = secret(connection, row.id)
        if lapses >= LOST or stored is None:
            values = {"state": PlanState.FAILED, "error": json.dumps(_LOST_ERROR)}
            _change(connection, row.id, row.fence, ended=time.time(), lapses=lapses, **values)
            continue
        if _change(connection, row.id, row.fence, owner=worker, lapses=lapses, fence=row.fence + 1):
            return PlanClaim(plan=one(connection, row.id), fence=row.fence + 1, secret=stored)
    return None


def note(connection: Connection, claim: PlanClaim, report: Mapping[str, Any]) -> bool:
    """Write what a plan has found so far. Returns False if it was stopped, deleted or started, or
    if another worker has claimed it."""
    return _change(connection, claim.plan.id, claim.fence, report=json.dumps(report))


def end(
    connection: Connection,
    claim: PlanClaim,
    report: Mapping[str, Any],
    error: Mapping[str, Any] | None = None,
) -> bool:
    """Write the report of a plan that is ready, or has failed with an error. Returns as `note`."""
    verb = PlanVerb.FINISH if error is None else PlanVerb.FAIL
    values = {
        "state": PLAN[verb].to,
        "report": json.dumps(report),
        "error": None if error is None else json.dumps(error),
        "owner": None,
        "ended": time.time(),
    }
    return _change(connection, claim.plan.id, claim.fence, **values)


def hand_back(connection: Connection, claim: PlanClaim) -> None:
    """Let another worker make a plan, which does not count as a lost one."""
    _change(connection, claim.plan.id, claim.fence, owner=None)


def find_measured(
    connection: Connection, tenant: str, places: tuple[str, str], runner: str | None = None
) -> list[str]:
    """Return the ids of a tenant's newest migrations, of one kind of worker, that have ended and
    went between the stores of two printed places, at most MEASURED."""
    ends = migrations.c.source, migrations.c.destination
    query = select(migrations.c.id, *ends).where(
        migrations.c.tenant == tenant,
        of_kind(runner),
        migrations.c.ended.is_not(None),
        migrations.c.ordinal.is_not(None),  # that of an older relay: PostgreSQL sorts null first
    )
    newest = query.order_by(migrations.c.ordinal.desc()).limit(MEASURED_AMONG)
    pair = store_of(places[0]), store_of(places[1])
    rows = connection.execute(newest)
    found = [row.id for row in rows if (store_of(row.source), store_of(row.destination)) == pair]
    return found[:MEASURED]


def store_of(place: str) -> str:
    """Return the part of a printed place that names its store: the remote, the scheme and the host,
    or the root of this machine's folders."""
    if place.startswith("/"):
        return "/"
    found = _PLACE.match(place)
    return place if found is None else found[0]


# -- rows


def _locations(connection: Connection, id: str) -> dict[str, Any] | None:
    query = select(plan_secrets.c.locations).where(plan_secrets.c.plan_id == id)
    text = connection.execute(query).scalar()
    return None if text is None else dict(json.loads(text))


def _key_hash(tenant: str, key: str, spec: Spec) -> str:
    """Return a hash of a key and of all that was asked for with it."""
    members = [tenant, key, spec.secret, spec.options, spec.priority, spec.bounds.to_json()]
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def _refuse_many(connection: Connection, tenant: str) -> None:
    """Raise TooManyRequests if UNMADE plans of a tenant wait already."""
    unmade = (plans.c.tenant == tenant) & (plans.c.state == PlanState.PLANNING)
    count = connection.execute(select(func.count()).select_from(plans).where(unmade)).scalar_one()
    if count >= UNMADE:
        raise TooManyRequests(
            f"{count} plans are being made already",
            hint="Wait until one is ready, or stop one.",
            retry_after=AGAIN_SECONDS,
        )


def _unmade(runner: str) -> ColumnElement[bool]:
    return (plans.c.state == PlanState.PLANNING) & (plans.c.runner == runner)


def _visible(runner: str | None, viewer: Viewer) -> list[ColumnElement[bool]]:
    conditions = [] if runner is None else [plans.c.runner == runner]
    return conditions if viewer.sees_all else [*conditions, plans.c.tenant == viewer.tenant]


def _change(connection: Connection, id: str, fence: int, /, **values: Any) -> bool:
    """Change a plan that is being made, if the fence is the newest; return whether it was."""
    ours = (plans.c.id == id) & (plans.c.fence == fence) & (plans.c.state == PlanState.PLANNING)
    return bool(connection.execute(update(plans).where(ours).values(**values)).rowcount)


def _delete_oldest(connection: Connection, tenant: str) -> None:
    mine = plans.c.tenant == tenant
    kept = select(plans.c.number).where(mine).order_by(plans.c.number.desc())
    last = connection.execute(kept.offset(KEPT - 1).limit(1)).scalar()
    if last is None:
        return
    surplus = mine & (plans.c.number < last) & (plans.c.state != PlanState.PLANNING)
    of = select(plans.c.id).where(surplus).order_by(plans.c.number).with_for_update()
    ids = list(connection.execute(of).scalars())
    connection.execute(delete(plan_secrets).where(plan_secrets.c.plan_id.in_(ids)))
    connection.execute(delete(plans).where(plans.c.id.in_(ids)))


def _plan_of(row: Row[Any]) -> StoredPlan:
    limits = json.loads(row.limits)
    return StoredPlan(
        id=row.id,
        number=row.number,
        tenant=row.tenant,
        state=PlanState(row.state),
        source=row.source,
        destination=row.destination,
        options=json.loads(row.options),
        priority=limits.pop("priority", 0),
        bounds=Bounds(**limits),
        report=None if row.report is None else json.loads(row.report),
        error=None if row.error is None else json.loads(row.error),
        migration=row.migration_id,
        created=row.created,
        ended=row.ended,
    )
