"""The form of a new migration: choose both ends, look into folders, plan, start.

Theory of operation. The form works without a script: every button posts the whole form, and the
answer is the form again, with what the button asked for: a folder's entries. `plan` leads to a plan
(`plan_screen.py`), which a worker makes, and `start` to a migration. The form carries an
Idempotency-Key, so that a form that is sent twice makes one plan, or starts one migration.

Decided here: the steps of the form. Never here: what a request may ask for
(`relay/api/request_bodies.py`)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from flask import Response, request

from relay.api.migration_routes import create_migration
from relay.api.plan_routes import accept_plan
from relay.api.request_bodies import parse_order
from relay.engine.migration_request import MigrationRequest
from relay.engine.plan import IfExists, Verify
from relay.errors import InvalidHeader, InvalidType, InvalidURL, KeyReused, RelayError
from relay.filters.rule_lines import lines_of, significant_lines
from relay.headers import is_idempotency_key
from relay.ledger.plan_values import StoredPlan
from relay.stores.interfaces import Entry
from relay.ui import words
from relay.ui.deadlines import call_store_within
from relay.ui.form_fields import read_form, require_choice
from relay.ui.frame import PageFrame
from relay.ui.plan_screen import plan_rows
from relay.ui.printable import is_sent_exactly
from relay.ui.remote_pages import locate_folder, named_remotes
from relay.ui.rendering import redirect
from relay.views.problems import problem
from relay.wire.watchdog import Watchdog

SIDES: Final = ("source", "destination")
PLANS: Final = 5
"""Number of plans below the form."""
ENTRIES: Final = 500
"""Number of entries of a folder that are shown at once."""
BROWSE_SECONDS: Final = 15.0
TEXTS: Final = (
    *("source_remote", "source_path", "destination_remote", "destination_path"),
    *("slots", "rate", "key", "filters"),
)
FIELDS: Final = frozenset({*TEXTS, "do", "tree", "if_exists", "verify", "shown"})
"""Every field of the form."""
DEFAULTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(TEXTS, ""),
    "tree": "1",
    "if_exists": IfExists.CHANGED.value,
    "verify": Verify.AUTO.value,
}


@dataclass(frozen=True, kw_only=True)
class Browser:
    """One level of a folder, as the form shows it. `is_url` is whether its path is a URL; `up` is
    the path of the folder above, None at the top; `further` is how many entries the next answer
    shows, None if these are all."""

    side: str
    place: str
    path: str
    is_url: bool
    entries: tuple[Entry, ...]
    up: str | None
    further: int | None

    def path_of(self, entry: Entry) -> str | None:
        """Return the path of an entry; None if a form can't send it back."""
        name = quote(entry.name, errors="surrogateescape") if self.is_url else entry.name
        return f"{self.path}{name}" if is_sent_exactly(name) else None


@dataclass(frozen=True, kw_only=True)
class FormAnswer:
    """What a button asked for."""

    browser: Browser | None = None
    error: RelayError | None = None
    side: str = ""
    """The side that the error is about, if it is about one."""
    unshown: tuple[str, ...] = ()
    """The sides of a plan that the form does not repeat, since they may have secrets."""
    left_out: tuple[str, ...] = ()
    """The members of a plan's request that the form does not repeat, since it has no field."""


def new_page(frame: PageFrame) -> Response:
    """Return the empty form, or that of a plan which is to be changed. Raises ConfigError for a
    file of remotes that can't be read, PlanUnknown, LedgerFailed."""
    values = {**DEFAULTS, "key": f"page-{uuid.uuid4()}"}
    id = request.args.get("plan")
    if id is None:
        return _page(frame, values, FormAnswer())
    plan = frame.ledger.plans.one(id, frame.viewer)
    secret = frame.ledger.plans.secret(plan.id)
    values |= form_of_plan(plan, secret, _remote_names(frame))
    answer = FormAnswer(
        unshown=tuple(
            side for side in SIDES if not values[f"{side}_remote"] and not values[f"{side}_path"]
        ),
        left_out=members_left_out(plan, secret, values),
    )
    return _page(frame, values, answer)


