"""`POST /migrate`: check the request, move one object, or hand a migration to the ledger.

Theory of operation. The whole request is read and checked before relay connects to a store. A tree,
and any migration that must outlive its connection, goes to the ledger
(`relay/api/migration_routes.py`). One object is moved in one of two ways:

* JSON (the default): the transfer runs in the request's greenlet, and the answer is its outcome or
  its problem. relay writes nothing to the client meanwhile, so it does not notice a disconnect; the
  transfer continues.
* NDJSON (`Accept: application/x-ndjson`): the transfer runs in a greenlet of its own, and lines of
  progress are written meanwhile. If a line can't be written, the client has disconnected: the
  transfer is cancelled, and leaves nothing at the destination.

Decided here: the two ways. Never here: what a transfer does, how an error looks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import gevent
from flask import Response, g, request

from relay.api.answers import JSON, NDJSON, stream_answer
from relay.api.caller import current_actor, current_caller
from relay.api.ledger_context import LedgerContext
from relay.api.migration_routes import accept, wants_ledger
from relay.api.request_bodies import parse_order
from relay.api.request_parts import members_of_body
from relay.api.token_limits import locate_within, within_limits
from relay.engine.migration_request import MigrationRequest
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Plan
from relay.engine.transfer.context import ObjectHints
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.errors import Cancelled, Overloaded, RelayError
from relay.identity import place_in_server
from relay.ledger.audit_log import Actor
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Spec
from relay.ledger.states import TransferState
from relay.location import Location
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.receipt import State
from relay.tallies import Tallies
from relay.throttle import throttle_of
from relay.views.problems import bug, problem
from relay.views.progress import Rate, progress_of

HintsAt = Callable[[str | None], ObjectHints]
"""Returns the ledger's knowledge about the object at a location; None: not named yet."""
LINE_SECONDS = 0.5
"""Seconds between two lines of progress."""


def migrate_view(
    engine: TransferEngine, works: Callable[[], LedgerContext], *, has_works: bool
) -> Callable[[], Response]:
    """Return the view of `POST /migrate`; `works` returns this process's access to the ledger, if
    it has one."""

    def migrate() -> Response:
        # `render` closes the connection after the refusal of a server that stops.
        g.draining = engine.draining
        if engine.draining:
            raise Overloaded("the server is stopping", retry_after=5.0)
        order = parse_order(members_of_body(engine))
        caller = current_caller()
        if wants_ledger(order) or caller.is_counted:
            return accept(works(), engine, order)
        source, destination = locate_within(caller.limits, order, engine.remotes)
        hints_at = _no_hints
        # With `overwrite` nothing depends on the object that is there, so the ledger is not asked.
        if has_works and order.existing is not IfExists.OVERWRITE:
            spec = order.spec_at(source, destination, engine.remotes)
            hints_at = partial(_hints_at, works().ledger, spec)
        known = hints_at(None)
        transfer = engine.transfer(_plan_of(order, source, destination))
        transfer.known = known
        settles = partial(settle, engine, transfer, hints_at, current_actor())
        transfer.meter.throttle = throttle_of(within_limits(caller.limits, order.bounds))
        g.transfer_id = transfer.id
        # Without a token there is nothing to record but that someone on this machine did it, and
        # one object needs no ledger.
        if has_works and caller.token_id is not None:
            ends = {"source": str(source), "destination": str(destination)}
            works().ledger.audit.note("migrate", f"transfer {transfer.id}", after=ends)
        if request.accept_mimetypes.best_match((JSON, NDJSON), default=JSON) == NDJSON:
            return _stream_lines(transfer, settles)
        return _answer_json(settles)

    return migrate


def _plan_of(order: MigrationRequest, source: Location, destination: Location) -> Plan:
    return Plan(
        source,
        destination,
        verify=order.verify,
        if_exists=order.existing,
        replaces_named=order.replaces_named,
        server_copy=order.server_copy,
        metadata=order.metadata,
        compare=order.compare,
        remotes=order.remote_names(source, destination),
    )


def _no_hints(place: str | None) -> ObjectHints:
    return ObjectHints()


def _hints_at(ledger: Ledger, spec: Spec, place: str | None) -> ObjectHints:
    """Return what the ledger knows about the object at the destination: an unproved one of ours
    does not count as existing. `place` is the object's location, once its source has named it.
    Raises LedgerFailed."""
    left = ledger.destinations.find_unproved(spec, place)
    if left is None:
        return ObjectHints()
    return ObjectHints(begun=True, before=left, remains=left.remains)


def _answer_json(settles: Callable[[], Outcome | RelayError]) -> Response:
    end = settles()
    if isinstance(end, RelayError):
        raise end
    return Response(_line(end.to_json()), mimetype=JSON)


def _stream_lines(transfer: Transfer, settles: Callable[[], Outcome | RelayError]) -> Response:
    job = gevent.spawn(settles)
    gevent.sleep(0)
    if job.ready() and isinstance(job.value, RelayError):
        raise job.value  # it failed at once (no slot): the answer can still have that status

    def cancel_if_running() -> None:
        if not job.ready():
            transfer.cancel(Cancelled("the client disconnected"))

    response = stream_answer(_lines(transfer, job), NDJSON)
    # gunicorn closes the response after its last line, or when a line can't be written.
    response.call_on_close(cancel_if_running)
    return response


