"""Every event of the log: its level, its members, and how many lines of it there may be.

Decided here: what a line may contain. A member that is not in the event's row never reaches a line
(`line_formats.py`), and no member is for secrets. Never here: where an event happens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LOGGER: Final = "relay"
"""The name of relay's logger."""


class LogFormat(StrEnum):
    """How lines are written."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The lowest level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The level as a number of the module `logging`."""
        return logging.getLevelNamesMapping()[self.value.upper()]


class LogEvent(StrEnum):
    """The events. A name is never changed: programs compare it."""

    SERVER_STARTED = "server.started"
    SERVER_DRAINING = "server.draining"
    SERVER_STOPPED = "server.stopped"
    WORKER_ENDED = "worker.ended"
    WORKER_TIMEOUT = "worker.timeout"
    SETTINGS_UNSAFE = "settings.unsafe"
    SETTINGS_UNAVAILABLE = "settings.unavailable"
    MIGRATION_ACCEPTED = "migration.accepted"
    MIGRATION_PAUSED = "migration.paused"
    MIGRATION_RESUMED = "migration.resumed"
    MIGRATION_CANCELLED = "migration.cancelled"
    MIGRATION_RETRIED = "migration.retried"
    MIGRATION_LIMITED = "migration.limited"
    MIGRATION_ACKNOWLEDGED = "migration.acknowledged"
    MIGRATION_ENDED = "migration.ended"
    LISTING_DONE = "listing.done"
    LISTING_FAILED = "listing.failed"
    TRANSFER_FAILED = "transfer.failed"
    TRANSFER_SETTLED = "transfer.settled"
    TRANSFER_QUARANTINED = "transfer.quarantined"
    INTEGRITY_MISMATCH = "integrity.mismatch"
    STORE_THROTTLED = "store.throttled"
    STORE_RECOVERED = "store.recovered"
    RUNNER_LOST = "runner.lost"
    PART_HELP_FAILED = "part_help.failed"
    ORPHAN_REMOVED = "orphan.removed"
    ORPHAN_CLEANUP_FAILED = "orphan.cleanup_failed"
    LEDGER_FAILED = "ledger.failed"
    LEDGER_BACK = "ledger.back"
    LEDGER_UNAVAILABLE = "ledger.unavailable"
    CLOCK_ADJUSTED = "clock.adjusted"
    HUB_BLOCKED = "hub.blocked"
    REQUEST_REFUSED = "request.refused"
    AUTH_FAILED = "auth.failed"
    CSRF_REFUSED = "csrf.refused"
    SESSION_STARTED = "session.started"
    SESSION_ENDED = "session.ended"
    SESSION_USE_UNKNOWN = "session.use.unknown"
    TOKEN_CREATED = "token.created"
    TOKEN_LIMITED = "token.limited"
    TOKEN_ROTATED = "token.rotated"
    TOKEN_REVOKED = "token.revoked"
    TOKEN_FORGOTTEN = "token.forgotten"
    TOKEN_USE_UNKNOWN = "token.use.unknown"
    METRICS_MANY_FILES = "metrics.many_files"
    ERROR_UNEXPECTED = "error.unexpected"
    LIBRARY_LOGGED = "library.logged"
    LINES_LEFT_OUT = "lines.left_out"


ALWAYS: Final = ("time", "level", "event", "pid")
"""Members of every line."""
COMMON: Final[Mapping[str, str]] = {
    "migration": "The migration's id.",
    "number": "Its number among those of its tenant.",
    "transfer": "The object's id: that of `/migrations/{id}/transfers`, or of a single request.",
    "tenant": "The tenant.",
    "token": "The id of the caller's token, never its value.",
    "request": "The request's id, which the `instance` of a problem ends with.",
}
"""Members of any line that concerns one. These, and every other member, are left out where the
value is not known."""

