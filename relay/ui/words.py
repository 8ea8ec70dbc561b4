"""The sentences of the page: every text that a person reads and that no store wrote.

They are here and not in templates, so that the page, and later mail and webhooks, say the same
thing in the same words, and a translation has one place. Numbers come from `figures.py`. Decided
here: the words. Never here: when a sentence is shown, and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.errors import RelayError
from relay.ledger.overview import Group
from relay.ledger.reasons import OTHER, Reason
from relay.ledger.states import (
    UNLISTED,
    MigrationState,
    MigrationVerb,
    PlanState,
    TransferState,
)
from relay.ledger.token_values import Scope
from relay.receipt import Level
from relay.ui.figures import count, duration, plural, short_duration
from relay.views.time_left import TimeLeft

LANGUAGE: Final = "en"
DIRECTION: Final = "ltr"

NO_TOKENS: Final = "No tokens: whoever uses this computer may do everything."
SEND_AGAIN: Final = "Press the button again to send these values as well."
SIGN_IN: Final = "Paste a relay token. Your browser gets a session for 12 hours."
COPY_NOW: Final = "Copy it now: relay keeps only its hash."
NO_TOKEN_YET: Final = "No tokens yet."
FIRST_TOKEN: Final = "As soon as there is a token, every request needs one, and so does this page."
ROTATED: Final = (
    "A value that is replaced stays valid for 24 hours, or until the next one is replaced as well."
)
ROTATED_SINCE: Final = "the token has got another value since this page was made"
ROTATE_AGAIN: Final = (
    "If that value is lost, press New value once more: the one before it, which your programs may"
    " still use, ends then."
)
SCOPES: Final[Mapping[str, str]] = {
    Scope.READ: "read: look",
    Scope.SUBMIT: "submit: also start and steer",
    Scope.ADMIN: "admin: everything, every tenant",
}
"""What a token may do."""
SKIP: Final = "Skip to the content"
NO_MIGRATIONS: Final = "No migrations yet. Start one, or run relay submit -r SRC DST."
THE_OBJECT: Final = "the object"
NO_PAGE: Final = "There is no such page"
LOOK_IN_LIST: Final = "The list has every migration."
DRAINING: Final = "This server restarts; migrations go on afterwards."
RECONNECTING: Final = "Connection lost {ago} ago. Values are from {at}. Trying again."
POLLING: Final = "Live updates are not available here. Refreshing every 10 s."
NO_PLANS: Final = "No plans. A new migration may be planned first."
PLAN_WAITS: Final = "Nothing found yet."
NOTHING_TO_PLAN: Final = "Nothing was found in the source. Is its name correct?"
COME_BACK: Final = "You may leave this page and come back: the plan is in the list of plans."
NOTHING_WRITTEN: Final = "Nothing has been written."
TIME_UNKNOWN: Final = "time unknown until something has moved between these stores"
LOADING: Final = "Loading samples..."
ONLY_LOOK: Final = "Your token may look, not change."
CONFIRM_LEGEND: Final = "What has arrived stays."
TOO_SLOW: Final = "{name}: did not answer within {seconds} s."

STATES: Final[Mapping[str, str]] = {
    MigrationState.RUNNING: "Running",
    MigrationState.PAUSED: "Paused",
    MigrationState.SUCCEEDED: "Succeeded",
    MigrationState.PARTIAL: "Partial",
    MigrationState.FAILED: "Failed",
    MigrationState.CANCELLED: "Cancelled",
}
"""The states of a migration."""

OBJECT_STATES: Final[Mapping[str, str]] = {
    TransferState.QUEUED: "Queued",
    TransferState.RUNNING: "Moving",
    TransferState.VERIFIED: "Verified",
    TransferState.UNVERIFIED: "Unverified",
    TransferState.SKIPPED: "Skipped",
    TransferState.FAILED: "Failed",
    TransferState.CANCELLED: "Cancelled",
}
"""The states of an object."""

SIGNS: Final[Mapping[str, str]] = {
    MigrationState.RUNNING: "▶",
    MigrationState.PAUSED: "❚❚",
    MigrationState.SUCCEEDED: "✓",
    MigrationState.PARTIAL: "◐",
    MigrationState.FAILED: "✕",
    MigrationState.CANCELLED: "⊘",
    TransferState.QUEUED: "·",
    TransferState.VERIFIED: "✓",
    TransferState.UNVERIFIED: "?",
    TransferState.SKIPPED: "=",
}
"""A sign beside each state's word, so that color alone never carries a meaning."""

GROUPS: Final[Mapping[Group, str]] = {
    Group.ALL: "All",
    Group.RUNNING: "Running",
    Group.PAUSED: "Paused",
    Group.NEEDS_YOU: "Needs you",
    Group.ENDED: "Ended",
}
"""The groups of the list, in the order of its tabs."""