def _lines(transfer: Transfer, job: gevent.Greenlet[..., Outcome | RelayError]) -> Iterator[str]:
    rate = Rate()
    yield _line({"event": "progress", **progress_of(transfer, rate)})
    while not job.ready():
        job.join(LINE_SECONDS)
        if not job.ready():
            yield _line({"event": "progress", **progress_of(transfer, rate)})
    end = job.value
    if isinstance(end, Outcome):
        yield _line({"event": "result", **end.to_json()})
    else:
        yield _line({"event": "problem", **problem(end or bug_of(job), transfer.id)})


def bug_of(job: gevent.Greenlet[..., Any]) -> RelayError:
    """Return the error of a greenlet that was killed."""
    return bug(job.exception or RuntimeError("killed"))


def settle(
    engine: TransferEngine, transfer: Transfer, hints_at: HintsAt, actor: Actor
) -> Outcome | RelayError:
    """Run a transfer that `actor` asked for to its end, log the end, and return the outcome or the
    error. Raises nothing."""
    try:
        end: Outcome | RelayError = _run(engine, transfer, hints_at)
    except RelayError as error:
        end = error
    except Exception as error:  # noqa: BLE001 - a bug: logged with its traceback, and answered 500
        end = bug(error, actor.request)
    _log(transfer, end, actor)
    _count(engine.tallies, transfer, end)
    return end


def _count(tallies: Tallies, transfer: Transfer, end: Outcome | RelayError) -> None:
    """Count the end of an object that no worker settles."""
    seconds = transfer.meter.seconds()
    if isinstance(end, RelayError):
        tallies.end_transfer(TransferState.FAILED, None, None, seconds)
        tallies.fail_transfer(end.side, end.code)
    else:
        level = None if end.receipt is None else end.receipt.level.value
        tallies.end_transfer(end.state.value, level, end.bytes, end.seconds)


def _run(engine: TransferEngine, transfer: Transfer, hints_at: HintsAt) -> Outcome:
    """Run a transfer. A skip counts only if no transfer of ours has left the existing object
    unproved, or is sending it: while this one waited for a slot, a migration may have begun, and
    the ledger knows nothing of an object in a folder until its source has named it. Raises as
    TransferEngine.run, LedgerFailed, and Overloaded while another request sends the object."""
    rivals = _find_rivals(engine, transfer)
    outcome = engine.run(transfer)
    if outcome.state is State.SKIPPED and not transfer.known.begun:
        known = hints_at(str(outcome.destination))
        if known.begun:
            transfer.known = known
            outcome = engine.run(transfer)
    if outcome.state is State.SKIPPED:
        place = outcome.destination
        if any(_sends(one, place) for one in rivals | engine.running):
            raise Overloaded(f"another request is sending {place}", retry_after=5.0)
    return outcome


def _sends(transfer: Transfer, place: Location) -> bool:
    """Return whether a transfer has sent the object at a place, however the two are written."""
    if not transfer.has_sent or _name_in(transfer.place) != _name_in(str(place)):
        return False  # as nearly all; the rest of the comparison costs ten times as much
    # The plan of an object that its source names has the folder alone.
    (server, path), (other, there) = map(place_in_server, (place, transfer.plan.destination))
    return server == other and path.rpartition("/")[0] == there.rpartition("/")[0]


def _name_in(printed: str) -> str:
    return unquote(printed.rpartition("/")[2])


def _find_rivals(engine: TransferEngine, transfer: Transfer) -> set[Transfer]:
    """Return the running transfers that may send the object of this one: to the same location, or
    to its folder. Empty where no object is skipped.

    A transfer keeps them until it ends, so they must be few: thousands may run at a time."""
    plan = transfer.plan
    if plan.if_exists is IfExists.OVERWRITE:
        return set()
    here = unquote(plan.destination.path).rstrip("/") + "/"
    rivals: set[Transfer] = set()
    for one in engine.running:
        there = unquote(one.plan.destination.path).rstrip("/") + "/"
        if here.startswith(there) or there.startswith(here):
            rivals.add(one)
    return rivals


def _log(transfer: Transfer, end: Outcome | RelayError, actor: Actor) -> None:
    plan = transfer.plan
    error = end if isinstance(end, RelayError) else None
    arrived = end if isinstance(end, Outcome) else None
    state = TransferState.FAILED.value if arrived is None else arrived.state.value
    emit(
        LogEvent.MIGRATION_ENDED,
        transfer=transfer.id,
        tenant=actor.tenant,
        token=actor.token_id,
        request=actor.request,
        id=transfer.id,
        state=state,
        source=str(plan.source),
        destination=str(plan.destination if arrived is None else arrived.destination),
        bytes=transfer.bytes if arrived is None else arrived.bytes,
        seconds=round(transfer.meter.seconds(), 3),
        attempts=transfer.attempt,
        code=None if error is None else error.code,
        side=None if error is None else error.side,
        detail=None if error is None else error.message,
    )


def _line(members: Mapping[str, Any]) -> str:
    return json.dumps(members) + "\n"
