"""The texts of a cutover: what its command prints, and the members of its report.

Decided here: these words and members. Never here: what an audit proves
(`relay/engine/cutover_audit.py`), and the steps of a cutover (`cutover_run.py`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from relay.cli.formatting import count_of
from relay.cli.terminal import confirm, plain, say
from relay.engine.cutover_audit import AuditResult
from relay.engine.cutover_checks import Check, CheckLevel
from relay.errors import RelayError
from relay.ledger.migration_values import Migration
from relay.ledger.standing_values import Pass
from relay.reports.report_folder import ReportFolder
from relay.reports.report_members import time_text
from relay.reports.report_writer import WrittenReport
from relay.stores.interfaces import OpenUploads


def counts_text(result: AuditResult) -> str:
    """Return the counts of an audit, in one line."""
    members = result.to_json()
    bad = [
        f"{members[name]:,} {name.replace('_', ' ')}"
        for name in ("missing", "differs", "unlisted_folders")
        if members[name]
    ]
    return ", ".join(
        [
            f"{count_of(result.proved_objects, 'object')} proved",
            f"{members['unproved']:,} unproved",
            *bad,
        ]
    )


def bad_lines(result: AuditResult, accepted: int) -> Iterator[str]:
    """Yield a line for each named object, and each folder, for which an audit is not good."""
    if not result.is_good(accepted):
        for found in result.bad:
            yield plain(f"{found.name}: {found.verdict.value} ({found.basis.value})")
        yield from map(plain, result.folders)


def uploads_check(found: OpenUploads | RelayError | None) -> Check:
    """Return the check of the uploads that are open at the source, as `open_uploads` found them."""
    if found is None:
        return Check(CheckLevel.OK, "the source has no uploads in parts")
    if isinstance(found, RelayError):
        return Check(CheckLevel.WARN, f"open uploads at the source are not known: {found.message}")
    if not found.count:
        return Check(CheckLevel.OK, "no upload in parts is open at the source")
    more = "" if found.is_whole else " or more"
    which = (
        "1 upload in parts is"
        if found.count == 1
        else f"{found.count:,}{more} uploads in parts are"
    )
    since = "" if found.oldest is None else f", the oldest since {time_text(found.oldest)}"
    return Check(CheckLevel.WARN, f"{which} open at the source{since}")


def cutover_members(
    equal: tuple[Pass, Pass], result: AuditResult, uploads: OpenUploads | RelayError | None
) -> dict[str, Any]:
    """Return the members of a report about the cutover: the equal listings, and the proofs. Counts
    are texts, as in the whole report."""
    first, _ = equal
    audited: Mapping[str, Any] = result.to_json()
    return {
        "quiet_since": time_text(first.listed_at or first.begun),
        "equal_listings": [
            {
                "pass": str(one.number),
                "begun": time_text(one.begun),
                "ended": time_text(one.listed_at or one.begun),
                "names": str(one.listed),
            }
            for one in equal
        ],
        "audit": {
            name: str(value) if isinstance(value, int) else {k: str(v) for k, v in value.items()}
            for name, value in audited.items()
        },
        "open_uploads": uploads_check(uploads).text,
        "accepted_refused": {"objects": str(result.refused), "names": result.refused_names},
        "remark": (
            "Two listings of the source were equal, and every name of a later listing was proved at"
            " the destination. A change at the source after these listings is not in this report."
        ),
    }


def pass_texts(one: Pass) -> dict[str, Any]:
    """Return the members of a pass in a report."""
    counts = {
        name: str(getattr(one, name))
        for name in ("listed", "changed", "gone", "copied", "bytes", "deleted", "failed")
    }
    return {
        "number": str(one.number),
        "kind": one.kind,
        "begun": time_text(one.begun),
        **({} if one.ended is None else {"ended": time_text(one.ended)}),
        "complete": bool(one.complete),
        **counts,
    }


def print_report(
    migration: Migration,
    folder: ReportFolder,
    written: WrittenReport,
    members: Mapping[str, Any],
    *,
    result: AuditResult,
    uploads: OpenUploads | RelayError | None,
) -> None:
    """Print what a report states, where it is, and what follows."""
    check = uploads_check(uploads)
    if check.level is CheckLevel.WARN:
        say(f"relay: warning: {plain(check.text)}; each may still complete", sys.stderr)
    confirm(f"quiet since {members['quiet_since']} (2 listings equal); {counts_text(result)}")
    confirm(f"report: {folder.final}/report.json (+ .sig), sha256 {written.sha256}")
    confirm(f"now switch the readers, then: relay finish {migration.name}")
