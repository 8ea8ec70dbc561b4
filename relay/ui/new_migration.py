"""The form of a new migration: choose both ends, look into folders, plan, start.

Theory of operation. The form works without a script: every button posts the whole form, and the
answer is the form again, with what the button asked for: a folder's entries, or a plan. Only
`start` changes anything. The form carries an Idempotency-Key, so that a form that is sent twice
starts one migration.

Decided here: the steps of the form. Never here: what a request may ask for
(`relay/api/request_bodies.py`)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import gevent
from flask import Response

from relay.api.caller import current_caller
from relay.api.migration_routes import create_migration
from relay.api.request_bodies import parse_order
from relay.api.token_limits import locate_within
from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob, MigrationRequest
from relay.engine.plan import IfExists, Verify
from relay.errors import InvalidHeader, InvalidType, InvalidURL, RelayError
from relay.headers import is_idempotency_key
from relay.stores.interfaces import Entry
from relay.ui import words
from relay.ui.deadlines import within
from relay.ui.figures import count, plural, size
from relay.ui.form_fields import read_form, require_choice
from relay.ui.frame import PageFrame
from relay.ui.remote_pages import locate_folder
from relay.ui.rendering import redirect
from relay.views.dry_runs import plan_members
from relay.views.problems import problem
from relay.wire.watchdog import Watchdog

SIDES: Final = ("source", "destination")
ENTRIES: Final = 500
"""Number of entries of a folder that are shown at once."""
BROWSE_SECONDS: Final = 15.0
PLAN_SECONDS: Final = 45.0
SAMPLE: Final = 100
"""Number of objects that a plan compares on both sides."""
TEXTS: Final = (
    *("source_remote", "source_path", "destination_remote", "destination_path"),
    *("slots", "rate", "key"),
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
    """One level of a folder, as the form shows it. `up` is the path of the folder above, None at
    the top; `further` is how many entries the next answer shows, None if these are all."""

    side: str
    place: str
    path: str
    entries: tuple[Entry, ...]
    up: str | None
    further: int | None


@dataclass(frozen=True, kw_only=True)
class FormAnswer:
    """What a button asked for."""

    browser: Browser | None = None
    plan: tuple[tuple[str, str], ...] = ()
    refused: tuple[Mapping[str, str], ...] = ()
    error: RelayError | None = None
    side: str = ""
    """The side that the error is about, if it is about one."""


def new_page(frame: PageFrame) -> Response:
    """Return the empty form. Raises ConfigError for a file of remotes that can't be read."""
    return _page(frame, {**DEFAULTS, "key": f"page-{uuid.uuid4()}"}, FormAnswer())


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
            return _page(frame, values, _plan(frame, values))
        if button == "browse":
            side, _, path = argument.partition(":")
            return _browse(frame, values, side, path)
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
    members: dict[str, Any] = {
        "source": _text(values, "source"),
        "destination": _text(values, "destination"),
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
    return parse_order({**members, "limits": limits})


def _text(values: Mapping[str, str], side: str) -> str:
    """Return one end as the API takes it: `remote:path`, or a URL."""
    remote, path = values[f"{side}_remote"], values[f"{side}_path"].strip()
    if not remote and not path:
        raise InvalidURL(
            f"the {side} is empty", hint="Choose a remote, or give a URL.", pointer=f"/{side}"
        )
    return f"{remote}:{path}" if remote else path


def _number(text: str, name: str, unit: int) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) >= 1):
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
        found = within(BROWSE_SECONDS, name, lambda: _entries(frame, text, shown + 1))
    except RelayError as error:
        return _page(frame, chosen, FormAnswer(error=error, side=side), error.status)
    here = chosen[f"{side}_path"].strip()
    browser = Browser(
        side=side,
        place=text,
        path=here if not here or here.endswith("/") else f"{here}/",
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


def _plan(frame: PageFrame, values: Mapping[str, str]) -> FormAnswer:
    """Return the dry run of a form: what it found within PLAN_SECONDS. Raises a RequestError, and
    the errors of the source's listing."""
    engine, order = frame.engine, _order(values)
    places = locate_within(current_caller().limits, order, engine.remotes)
    for location in places:
        if location.host:
            engine.policy.check_name(location.host, location.port)
    job = MigrationJob.from_request("plan", order, *places)
    dry_run = DryRun(job, engine.stores, limits=engine.limits, sample=SAMPLE)
    limit = gevent.Timeout(PLAN_SECONDS)
    is_whole = True
    try:
        with limit:
            dry_run.run()
    except gevent.Timeout as fired:
        if fired is not limit:
            raise
        is_whole = False
    members = plan_members(dry_run, dry_run.report)
    return FormAnswer(plan=tuple(_lines(members, is_whole)), refused=tuple(members["names"]))


def _lines(plan: Mapping[str, Any], is_whole: bool) -> list[tuple[str, str]]:
    """Return the plan in words: one name and one text a line."""
    if is_whole and not plan["objects"] and not plan["refused"]:
        return [("Objects", "None: nothing was found in the source. Is its name correct?")]
    so_far = "" if is_whole else f" after {PLAN_SECONDS:g} s; the listing goes on when it starts"
    lines = [("Objects", f"{plural(plan['objects'], 'object')}, {size(plan['bytes'])}{so_far}")]
    if plan["looked"]:
        everything = plan["looked"] == plan["objects"] and is_whole
        sample = "all" if everything else f"a random sample of {count(plan['looked'])}"
        fates = " · ".join(
            f"{words.FATES[fate]} {count(number)}" for fate, number in plan["fates"].items()
        )
        lines.append(("Compared", f"{sample}: {fates}"))
    if plan["refused"]:
        lines.append(("Refused", plural(plan["refused"], "object")))
    if plan["server_copy"]:
        lines.append(("Copied", "by the store itself, if it permits that"))
    if plan["in_parts"]["objects"]:
        parts = plan["in_parts"]
        lines.append(("In parts", f"{plural(parts['objects'], 'object')}, {size(parts['bytes'])}"))
    if plan["unkept"]:
        lines.append(("Metadata", f"{plural(plan['unkept'], 'object')} of these lose metadata"))
    return [*lines, ("Level to expect", str(plan["level"]))]


# -- the form


def _page(
    frame: PageFrame, values: Mapping[str, str], answer: FormAnswer, status: int = 200
) -> Response:
    remotes = frame.engine.remotes
    names = [one.name for one in remotes if remotes.speaks(one)]
    return frame.page(
        "new.html",
        here="new",
        status=status,
        values=values,
        remotes=names,
        sides=(("source", "From"), ("destination", "To")),
        answer=answer,
        problem=None if answer.error is None else problem(answer.error),
    )