_NO_HIT: Final[Mapping[Group, str]] = {
    Group.RUNNING: "is running",
    Group.PAUSED: "is paused",
    Group.NEEDS_YOU: "needs you",
    Group.ENDED: "has ended",
}

VERBS: Final[Mapping[str, str]] = {
    MigrationVerb.PAUSE: "Pause",
    MigrationVerb.RESUME: "Resume",
    MigrationVerb.CANCEL: "Cancel...",
    MigrationVerb.RETRY: "Retry",
}
"""The buttons of a migration."""

ACKNOWLEDGE: Final = "Acknowledge"
"""The button that takes an ended migration from those that need a person."""

OFFERED: Final[Mapping[str, tuple[str, ...]]] = {
    MigrationState.RUNNING: (MigrationVerb.PAUSE, MigrationVerb.CANCEL),
    MigrationState.PAUSED: (MigrationVerb.RESUME, MigrationVerb.CANCEL),
    MigrationState.SUCCEEDED: (),
    MigrationState.PARTIAL: (MigrationVerb.RETRY, MigrationVerb.CANCEL),
    MigrationState.FAILED: (MigrationVerb.RETRY, MigrationVerb.CANCEL),
    MigrationState.CANCELLED: (MigrationVerb.RETRY,),
}
"""The buttons that each state has."""

LEVELS: Final[Mapping[str, str]] = {
    Level.READ_BACK.value: "every byte was read back after the upload",
    Level.WHOLE_DIGEST.value: "the store's own digest of the object is equal",
    Level.PART_DIGESTS.value: "the store checked a digest of every part",
    Level.SIZE.value: "only sizes are equal (unverified)",
}
"""The meanings of the levels of proof."""

IF_EXISTS: Final[Mapping[str, str]] = {
    "changed": "overwrite what differs",
    "skip": "skip",
    "fail": "fail",
    "overwrite": "overwrite always",
}
"""The choices of "If it exists"."""

FILTERS: Final = (
    "one rule a line: “+ *.jpg” includes, “- *.tmp” excludes; the first that matches decides"
)
"""What the field of filters takes."""

NO_SERVER_COPY: Final = "through relay, never by the store itself"
STRICT: Final = "strict: an object that loses some fails"
"""Options of a migration that the form does not have."""

PROOFS: Final[Mapping[str, str]] = {
    "auto": "auto: the strongest proof that the stores can give",
    "read_back": "read_back: read every object back",
    "size": "size: compare sizes only (unverified)",
}
"""The choices of "Proof"."""

DECISIONS: Final[Mapping[str, str]] = {
    "copy": "copy",
    "replace": "overwrite",
    "skip": "there already",
    "unknown": "not known before the copy",
    "refuse": "refused",
}
"""What becomes of the objects of a plan."""

PLAN_STATES: Final[Mapping[str, str]] = {
    PlanState.PLANNING: "Planning",
    PlanState.READY: "Ready",
    PlanState.FAILED: "Failed",
    PlanState.CANCELLED: "Stopped",
    PlanState.STARTED: "Started",
}
"""The states of a plan."""

GIVE_AGAIN: Final = "Give the {side} again: its address may have a secret, which no page shows."
"""The sentence about a side that the form of a changed plan leaves empty."""

LEFT_OUT: Final = (
    "This form has less than the plan, and may leave out or change: {names}. POST /plans of the API"
    " takes all of them."
)
"""The sentence about the members of a plan that its changed form does not have."""

REPORT_IS_WIDER: Final = (
    "The reports are not filtered by proof and name: they have every object of the state and the"
    " reason."
)
"""Beside the links to the reports, while such a filter is set."""

NAME_NOT_SENT: Final = "its name has characters that no form can send"
"""Beside a folder that has no button, since its path would not come back as it is."""

PLACES: Final[Mapping[str, str]] = {
    "source": "the source",
    "destination": "the destination",
    "relay": "relay",
    "request": "the request",
}
"""The sides of an error."""

PHASES: Final[Mapping[str, str]] = {
    "waiting": "waiting",
    "opening": "opening",
    "copying": "the store copies it",
    "piping": "moving",
    "verifying": "verifying",
    "settled": "done",
}
"""What a transfer does at the moment."""

_NEEDS: Final[Mapping[str, str]] = {
    "store-unauthenticated": "The {side} does not accept the credentials any more.",
    "store-credentials-withdrawn": "The {side} does not accept the credentials any more.",
    "store-full": "The {side} is full.",
}

KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("g m", "go to the migrations"),
    ("n", "start a new migration"),
    ("j / k", "next / previous migration"),
    ("p", "pause or resume this migration"),
    ("?", "show these keys"),
)
"""The keys that the script knows."""