MEMBERS: Final[Mapping[str, str]] = {
    "address": "Address of the client.",
    "allowed": "Concurrent requests that relay permits itself now.",
    "answers": "Answers 429 or 503 since the last such line.",
    "at": "File and line of the call.",
    "attempts": "Number of attempts.",
    "bind": "The addresses of the server.",
    "bytes": "Number of bytes.",
    "change": "The limits after the change.",
    "claims": "Number of objects that its claims held.",
    "code": "The code of the error.",
    "count": "Number of lines that were left out.",
    "destination": "The destination, without query and credentials.",
    "detail": "The error in a sentence.",
    "entries": "Number of objects that were listed.",
    "error": "The error: of a migration its members, else the name of its type.",
    "files": "Number of files.",
    "hint": "What a person can do.",
    "id": "The id of the migration, or of the transfer of a single request.",
    "levels": "Number of objects by level of proof.",
    "logger": "The library's logger.",
    "name": "The object's name.",
    "objects": "Number of objects, for a migration by state.",
    "of": "The event of the lines that were left out.",
    "pages": "Number of pages that were written into the ledger.",
    "proof": "The level that was proved.",
    "reason": "The reason: the code of an error, or the group of failures.",
    "remote": "The remote's name, or the kind of the store.",
    "route": "The route's template.",
    "schema": "The version of the ledger's tables.",
    "seconds": "Duration in seconds.",
    "setting": "The setting's name.",
    "side": "`source`, `destination`, `request` or `relay`.",
    "source": "The source, without query and credentials.",
    "state": "The state at the end.",
    "status": "The HTTP status.",
    "times": "How often it happened since the last such line.",
    "traceback": "Types and places of the exception and its causes, never their text.",
    "version": "relay's version.",
    "wanted": "Concurrent requests that were under way.",
    "what": "The token's name.",
    "who": "The name of the caller's token, or `local`.",
    "why": "The reason in a sentence.",
    "worker": "The worker's process id.",
    "workers": "Number of workers.",
}
"""Every other member, with its meaning."""


