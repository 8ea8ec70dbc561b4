"""Write the signed report of a migration.

Decided here: the order of the steps. The objects are written first, then the report with their
digest; the ledger records its digest; only then the folder has its name. Never here: the members
(`report_members.py`), and what the ledger keeps (`relay/ledger/report_ledger.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from relay import __version__
from relay.reports.canonical_json import canonical
from relay.reports.report_folder import ReportFolder
from relay.reports.report_members import (
    FORMAT,
    OBJECTS,
    REMARKS,
    REPORT,
    SIGNATURE,
    ReportTotals,
    migration_members,
    object_members,
    time_text,
)
from relay.reports.signing_keys import SigningKey

if TYPE_CHECKING:
    from relay.ledger.ledger import Ledger
    from relay.ledger.migration_values import Migration
    from relay.ledger.pages import TransferRow


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A report that was published."""

    members: Mapping[str, Any]
    """Those of report.json."""
    sha256: str
    """That of report.json."""
    totals: ReportTotals
    previous: str | None


@dataclass(frozen=True, kw_only=True)
class _WrittenObjects:
    migration: Migration
    totals: ReportTotals
    sha256: str
    sha512: bytes


def write_report(
    ledger: Ledger,
    id: str,
    key: SigningKey,
    folder: ReportFolder,
    clock: Callable[[], float],
    *,
    more: Mapping[str, Any] | None = None,
) -> WrittenReport:
    """Write the report of a migration, by its id, into an open folder, and publish that. `clock` is
    the seconds since 1970, `more` are further members of the report. A line of an object is held at
    a time. Raises OutputFailed, and as the ledger; the folder has no final name then, and is kept
    if the ledger may have recorded its report."""

    def write_objects(migration: Migration, rows: Iterator[TransferRow]) -> _WrittenObjects:
        with folder.writing(OBJECTS) as file:
            return _write_objects(file, migration, rows)

    written = ledger.reports.at_one_moment(id, write_objects)
    _write(folder, OBJECTS + SIGNATURE, key.sign(written.sha512).encode())
    while True:
        previous = ledger.reports.last(id)
        members = _report_members(written, key, previous, clock()) | dict(more or {})
        report = _line(members)
        digest = hashlib.sha256(report).hexdigest()
        _write(folder, REPORT, report)
        _write(folder, REPORT + SIGNATURE, key.sign(hashlib.sha512(report).digest()).encode())
        folder.keep()  # before the ledger has it: an error may hide that it was recorded
        if ledger.reports.record(id, previous, digest):
            break
        folder.release()  # another report was signed meanwhile
    folder.publish()
    return WrittenReport(members=members, sha256=digest, totals=written.totals, previous=previous)


def _write_objects(
    file: BinaryIO, migration: Migration, rows: Iterable[TransferRow]
) -> _WrittenObjects:
    totals, sha256, sha512 = ReportTotals(), hashlib.sha256(), hashlib.sha512()
    for row in rows:
        # A single object has no name in a tree.
        members = object_members(row, row.name or migration.source)
        totals.add(members)
        line = _line(members)
        file.write(line)
        sha256.update(line)
        sha512.update(line)
    return _WrittenObjects(
        migration=migration, totals=totals, sha256=sha256.hexdigest(), sha512=sha512.digest()
    )


def _report_members(
    written: _WrittenObjects, key: SigningKey, previous: str | None, now: float
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "relay": {"version": __version__},
        "made": time_text(now),
        **migration_members(written.migration),
        "totals": written.totals.to_json(),
        "objects": {
            "file": OBJECTS,
            "rows": str(written.totals.objects),
            "sha256": written.sha256,
        },
        "previous": previous,
        "remarks": list(REMARKS),
        "signed_by": {"key": key.public_line, "fingerprint": key.fingerprint},
    }


def _line(members: dict[str, Any]) -> bytes:
    """Return members in their canonical form, with the end of a line."""
    try:
        return canonical(members) + b"\n"
    except UnicodeEncodeError:
        return canonical(_in_unicode(members)) + b"\n"


def _in_unicode(value: Any) -> Any:
    """Return a value with every text in Unicode. An error may have the name of a file that is not
    UTF-8, whose bytes are surrogates in a text (PEP 383): they become `\\udce9`."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _in_unicode(member) for name, member in value.items()}
    return [_in_unicode(one) for one in value] if isinstance(value, list) else value


def _write(folder: ReportFolder, name: str, data: bytes) -> None:
    with folder.writing(name) as file:
        file.write(data)