def nothing_found(group: Group, text: str, total: int) -> str:
    """Return the sentence of an empty list: none of all migrations is in the group, or matches."""
    if not total:
        return NO_MIGRATIONS
    if text:
        return f"None of {plural(total, 'migration')} matches “{text}”."
    return f"None of {plural(total, 'migration')} {_NO_HIT[group]}."


def listing_so_far(objects: int, state: str = MigrationState.RUNNING) -> str:
    """Return what stands in place of per cent until the source is listed."""
    text = f"{plural(objects, 'object')} so far"
    return f"{'Still listing' if state == MigrationState.RUNNING else 'Not all listed'}: {text}"


def is_listing(listing: str) -> bool:
    """Return whether a source is still listed, so that the number of all objects is unknown."""
    return listing in UNLISTED


def pausing(state: str, under_way: int) -> str:
    """Return what becomes of the running transfers after a pause or a cancel."""
    verb = "Pausing" if state == MigrationState.PAUSED else "Cancelling"
    if under_way:
        stop = "stops" if under_way == 1 else "stop"
        return f"{verb}: {plural(under_way, 'transfer')} {stop}."
    return f"{STATES[state]}. Nothing is under way."


def time_left(seconds: float) -> str:
    """Return the estimate of the time left: 3 h 10 min left."""
    return f"{duration(seconds)} left"


def time_left_within(left: TimeLeft) -> str:
    """Return the estimate with its range, and what it assumes."""
    ends = [short_duration(left.low), short_duration(left.high)]
    within = f" ({ends[0]} - {ends[1]})" if ends[0] != ends[1] else ""
    return f"about {time_left(left.seconds)}{within}, if the last 5 minutes are typical"


def measured_by(migration: str, low: str, high: str) -> str:
    """Return the range of an estimated time, and the migration that it was measured by."""
    return f"{low} to {high}, by the speed of migration #{migration}"


def retry_of_listing(retry: Mapping[str, Any]) -> str:
    """Return why the listing of a plan is retried."""
    return f"The listing is retried: {retry['detail']}"


def read_back_at(rate: str) -> str:
    """Return the rate of the reading back: 10.3 MB/s read back."""
    return f"{rate} read back"


def part_of(part: int, parts: int) -> str:
    """Return the place of a part: part 40 of 56."""
    return f"part {count(part)} of {count(parts)}"


def attempt(number: int) -> str:
    """Return the number of an attempt: attempt 2."""
    return f"attempt {count(number)}"


def no_byte_moved(seconds: float) -> str:
    """Return that nothing moves."""
    return f"No byte moved for {duration(seconds)}"


def needs_you(error: Mapping[str, Any]) -> str:
    """Return the reason for which relay paused a migration, or could not end it."""
    template = _NEEDS.get(str(error.get("code")))
    if template is not None:
        return template.format(side=error.get("side", "store"))
    return f"{reason_title(str(error.get('code', '')))}."


def reason_of(reason: Reason) -> str:
    """Return a reason of failures in words, with the status of the store's answer."""
    title = reason_title(reason.code, reason.side)
    return title if reason.status is None else f"{title} ({reason.status})"


def reason_title(code: str, side: str = "") -> str:
    """Return a code of an error in words, with its side: "The store denied permission, at the
    source"."""
    kind = RelayError.class_of(code)
    if code == OTHER:
        return "Other reasons"
    title = kind.title if kind is not None else code or "The reason is unknown"
    return f"{title}, at {PLACES[side]}" if side in ("source", "destination") else title


def confirm_cancel(number: str, uploads: int) -> str:
    """Return the question before a cancel."""
    removed = {0: "", 1: " 1 unfinished upload is removed."}.get(
        uploads, f" {count(uploads)} unfinished uploads are removed."
    )
    return f"Cancel #{number}? {CONFIRM_LEGEND}{removed}"


def revoke(name: str) -> str:
    """Return the question before a token is revoked."""
    return f"Revoke {name}? Within five seconds no server accepts it. Its migrations go on."


def outcome(objects: Mapping[str, int]) -> str:
    """Return the objects of an ended migration by state: 18,204 verified, 3 failed."""
    return ", ".join(
        f"{count(objects[state])} {OBJECT_STATES[state].lower()}"
        for state in TransferState
        if objects.get(state)
    )


def spoken_progress(share: int, left: str) -> str:
    """Return the value of a progress bar for a screen reader: 71 per cent, 3 h 10 min left."""
    return f"{share} per cent, {left}" if left else f"{share} per cent"


def slow_store(name: str, seconds: float) -> str:
    """Return that a store did not answer in time."""
    return TOO_SLOW.format(name=name, seconds=f"{seconds:g}")


def ledger_away(since: str, code: str) -> str:
    """Return that the ledger does not answer."""
    return (
        f"The ledger does not answer since {since} ({code}). Transfers under way go on; nothing new"
        " starts."
    )
