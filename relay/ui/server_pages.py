"""The settings and the health of this server."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
from flask import Response

from relay import __version__
from relay.api.caller import current_caller
from relay.config import SETTINGS
from relay.errors import LedgerFailed
from relay.ledger.overview import Group
from relay.ledger.schema import HEAD
from relay.ledger.token_values import Scope
from relay.settings_sources import sources_of
from relay.ui.figures import count, duration, size, stamp
from relay.ui.frame import PageFrame
from relay.views.problems import problem
from relay.wire.tls.choice import library_name

MASK: Final = "••••••"
SECRET: Final = frozenset({"token"})
"""Settings whose values are never shown."""
LATE_SECONDS: Final = 0.1
"""Lateness of the hub, or of the ledger's answer, from which it needs a look."""
LEAST_FREE: Final = 1 << 30
"""Free bytes of the ledger's disk below which it needs a look."""
_STARTED: Final = time.time()

Fact = tuple[str, str, bool]
"""A name, a value, and whether it needs a look."""


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """One setting: its value without secrets, where it was set, and its meaning."""

    name: str
    value: str
    source: str
    meaning: str


def settings_page(frame: PageFrame) -> Response:
    """Return every setting of this server."""
    settings = frame.engine.settings
    sources = sources_of(SETTINGS)
    rows = [
        SettingRow(
            name=name,
            value=shown_value(name, getattr(settings, name)),
            source=sources[name],
            meaning=field.description.replace("`", ""),
        )
        for name, field in SETTINGS.items()
    ]
    return frame.page("settings.html", here="settings", settings=rows)


def shown_value(name: str, value: Any) -> str:
    """Return the value of a setting without its secrets."""
    if value is None or value == "":
        return "none"
    if name in SECRET:
        return MASK
    if isinstance(value, Mapping):
        return ", ".join(sorted(value)) or "none"
    text = str(value)
    return _masked_url(text) if "://" in text else text


def _masked_url(text: str) -> str:
    """Return a URL without its password and its query, which may hold one."""
    # The password goes up to the last '@': it may have a '/' or an '@', which some readers of such
    # a URL allow.
    plain = re.sub(r"(?s)(://[^/:]*):.*@", rf"\1:{MASK}@", text)
    address, mark, _ = plain.partition("?")
    return f"{address}?{MASK}" if mark else address


def health_page(frame: PageFrame) -> Response:
    """Return the state of this server process and of its ledger."""
    ledger, found = _ledger_facts(frame)
    error = found or frame.trouble
    process = _process_facts(frame)
    return frame.page(
        "health.html",
        here="health",
        is_bad=any(needs_look for _, _, needs_look in (*process, *ledger)),
        problem=None if error is None else problem(error),
        groups=(("This process", process), ("Ledger", ledger)),
    )


def _process_facts(frame: PageFrame) -> list[Fact]:
    engine, settings = frame.engine, frame.engine.settings
    late = _hub_lateness()
    files = len(os.listdir("/proc/self/fd"))
    return [
        ("Version", f"relay {__version__}, Python {sys.version.split()[0]}", False),
        ("TLS", library_name(settings.tls), False),
        ("Running since", f"{stamp(_STARTED)} ({duration(time.time() - _STARTED)})", False),
        ("Draining", "yes" if engine.draining else "no", engine.draining),
        ("Processes", count(settings.workers), False),
        ("Slots held", f"{count(engine.slots.held)} of {count(settings.slots)}", False),
        ("Waiting for a slot", count(engine.slots.waiting), False),
        ("Hub lateness", f"{late * 1000:.1f} ms", late > LATE_SECONDS),
        ("Memory", size(_resident_bytes()), False),
        ("Payload memory, at most", size(settings.memory_ceiling_bytes()), False),
        ("Open files", count(files), False),
        ("Clock", stamp(time.time()), False),
    ]


def _ledger_facts(frame: PageFrame) -> tuple[list[Fact], LedgerFailed | None]:
    if not frame.has_works:
        return [("State", "this server has no ledger", True)], None
    text = frame.engine.settings.ledger_url()
    facts: list[Fact] = [("Schema", HEAD, False)]
    if Scope.ADMIN in current_caller().scopes:  # as the settings
        facts.insert(0, ("Address", _masked_url(text), False))
    began = time.monotonic()
    try:
        groups = frame.ledger.overview.group_counts(frame.viewer)
    except LedgerFailed as error:
        return [*facts, ("State", error.code, True)], error
    took = time.monotonic() - began
    facts += [
        ("Answers in", f"{took * 1000:.1f} ms", took > LATE_SECONDS),
        ("Migrations", count(groups[Group.ALL]), False),
    ]
    if text.startswith("sqlite"):
        facts += _disk_facts(Path(urlsplit(text).path.removeprefix("/")))
    return facts, None


def _disk_facts(path: Path) -> list[Fact]:
    try:
        found, free = path.stat().st_size, os.statvfs(path)
    except OSError:
        return []
    room = free.f_bavail * free.f_frsize
    return [("File", size(found), False), ("Free on its disk", size(room), room < LEAST_FREE)]


def _hub_lateness() -> float:
    """Return how late the hub runs a timer that is due at once."""
    began = time.monotonic()
    gevent.sleep(0.001)
    return max(0.0, time.monotonic() - began - 0.001)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