@dataclass(frozen=True, kw_only=True)
class LineBound:
    """How many lines there may be: `most` in `seconds`, for each value of the members `each`, in
    all workers together.

    Further ones are counted. The counts by the member `by` follow as lines `lines.left_out`, or,
    with `carried`, stand in that member of the next line."""

    most: int
    seconds: float
    each: tuple[str, ...] = ()
    by: str | None = None
    carried: str | None = None
    group: str | None = None
    """Events of one group share their bound."""


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One event of the log."""

    level: LogLevel
    members: frozenset[str]
    text: str
    """When it happens, for the reader of a log."""
    bound: LineBound


ORDINARY: Final = LineBound(most=20, seconds=1.0)
"""That of events that happen once a migration, or once in the life of something."""
ONCE: Final = LineBound(most=1000, seconds=1.0)
"""That of the beginning and the end of a migration: a single request is one too."""
PER_MIGRATION: Final = LineBound(most=10, seconds=60.0, each=("migration",), by="code")
PER_SIDE: Final = LineBound(most=1, seconds=60.0, each=("remote", "side"), carried="answers")
REQUESTS: Final = LineBound(most=10, seconds=1.0, group="refused requests")
"""Strangers cause these."""


def _row(level: LogLevel, members: str, text: str, bound: LineBound = ORDINARY) -> EventRow:
    return EventRow(level=level, members=frozenset(members.split()), text=text, bound=bound)


_D, _I, _W, _E = LogLevel.DEBUG, LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR

EVENTS: Final[Mapping[LogEvent, EventRow]] = {
    LogEvent.SERVER_STARTED: _row(
        _I, "version workers bind schema", "A server listens, and its settings were right."
    ),
    LogEvent.SERVER_DRAINING: _row(
        _I, "seconds", "A worker stops: running requests get these seconds to end."
    ),
    LogEvent.SERVER_STOPPED: _row(_I, "", "The server has ended."),
    LogEvent.WORKER_ENDED: _row(
        _W, "worker why", "A worker was killed or ended by itself; another one starts."
    ),
    LogEvent.WORKER_TIMEOUT: _row(
        _E, "worker", "A worker did not turn its loop for a minute, and is killed."
    ),
    LogEvent.SETTINGS_UNSAFE: _row(
        _W, "setting why", "A setting permits more than it should, or is deprecated."
    ),
    LogEvent.SETTINGS_UNAVAILABLE: _row(
        _E,
        "detail hint",
        "A worker waits for a file of the settings before it starts, such as `RELAY_CA_BUNDLE`.",
    ),
    LogEvent.MIGRATION_ACCEPTED: _row(
        _I, "who address source destination", "A migration was accepted into the ledger.", ONCE
    ),
    LogEvent.MIGRATION_PAUSED: _row(
        _I,
        "who address reason",
        "A person has paused a migration, or relay: then `reason` is the code of the error.",
    ),
    LogEvent.MIGRATION_RESUMED: _row(_I, "who address reason", "A person has resumed a migration."),
    LogEvent.MIGRATION_CANCELLED: _row(
        _I, "who address reason", "A person has cancelled a migration."
    ),
    LogEvent.MIGRATION_RETRIED: _row(
        _I, "who address reason", "A person retries a migration, or the failures of one reason."
    ),
    LogEvent.MIGRATION_LIMITED: _row(
        _I, "who address change", "A person has changed the limits of a migration."
    ),
    LogEvent.MIGRATION_ACKNOWLEDGED: _row(
        _I, "who address reason", "A person has seen the failures of a migration."
    ),
    LogEvent.MIGRATION_ENDED: _row(
        _I,
        "id state source destination objects bytes seconds levels error attempts code side detail",
        "A migration ended, or a single object of `POST /migrate`. One of the ledger has its counts"
        " and its error; `relay report` names its objects.",
        ONCE,
    ),
    LogEvent.LISTING_DONE: _row(
        _I, "entries pages", "A source was listed completely; the numbers are of this process."
    ),
    LogEvent.LISTING_FAILED: _row(_W, "side code detail", "The listing of a source failed."),
    LogEvent.TRANSFER_FAILED: _row(
        _W, "name side code status attempts", "An object failed for good.", PER_MIGRATION
    ),
    LogEvent.TRANSFER_SETTLED: _row(
        _D,
        "name state proof bytes seconds",
        "An object was moved, or skipped.",
        LineBound(most=1000, seconds=1.0),
    ),
    LogEvent.TRANSFER_QUARANTINED: _row(
        _W, "objects", "Objects or listings were given up: several workers were lost with each."
    ),
    LogEvent.INTEGRITY_MISMATCH: _row(
        _E,
        "remote side detail",
        "Bytes or a length differed from what was promised; `detail` has both. It is tried again.",
        LineBound(most=10, seconds=60.0, each=("remote", "side")),
    ),
    LogEvent.STORE_THROTTLED: _row(
        _I,
        "remote side status allowed wanted answers",
        "A store asks for fewer requests.",
        PER_SIDE,
    ),
    LogEvent.STORE_RECOVERED: _row(
        _I,
        "remote side times",
        "A store has stopped complaining: nothing limits its requests any more.",
        LineBound(most=1, seconds=60.0, each=("remote", "side"), carried="times"),
    ),
    LogEvent.RUNNER_LOST: _row(
        _W, "claims", "Workers of the ledger are gone; their objects are claimed again."
    ),
    LogEvent.PART_HELP_FAILED: _row(
        _I,
        "code detail",
        "A worker stopped helping with another worker's multipart upload, which continues.",
        PER_MIGRATION,
    ),
    LogEvent.ORPHAN_REMOVED: _row(
        _I, "", "The unfinished upload of a lost attempt was removed.", PER_MIGRATION
    ),
    LogEvent.ORPHAN_CLEANUP_FAILED: _row(
        _W,
        "code detail",
        "The unfinished upload of a lost attempt could not be removed; it is retried.",
        PER_MIGRATION,
    ),
    LogEvent.LEDGER_FAILED: _row(
        _W,
        "code detail",
        "The ledger did not answer a worker; `code` and `detail` say why. The worker retries.",
        LineBound(most=2, seconds=60.0, by="code"),
    ),
    LogEvent.LEDGER_BACK: _row(_I, "seconds", "The ledger answers again."),
    LogEvent.LEDGER_UNAVAILABLE: _row(
        _E,
        "detail hint",
        "A worker waits for the ledger before it starts; `detail` and `hint` say why.",
    ),
    LogEvent.CLOCK_ADJUSTED: _row(
        _W,
        "detail",
        "An S3 server's clock differs; relay signs by that server's time from now on.",
    ),
    LogEvent.HUB_BLOCKED: _row(
        _W,
        "seconds times",
        "A worker's loop stood still: a timer was late by this much.",
        LineBound(most=1, seconds=60.0, carried="times"),
    ),
    LogEvent.REQUEST_REFUSED: _row(
        _I,
        "status code error route address",
        "A request was wrong. Where it was not HTTP, `error` is the parser's type of error.",
        REQUESTS,
    ),
    LogEvent.AUTH_FAILED: _row(
        _I,
        "status code route address",
        "A request was refused because of its sender: the token, its scope or its rate.",
        REQUESTS,
    ),
    LogEvent.CSRF_REFUSED: _row(
        _I,
        "status code route address",
        "A request was refused because a page of another site may have caused it.",
        REQUESTS,
    ),
    LogEvent.SESSION_STARTED: _row(_I, "who address", "A browser has signed in."),
    LogEvent.SESSION_ENDED: _row(_I, "who address", "A browser has signed out."),
    LogEvent.SESSION_USE_UNKNOWN: _row(
        _W, "detail", "The ledger could not note that a session was used."
    ),
    LogEvent.TOKEN_CREATED: _row(_I, "who address what", "A token was created."),
    LogEvent.TOKEN_LIMITED: _row(_I, "who address what", "The limits of a token were changed."),
    LogEvent.TOKEN_ROTATED: _row(_I, "who address what", "A token got another value."),
    LogEvent.TOKEN_REVOKED: _row(_I, "who address what", "A token was revoked."),
    LogEvent.TOKEN_FORGOTTEN: _row(_I, "who address what", "A revoked token was deleted."),
    LogEvent.TOKEN_USE_UNKNOWN: _row(
        _W, "detail", "The ledger could not note that a token was used."
    ),
    LogEvent.METRICS_MANY_FILES: _row(
        _W,
        "files",
        "Many workers have ended since the start, and `/metrics` adds up the files of all; a"
        " restart begins with none.",
    ),
    LogEvent.ERROR_UNEXPECTED: _row(
        _E,
        "error traceback",
        "A bug in relay, with its type and where it was raised.",
        LineBound(most=20, seconds=60.0, by="error"),
    ),
    LogEvent.LIBRARY_LOGGED: _row(
        _W,
        "logger at",
        "A library has logged a warning or an error. Its text is left out, as it may have a URL.",
        LineBound(most=10, seconds=60.0, by="at"),
    ),
    LogEvent.LINES_LEFT_OUT: _row(
        _I,
        "of count code error at",
        "Lines of an event were left out, because it happened too often. The level is that of the"
        " event.",
    ),
}
"""The table of all events."""

IN_COMMANDS: Final = frozenset(
    {
        LogEvent.LEDGER_FAILED,
        LogEvent.ORPHAN_CLEANUP_FAILED,
        LogEvent.CLOCK_ADJUSTED,
        LogEvent.ERROR_UNEXPECTED,
        LogEvent.LIBRARY_LOGGED,
        LogEvent.LINES_LEFT_OUT,
    }
)
"""The events that a command writes too. It shows all others in its own words."""