def form_of_plan(
    plan: StoredPlan, secret: Mapping[str, Any] | None, remotes: Sequence[str]
) -> dict[str, str]:
    """Return the values of the form that asks for the same as a plan. A place that is not a remote,
    and that is printed otherwise than it was given, may have a secret: it stays empty."""
    values = {
        "tree": "1" if plan.recursive else "",
        "if_exists": str(plan.options["if_exists"]),
        "verify": str(plan.options["verify"]),
        "slots": "" if plan.bounds.slots is None else str(plan.bounds.slots),
        "rate": _megabytes(plan.bounds.bytes_per_second),
        "filters": _rules_of(plan),
    }
    for side, printed in (("source", plan.source), ("destination", plan.destination)):
        given = printed if secret is None else str(secret[side]["text"])
        name, colon, path = given.partition(":")
        is_remote = bool(colon) and name in remotes
        is_plain = name == "file" or given.rstrip("/") == printed.rstrip("/")
        is_plain = is_plain and not given.endswith("?…")  # printed, of forgotten secrets
        values[f"{side}_remote"] = name if is_remote else ""
        values[f"{side}_path"] = path if is_remote else given if is_plain else ""
    return values


def members_left_out(
    plan: StoredPlan, secret: Mapping[str, Any] | None, values: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the members of a plan's request that the form with these `values` leaves out or sends
    otherwise. The API takes more of them than the form has."""
    sent = parse_order({**dict.fromkeys(SIDES, "/"), **_choices(values)})
    planned, limits = plan.options, plan.bounds.set_limits()
    every = {*planned, *sent.options}
    names = {name for name in every if planned.get(name) != sent.options.get(name)}
    if "replaces_named" in names:  # not a member: whether the request has `if_exists`
        names = names - {"replaces_named"} | {"if_exists"}
    kept = sent.bounds.set_limits().items()
    names |= {f"limits.{name}" for name, most in limits.items() if (name, most) not in kept}
    if plan.priority:
        names.add("priority")
    # What was forgotten had a signature or a header.
    ends = {side: {"headers": True} if secret is None else secret[side] for side in SIDES}
    names |= {f"{side}.headers" for side, end in ends.items() if end["headers"]}
    if ends["destination"].get("method") == "POST":
        names.add("destination.method")
    return tuple(sorted(names))


def _rules_of(plan: StoredPlan) -> str:
    """Return the rules of a plan's filters, one a line; '' if the form can't send them, or not all
    of the filters are rules."""
    filters = dict(plan.options.get("filters", {}))
    rules = filters.pop("filter", [])
    text = "\n".join(rules)
    is_sent = significant_lines(lines_of(text)) == rules and all(map(is_sent_exactly, rules))
    return text if is_sent and not filters else ""


def _megabytes(rate: int | None) -> str:
    return "" if rate is None else str(max(1, rate // 1_000_000))


def post_form(frame: PageFrame) -> Response:
    """Carry out the button of a form. Raises a RequestError for a form that the page would not
    send, and LedgerFailed; a wrong value is shown in the form."""
    fields = read_form(frame.engine.settings, FIELDS)
    # A browser does not send the unchecked box of a tree.
    values = {**DEFAULTS, "tree": "", **fields}
    if not is_idempotency_key(values["key"]):
        raise InvalidHeader("the form has no valid key", hint="Load the form again.")
    button, _, argument = fields.get("do", "").partition(":")
    try:
        if button in ("start", "start-paused"):
            return _start(frame, values, paused=button == "start-paused")
        if button == "plan":
            return _plan(frame, values)
        if button == "browse":
            side, _, path = argument.partition(":")
            return _browse(frame, values, side, path)
    except KeyReused:
        fresh = {**values, "key": f"page-{uuid.uuid4()}"}
        error = KeyReused("this form was already sent with other values", hint=words.SEND_AGAIN)
        return _page(frame, fresh, FormAnswer(error=error), error.status)
    except RelayError as error:
        if error.status >= 500 and error.side == "relay":
            raise
        pointer = (error.pointer or "").strip("/").partition("/")[0]
        side = pointer if pointer in SIDES else ""
        return _page(frame, values, FormAnswer(error=error, side=side), error.status)
    raise InvalidType(f"{button[:40]!a} is not a button of this form", hint="Load it again.")


# -- start


def _start(frame: PageFrame, values: Mapping[str, str], *, paused: bool) -> Response:
    order = replace(_order(values), paused=paused)
    migration = create_migration(frame.works(), frame.engine, order, values["key"])
    return redirect(f"migrations/{migration.name}")


def _order(values: Mapping[str, str]) -> MigrationRequest:
    """Return the request of a form. Raises a RequestError, whose pointer names a side."""
    return parse_order({**{side: _text(values, side) for side in SIDES}, **_choices(values)})


def _choices(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the members of a request besides its sides. Raises a RequestError."""
    members: dict[str, Any] = {
        "recursive": bool(values["tree"]),
        "if_exists": require_choice(values, "if_exists", words.IF_EXISTS),
        "verify": require_choice(values, "verify", words.PROOFS),
    }
    limits = {
        name: number
        for name, number in (
            ("slots", _number(values["slots"], "Slots", 1)),
            ("bytes_per_second", _number(values["rate"], "MB/s", 1_000_000)),
        )
        if number is not None
    }
    rules = significant_lines(lines_of(values["filters"]))
    filters = {"filters": {"filter_from": rules}} if rules else {}
    return {**members, "limits": limits, **filters}


def _text(values: Mapping[str, str], side: str) -> str:
    """Return one end as the API takes it: `remote:path`, or a URL."""
    remote, path = values[f"{side}_remote"], _path(values, side)
    if not remote and not path:
        raise InvalidURL(
            f"the {side} is empty", hint="Choose a remote, or give a URL.", pointer=f"/{side}"
        )
    return f"{remote}:{path}" if remote else path


def _path(values: Mapping[str, str], side: str) -> str:
    """Return the path of a form. The name of a folder of a remote may begin with a space."""
    path = values[f"{side}_path"]
    return path if values[f"{side}_remote"] else path.strip()


def _number(text: str, name: str, unit: int) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) >= 1):
        raise InvalidType(
            f"{name} is not a whole number from 1 on", hint="Leave it empty for no limit."
        )
    return int(text) * unit


