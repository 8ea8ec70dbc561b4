"""Errors of relay itself: no slot, no ledger, a wrong state, no server.

Decided here: the failures that are no store's and no byte's. Never here: what a store said.
"""

from __future__ import annotations

from typing import ClassVar

from relay.errors.root import RelayError, Side


class Overloaded(RelayError):
    """No slot came free in time, the line is full, or the server is draining."""

    code, title, status = "overloaded", "No slot is free", 503
    default_retryable = True
    default_hint = "Try again after the seconds that Retry-After names."


class TooManyFiles(Overloaded):
    """This process, or this machine, may open no more files and connections."""

    code, title = "too-many-files", "No more files can be opened"
    default_hint = "Raise the limit of open files (LimitNOFILE, `ulimit -n`), or lower RELAY_SLOTS."


class LedgerFailed(RelayError):
    """The ledger can't be read or written; nothing that depends on it is acknowledged."""

    code, title, status = "ledger-failed", "The ledger failed", 503
    default_hint = (
        "Look at the disk or the database that RELAY_LEDGER names. A migration goes on when it is"
        " back; give any other command again."
    )


class LedgerBusy(LedgerFailed):
    """Another process keeps the ledger locked."""

    code, title = "ledger-busy", "The ledger is busy"
    default_retryable = True
    default_hint = "Try again; if it keeps happening, look at who else has the file open."


class OutputFailed(RelayError):
    """What a command was given for can't be written to its output."""

    code, title = "output-failed", "The output can't be written"
    default_hint = "Look at the disk that the output goes to, and give the command again."


class LedgerRefused(LedgerFailed):
    """The ledger does not take what was to be written, and would not another time: a value that it
    can't hold."""

    code, title = "ledger-refused", "The ledger does not take this"
    default_hint = "This is a bug in relay. Please report it with the log line."


class MigrationUnknown(RelayError):
    """There is no migration, or no transfer, of this id."""

    code, title, status = "migration-unknown", "There is no such migration", 404
    default_side: ClassVar[Side] = "request"
    default_hint = "GET /migrations, or `relay status`, lists those that are there."


class IllegalTransition(RelayError):
    """Something that may not happen in this state."""

    code, title, status = "illegal-transition", "Not possible in this state", 409
    default_side: ClassVar[Side] = "request"
    default_hint = "`relay status`, or GET /migrations, tells its state."


class LeaseLost(RelayError):
    """A claim is not ours any more: this process was thought dead. What it did meanwhile changes
    nothing."""

    code, title = "lease-lost", "The claim is not ours any more"
    default_hint = "Another worker goes on with it; this machine may be short of CPU."


class ServerUnreachable(RelayError):
    """The server that the terminal was told of does not answer, or broke off."""

    code, title, status = "server-unreachable", "The server does not answer", 502
    default_retryable = True
    default_hint = "Check RELAY_URL (or --url), and that `relay serve` runs there."


class NotRelay(RelayError):
    """What answers there is no relay, or something in front of one."""

    code, title, status = "not-relay", "No relay answers there", 502
    default_hint = (
        "Check RELAY_URL (or --url): it is the address that `relay serve` prints when it starts."
    )


class ServerRefused(RelayError):
    """The server refused with a problem that this relay has no name for."""

    code, title, status = "server-refused", "The server refused", 502
    default_hint = "The server may be of another version; its /openapi.json says what it takes."
