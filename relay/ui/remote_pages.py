"""The remotes: their names, types and endpoints, which secrets are set, and a test of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Response

from relay.api.caller import current_caller
from relay.api.token_limits import check_text, locate_folder_within, may_name
from relay.engine.doctor import Finding, probe_readable, probe_writable
from relay.engine.scratch import ScratchFolder
from relay.errors import InvalidURL, RelayError
from relay.location import Location
from relay.stores.kinds import Remote
from relay.ui.deadlines import call_store_within
from relay.ui.form_fields import read_form, require_choice
from relay.ui.frame import PageFrame
from relay.views.problems import problem
from relay.wire.watchdog import Watchdog

TEST_SECONDS: Final[Mapping[str, float]] = {"read": 15.0, "write": 60.0}
"""Limit of a test of each kind."""
SECRETS: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("access_key_id", "secret_access_key", "session_token"),
    "webdav": ("user", "pass", "bearer_token", "headers"),
    "http": ("user", "pass", "bearer_token", "headers"),
    "sftp": ("user", "pass", "key_file", "key_file_pass", "key_pem"),
}
"""The options of each type that are secrets, or name whose they are."""
_CONNECTION: Final = re.compile(r":?[^,:/]+,")


@dataclass(frozen=True, kw_only=True)
class RemoteCard:
    """A remote as its page shows it: without its secrets."""

    name: str
    type: str
    origin: str
    endpoint: str
    secrets: tuple[tuple[str, str], ...]
    is_spoken: bool
    path: str = ""
    """The folder of the last test."""


def remotes_page(frame: PageFrame) -> Response:
    """Return the remotes. Raises ConfigError for a file that can't be read."""
    return _page(frame, {})


def test_remote(frame: PageFrame) -> Response:
    """Test a remote, and return the remotes with the findings. Raises a RequestError for a wrong
    form; an error of the store is a part of the page."""
    fields = read_form(frame.engine.settings, ("remote", "path", "kind"))
    name, path = fields.get("remote", ""), fields.get("path", "")
    kind = require_choice(fields, "kind", TEST_SECONDS)
    text = f"{name}:{path}"
    check_text(current_caller().limits, text)
    if frame.engine.remotes.find(name) is None:
        raise InvalidURL(f"there is no remote {name[:100]!a}", hint="Load the page again.")
    findings: list[Finding] = []
    error: RelayError | None = None
    try:
        place = locate_folder(frame, text, destination=kind == "write")
        call_store_within(TEST_SECONDS[kind], name, lambda: _examine(frame, place, kind, findings))
    except RelayError as found:
        error = found
    shown = {"tested": name, "tested_place": text, "findings": findings, "path": path}
    return _page(frame, {**shown, "problem": None if error is None else problem(error)})


def locate_folder(frame: PageFrame, text: str, *, destination: bool = False) -> Location:
    """Return the folder that a text means. Raises a RequestError, ConfigError, Forbidden for a
    store that the caller's token may not name, and EgressDenied for a host that the policy
    refuses."""
    limits = current_caller().limits
    place = locate_folder_within(limits, frame.engine.remotes, text, destination=destination)
    if place.host:
        frame.engine.policy.check_name(place.host, place.port)
    return place.folder()


def named_remotes(frame: PageFrame) -> list[Remote]:
    """Return the remotes that the token of this request may name. Raises ConfigError."""
    limits = current_caller().limits
    return [remote for remote in frame.engine.remotes if may_name(limits, remote.name)]


def _examine(frame: PageFrame, place: Location, kind: str, findings: list[Finding]) -> None:
    engine = frame.engine
    scratch = ScratchFolder(engine.stores, place, lambda: Watchdog(engine.limits))
    examination = probe_writable if kind == "write" else probe_readable
    made = examination(scratch)
    try:
        findings.extend(made)
    finally:
        made.close()  # type: ignore[attr-defined]  # a generator: it removes what it wrote


def _page(frame: PageFrame, result: Mapping[str, Any]) -> Response:
    tested = result.get("tested", "")
    cards = [
        _card(remote, frame.engine.remotes.speaks(remote), result.get("path", ""), tested)
        for remote in named_remotes(frame)
    ]
    return frame.page(
        "remotes.html",
        here="remotes",
        remotes=cards,
        tested=tested,
        tested_place=result.get("tested_place", ""),
        findings=result.get("findings", ()),
        problem=result.get("problem"),
    )


def _card(remote: Remote, is_spoken: bool, path: str, tested: str) -> RemoteCard:
    names = SECRETS.get(remote.type, ())
    return RemoteCard(
        name=remote.name,
        type=remote.type,
        origin=remote.origin,
        endpoint=_endpoint(remote),
        secrets=tuple((name, "set" if remote.options.get(name) else "not set") for name in names),
        is_spoken=is_spoken,
        path=path if remote.name == tested else "",
    )


def _endpoint(remote: Remote) -> str:
    """Return a remote's address without a user, a password and a query."""
    options = remote.options
    text = options.get("endpoint") or options.get("url") or options.get("remote") or ""
    if remote.type == "sftp":
        return options.get("host", "")
    # rclone's connection string, as `:s3,secret_access_key=…:bucket`, has options of any kind.
    connection = _CONNECTION.match(text)
    if connection is not None:
        return f"{connection[0]}…"
    if "://" not in text:
        return text.rpartition("@")[2] if remote.type != "alias" else text
    try:
        parts = urlsplit(text)
    except ValueError:
        return "an invalid URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