# -- browse


def _browse(frame: PageFrame, values: Mapping[str, str], side: str, path: str) -> Response:
    """FormAnswer with one level of a folder; `path` is the chosen one, '' the one in the form."""
    if side not in SIDES:
        raise InvalidType("the form names no side to browse", hint="Load it again.")
    chosen = {**values, f"{side}_path": path} if path else dict(values)
    text = _text(chosen, side)
    name = chosen[f"{side}_remote"] or text
    shown = _entry_limit(values.get("shown", ""))
    try:
        found = call_store_within(BROWSE_SECONDS, name, lambda: _entries(frame, text, shown + 1))
    except RelayError as error:
        return _page(frame, chosen, FormAnswer(error=error, side=side), error.status)
    here = _path(chosen, side)
    browser = Browser(
        side=side,
        place=text,
        path=here if not here or here.endswith("/") else f"{here}/",
        is_url=not chosen[f"{side}_remote"],
        entries=tuple(found[:shown]),
        up=_above(here),
        further=shown + ENTRIES if len(found) > shown else None,
    )
    return _page(frame, chosen, FormAnswer(browser=browser))


def _entries(frame: PageFrame, text: str, most: int) -> list[Entry]:
    place = locate_folder(frame, text)
    store = frame.engine.stores.source(place, Watchdog(frame.engine.limits))
    return list(islice(store.list(place, False), most))


def _entry_limit(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) < 6
    return max(ENTRIES, min(int(text), 20 * ENTRIES)) if is_number else ENTRIES


def _above(path: str) -> str | None:
    """Return the path of the folder above; a bucket's parent is the list of buckets, which no store
    of relay has."""
    head, slash, _ = path.rstrip("/").rpartition("/")
    return f"{head}/" if slash and head and not head.endswith(":/") else None


# -- plan


def _plan(frame: PageFrame, values: Mapping[str, str]) -> Response:
    """Accept a plan of the form, and lead to it."""
    plan = accept_plan(frame.works(), frame.engine, _order(values), values["key"])
    return redirect(f"plans/{plan.id}")


# -- the form


def _page(
    frame: PageFrame, values: Mapping[str, str], answer: FormAnswer, status: int = 200
) -> Response:
    return frame.page(
        "new.html",
        here="new",
        status=status,
        values=values,
        remotes=_remote_names(frame),
        sides=(("source", "From"), ("destination", "To")),
        answer=answer,
        plans=plan_rows(frame.ledger.plans.newest(PLANS, frame.viewer)) if frame.has_works else (),
        problem=None if answer.error is None else problem(answer.error),
    )


def _remote_names(frame: PageFrame) -> list[str]:
    speaks = frame.engine.remotes.speaks
    return [one.name for one in named_remotes(frame) if speaks(one)]
