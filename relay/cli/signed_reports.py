"""`relay report ID --sign` and `relay check-report FOLDER`: reports that prove who made them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.interrupt import interrupt_as_exception
from relay.cli.terminal import confirm, in_columns, plain, say, tell
from relay.settings_sources import load_settings, trusted_ledger_url
from relay.views.migrations import shown_filters, shown_number

# The ledger and the signatures take a third of a second, for which the help should not wait.
if TYPE_CHECKING:
    from relay.reports.report_check import CheckedReport
    from relay.reports.report_members import ReportTotals


def sign_report(id: str, output: Path | None, url: str | None) -> int:
    """Write the signed report of a migration of this machine's ledger into a new folder, and print
    its digest. Raises ConfigError without a key, and as write_report."""
    from relay.ledger.ledger import Ledger
    from relay.reports.report_folder import ReportFolder, report_name
    from relay.reports.report_writer import write_report
    from relay.reports.signing_keys import key_path, load_key

    settings = load_settings()
    if url or settings.url:
        raise click.UsageError(
            "--sign reads the ledger itself: run it where RELAY_LEDGER is, without --url and"
            " RELAY_URL"
        )
    if output == Path("-"):
        raise click.UsageError("--output is a folder: a signed report has four files")
    key = load_key(key_path())
    ledger = Ledger.connect(trusted_ledger_url(settings))
    migration = ledger.migration(id)
    folder = ReportFolder(output or Path(report_name(migration.name)))
    try:
        # Ctrl-C removes the folder, unless the ledger may have recorded its report. The ledger
        # stays open then: its thread may still be reading.
        with interrupt_as_exception(), folder:
            written = write_report(ledger, migration.id, key, folder, time.time)
    finally:
        if folder.kept_place is not None:
            said = f"keep {folder.kept_place}: the ledger may have it, and the next report names it"
            say(f"relay: {plain(said)}", sys.stderr)
    ledger.close()
    confirm(in_columns("report", str(folder.final)))
    for row in (*_migration_rows(written.members["migration"]), *_total_rows(written.totals)):
        confirm(row)
    confirm(in_columns("signed by", key.fingerprint))
    confirm(in_columns("sha256", written.sha256))
    confirm(in_columns("previous", written.previous or "none"))
    return Exit.VERIFIED


@click.command(
    "check-report",
    epilog=(
        "Exit codes: 0 as it was signed, and everything in it is verified · 1 not as an allowed"
        " key has signed it · 2 wrong usage · 3 as it was signed, and something is not verified"
    ),
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The public keys that you accept: lines of `relay keys show`.",
)
def check_report(folder: Path, allowed_signers: Path) -> int:
    """Check the signed report in FOLDER (or its report.json): its signatures, its objects and its
    totals. It asks no store and no ledger."""
    from relay.reports.allowed_signers import principals_of
    from relay.reports.report_check import check_report as check
    from relay.reports.report_members import FORMAT, REPORT

    where = folder.parent if folder.name == REPORT else folder
    checked = check(where, lambda key: principals_of(allowed_signers, key, FORMAT))
    for row in _checked_rows(checked):
        tell(row)
    return Exit.VERIFIED if checked.is_all_proved else Exit.UNVERIFIED


def _checked_rows(checked: CheckedReport) -> Iterator[str]:
    migration: Any = checked.members["migration"]
    yield in_columns("signed by", f"{checked.principals} ({checked.fingerprint})")
    yield in_columns("made", checked.members["made"])
    yield from _migration_rows(migration)
    for side in ("source", "destination"):
        yield in_columns(side, checked.members[side])
    yield from _total_rows(checked.totals)
    yield in_columns("sha256", checked.sha256)
    yield in_columns("previous", str(checked.members.get("previous") or "none"))


def _migration_rows(migration: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of the state of a report's migration, and of what its filters left out: the
    objects of a report are not all objects of the source then."""
    yield in_columns("migration", f"{shown_number(migration)} {migration['state']}")
    filters = migration.get("options", {}).get("filters")
    if filters:
        yield in_columns("filters", shown_filters(filters))
        yield in_columns("excluded", f"{migration.get('excluded', '0')} by the filters")


def _total_rows(totals: ReportTotals) -> Iterator[str]:
    """Yield a row for each state of the objects of a report."""
    for state, counted in totals.to_json().items():
        count, size = int(counted["objects"]), int(counted["bytes"])
        levels = ", ".join(
            f"{level} {int(of_level['objects']):,}"
            for level, of_level in counted.get("levels", {}).items()
        )
        objects = "object" if count == 1 else "objects"
        end = f"  ({levels})" if levels else ""
        yield in_columns(state, f"{count:,} {objects}, {decimal(size)}{end}")
    if not totals.objects:
        yield in_columns("objects", "none")
