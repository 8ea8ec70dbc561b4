"""The members of a signed report: the line of each object, the totals, and the report itself.

A report states what was proved, and nothing beyond: an object without a receipt is in it with its
state alone, and a digest stands only where its transfer has ended with a receipt.

Decided here: these members. Never here: how they are written (`report_writer.py`), and how they are
checked (`report_check.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from relay.ledger.states import TransferState
from relay.receipt import Level

if TYPE_CHECKING:
    from relay.ledger.migration_values import Migration
    from relay.ledger.pages import TransferRow

FORMAT: Final = "relay-report@1"
"""The format of a report, and the namespace of its signatures."""
REPORT, OBJECTS, SIGNATURE = "report.json", "objects.jsonl", ".sig"
"""The files of a report: both, and each with the suffix."""
PROVED: Final = frozenset(level.value for level in Level) - {Level.SIZE.value}
"""The levels that prove an object."""
REMARKS: Final = (
    "CRC64NVME, CRC32C and MD5 show accidents, not malice: bytes with a given value can be made on"
    " purpose. SHA-256 and SHA-512 show both.",
    "Only objects with the state verified are proved. An unverified object was sent and not proved."
    " A skipped one was at the destination before, and this migration has proved nothing of it. Of"
    " the others the report claims nothing; a part may have arrived.",
    "A receipt holds at the time of its proof. Times are those of relay's machines.",
)
"""The sentences of each report, in words for the reader."""
_ENDED_WITH_RECEIPT: Final = frozenset({TransferState.VERIFIED, TransferState.UNVERIFIED})


def object_members(row: TransferRow, name: str) -> dict[str, Any]:
    """Return the line of an object. A member that is not known is left out."""
    receipt: Mapping[str, Any] = row.receipt or {}
    has_receipt = row.state in _ENDED_WITH_RECEIPT and receipt.get("level") is not None
    is_proved = has_receipt and receipt["level"] in PROVED
    state = row.state
    if state == TransferState.VERIFIED and not is_proved:
        state = TransferState.UNVERIFIED.value
    members = {
        "name": name,
        "state": state,
        "bytes": _decimal(row.size if row.bytes is None else row.bytes),
        "attempts": row.attempts,
        "bytes_resent": _decimal(row.resent),
        "ended": _time(row.ended),
        "notes": list(receipt.get("notes") or ()),
        "error": _error_members(row.error) if row.state == TransferState.FAILED else None,
    }
    if has_receipt:
        members |= {
            "level": receipt["level"],
            "digests": receipt.get("digests"),
            "source": _version_members(receipt.get("source")),
            "destination": _version_members(receipt.get("destination")),
        }
    return _without_unknown(members)


class ReportTotals:
    """Counts the objects of a report by their state and level of proof, and their bytes."""

    def __init__(self) -> None:
        """Begin with none."""
        self._objects: Counter[tuple[str, str | None]] = Counter()
        self._bytes: Counter[tuple[str, str | None]] = Counter()

    def add(self, members: Mapping[str, Any]) -> None:
        """Count an object by its line."""
        key = (members["state"], members.get("level"))
        self._objects[key] += 1
        self._bytes[key] += int(members.get("bytes", 0))

    @property
    def objects(self) -> int:
        """The number of all objects."""
        return self._objects.total()

    def to_json(self) -> dict[str, Any]:
        """Return the totals by state; those with a receipt by level besides."""
        found: dict[str, Any] = {}
        for state in sorted({state for state, _ in self._objects}):
            of_state = [key for key in self._objects if key[0] == state]
            levels = {
                level: self._count([(state, level)]) for _, level in of_state if level is not None
            }
            found[state] = self._count(of_state) | ({"levels": levels} if levels else {})
        return found

    def _count(self, keys: list[tuple[str, str | None]]) -> dict[str, Any]:
        return {
            "objects": str(sum(self._objects[key] for key in keys)),
            "bytes": str(sum(self._bytes[key] for key in keys)),
        }


def migration_members(migration: Migration) -> dict[str, Any]:
    """Return the members of a report about the migration as a whole. Its locations are those that
    the ledger shows, without secrets."""
    return {
        "source": migration.source,
        "destination": migration.destination,
        "migration": _without_unknown(
            {
                "id": migration.id,
                "number": migration.number,
                "tenant": migration.tenant,
                "state": migration.state,
                "listing": migration.listing,
                "options": dict(migration.options),
                "excluded": _decimal(migration.excluded),
                "created": _time(migration.created),
                "ended": _time(migration.ended),
                "error": None if migration.error is None else _error_members(migration.error),
            }
        ),
    }


def _version_members(version: Mapping[str, Any] | None) -> dict[str, Any]:
    found = version or {}
    names = ("etag", "last_modified", "version", "digests")
    size = {"size": _decimal(found.get("size"))}
    return _without_unknown({name: found.get(name) for name in names} | size)


def _error_members(error: Mapping[str, Any] | None) -> dict[str, Any]:
    found = error or {}
    names = ("code", "side", "detail", "remains")
    return _without_unknown({name: found.get(name) for name in names})


def _without_unknown(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members that say something."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}


def _decimal(number: int | None) -> str | None:
    """Return a number as text: it may be larger than every reader of JSON keeps exactly."""
    return None if number is None else str(number)


def time_text(seconds: float) -> str:
    """Return a time since 1970 in the form of RFC 3339, in whole seconds."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else time_text(seconds)
