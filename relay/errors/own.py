"""Errors of relay itself: no slot, no ledger, a wrong state, no server.

Decided here: the failures that neither a store nor the bytes caused. Never here: a store's answers.
"""

from __future__ import annotations

from typing import ClassVar

from relay.errors.root import RelayError, Side


class Overloaded(RelayError):
    """No slot became free in time, the slot queue is full, or the server is draining."""

    code, title, status = "overloaded", "No slot is free", 503
    default_retryable = True
    default_hint = "Try again after the seconds that Retry-After names."


class TooManyFiles(Overloaded):
    """The limit of open files of this process, or of this machine, is reached."""

    code, title = "too-many-files", "No more files can be opened"
    default_hint = "Raise the limit of open files (LimitNOFILE, `ulimit -n`), or lower RELAY_SLOTS."


class TooManyStreams(Overloaded):
    """This process, or this token, has as many streams of events as it may have."""

    code, title = "too-many-streams", "Too many streams are open"
    default_hint = (
        "Close a stream, or ask for the state of the migration every few seconds. The limits"
        " are RELAY_STREAMS and RELAY_TOKEN_STREAMS."
    )


class LedgerFailed(RelayError):
    """The ledger can't be read or written. Nothing that depends on it is acknowledged."""

    code, title, status = "ledger-failed", "The ledger failed", 503
    default_hint = (
        "Check the disk or the database that RELAY_LEDGER names. A migration resumes when the"
        " ledger is back; run any other command again."
    )


class LedgerBusy(LedgerFailed):
    """Another process held the lock of the ledger for too long."""

    code, title = "ledger-busy", "The ledger is busy"
    default_retryable = True
    default_hint = "Try again; if it keeps happening, find the process that has the file open."


class OutputFailed(RelayError):
    """The result of a command can't be written to its output."""

    code, title = "output-failed", "The output can't be written"
    default_hint = "Check the disk that the output goes to, and run the command again."


class ReportRefused(RelayError):
    """A report is not signed by a key that the reader accepts, or was altered since."""

    code, title = "report-refused", "The report is not as a known key has signed it"
    default_hint = (
        "Ask for the files again, all four of them. The key must come by another way than the"
        " report."
    )


class InventoryRefused(RelayError):
    """A file is not an inventory that relay can read."""

    code, title = "inventory-refused", "The inventory can't be read"
    default_hint = (
        "Give a manifest of S3 Inventory, Cloud Storage or Azure, a CSV file with a column `name`,"
        " or a recursive list of `rclone lsjson` with hashes."
    )


class PlanRefused(RelayError):
    """A saved plan can't be read, or is not as relay wrote it."""

    code, title, status = "plan-refused", "The saved plan can't be used", 422
    default_hint = "Make the plan again."


class SpillFailed(RelayError):
    """A listing can't be sorted on the disk."""

    code, title = "spill-failed", "A listing can't be sorted"
    default_hint = (
        "Make room beside the ledger, or raise RELAY_SPILL_BYTES; or compare a part of the tree."
    )


class LedgerRefused(LedgerFailed):
    """The ledger refused a value that it can't hold. A retry would fail in the same way."""

    code, title = "ledger-refused", "The ledger refused a value"
    default_hint = "This is a bug in relay. Please report it with the log line."


class MigrationUnknown(RelayError):
    """No migration, or no transfer, has this id."""

    code, title, status = "migration-unknown", "There is no such migration", 404
    default_side: ClassVar[Side] = "request"
    default_hint = "GET /migrations, or `relay status`, lists all migrations."


class FeedGone(RelayError):
    """A feed was asked for rows that it has no longer, or never had."""

    code, title, status = "feed-resync", "The feed does not continue there", 410
    default_side: ClassVar[Side] = "request"
    default_hint = (
        "Compare your objects with the migration's, and read its feed from its present end."
    )


class PlanUnknown(RelayError):
    """No plan has this id."""

    code, title, status = "plan-unknown", "There is no such plan", 404
    default_side: ClassVar[Side] = "request"
    default_hint = "It may have been deleted. Plan the migration again."


class TokenUnknown(RelayError):
    """No token of the ledger has this name or id."""

    code, title, status = "token-unknown", "There is no such token", 404
    default_side: ClassVar[Side] = "request"
    default_hint = "`relay token list` lists all tokens."


class TokenExists(RelayError):
    """A token with this name is valid."""

    code, title, status = "token-exists", "The token exists", 409
    default_side: ClassVar[Side] = "request"
    default_hint = "Choose another name, or replace its value: `relay token rotate`."


class TooManyRequests(RelayError):
    """The limit of a token, or of sign-ins, is reached for now."""

    code, title, status = "too-many-requests", "A limit of the token is reached", 429
    default_side: ClassVar[Side] = "request"
    default_retryable = True
    default_hint = "Try again after the seconds that Retry-After names."


class IllegalTransition(RelayError):
    """The migration's state does not allow this action."""

    code, title, status = "illegal-transition", "Not possible in this state", 409
    default_side: ClassVar[Side] = "request"
    default_hint = "`relay status`, or GET /migrations, shows its state."


class LeaseLost(RelayError):
    """The lease of a claim has expired, and another worker may have claimed the transfer. What this
    process did after that is not recorded."""

    code, title = "lease-lost", "The lease of the claim has expired"
    default_hint = "Another worker resumes the transfer. This machine may be short of CPU."


class ServerUnreachable(RelayError):
    """The server of RELAY_URL (or --url) does not answer, or closed the connection early."""

    code, title, status = "server-unreachable", "The server does not answer", 502
    default_retryable = True
    default_hint = "Check RELAY_URL (or --url), and that `relay serve` runs there."


class NotRelay(RelayError):
    """The server that answered is not relay; it may be a proxy in front of it."""

    code, title, status = "not-relay", "The server that answers is not relay", 502
    default_hint = (
        "Check RELAY_URL (or --url): it is the address that `relay serve` prints when it starts."
    )


class ServerRefused(RelayError):
    """The server refused with a problem type that this version of relay does not know."""

    code, title, status = "server-refused", "The server refused", 502
    default_hint = "The server may be of another version; its /openapi.json describes its requests."
