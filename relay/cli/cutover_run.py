"""Rehearse a cutover, and make it: passes until the source is quiet, the audit, and the report.

Theory of operation. The phase in the ledger says how far a cutover is; a process that is killed
leaves it there, and the same command goes on. In the phase `final` passes follow each other until
one finds nothing: its listing and the one before are equal then. The audit lists both trees once
more. What a writer changes before that is found by it, and the passes begin again; what a writer
changes later is behind the listings that the report names. Only a good audit is signed.

Decided here: the order of these steps. Never here: what they print (`cutover_texts.py`), what a
pass moves, what an audit proves (`relay/engine/cutover_audit.py`), and how a report is written
(`relay/reports/`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final

import gevent

from relay.cli.cutover_texts import (
    bad_lines,
    counts_text,
    cutover_members,
    pass_texts,
    print_report,
    uploads_check,
)
from relay.cli.engines import engine_for
from relay.cli.exits import Exit
from relay.cli.formatting import count_of, duration
from relay.cli.interrupt import interrupt_as_exception
from relay.cli.standing_run import PassRunner, pass_line
from relay.cli.terminal import confirm, plain, say
from relay.config import Settings
from relay.engine.comparison_report import Reads
from relay.engine.cutover_audit import AuditResult, audit
from relay.engine.cutover_checks import (
    Check,
    CheckLevel,
    limit_checks,
    mount_check,
    open_uploads,
    room_check,
)
from relay.engine.migration_request import MigrationJob, stored_request
from relay.errors import ConfigError, IllegalTransition, RelayError
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.passes import require_standing
from relay.ledger.standing_values import Pass
from relay.ledger.states import MigrationState, PassKind, Phase, PhaseEvent
from relay.process.mounts import read_mounts
from relay.reports.report_folder import ReportFolder, report_name
from relay.reports.report_members import time_text
from relay.reports.report_writer import write_report
from relay.reports.signing_keys import SigningKey, key_path, load_key
from relay.sorting.spill import SpillSpace
from relay.stores.remotes import Remotes

REHEARSED_SECONDS: Final = 24 * 3600.0
"""How long a rehearsal holds."""
ATTEMPTS: Final = 5
"""How often a phase is asked for, where another process begins a pass at the same moment."""
SHOWN: Final = 20
MOST_REST_SECONDS: Final = 1.0
"""Longest rest before the next final pass: no longer than the last one took."""


@dataclass(frozen=True, kw_only=True)
class CutoverOrder:
    """The flags of `relay cutover`."""

    rehearse: bool
    unrehearsed: bool
    give_up: float
    accept_refused: int
    reads: Reads
    output: Path | None


@dataclass(eq=False)
class CutoverRun:
    """One run of the command."""

    ledger: Ledger
    settings: Settings
    order: CutoverOrder
    _: KW_ONLY
    slots: int = 8
    """Number of objects that an audit examines concurrently."""

    def run(self, id: str) -> int:
        """Rehearse or make the cutover of a migration; return the exit code. Raises RelayError,
        and Interrupted at a signal while both trees are compared."""
        migration = self.ledger.migration(id)
        standing = require_standing(migration)
        if standing.phase == Phase.REPORTED:
            return self._print_reported(migration)
        key = None if self.order.rehearse else load_key(key_path())
        if not self.order.rehearse and standing.phase != Phase.FINAL:
            self._require_rehearsal(migration)
        remotes = Remotes(self.settings.remotes, folders=None)
        secret = self.ledger.secret(migration.id)
        if secret is None:
            raise ConfigError(f"the credentials of migration {migration.name} have been deleted")
        places = stored_request(migration, secret).locate(remotes)
        self._engine = engine_for(self.settings, remotes, *places)
        self._job, _ = MigrationJob.from_row(migration, secret, remotes)
        self._passes = PassRunner(self.ledger, self._engine, slots=self.settings.slots)
        if key is None:
            return self._rehearse(migration)
        return self._cut_over(migration, key)

    # -- phases and passes

    def _enter(self, migration: Migration, event: str) -> Exit | None:
        """Bring a migration into the phase of an event, after the pass that is under way; return
        the exit code of a signal, or None. Raises IllegalTransition."""
        for attempt in range(ATTEMPTS):
            found = self.ledger.migration(migration.id)
            phase = require_standing(found).phase
            if phase in (Phase.FIRST, Phase.DELTA):
                code = self._run_pass(migration)
                if code is not None:
                    return code
            try:
                self.ledger.standing.change_phase(migration.id, event)
                return None
            except IllegalTransition:
                if attempt + 1 == ATTEMPTS or phase not in (Phase.FIRST, Phase.DELTA, Phase.STEADY):
                    raise
        return None

    def _run_pass(self, migration: Migration) -> Exit | None:
        """Run the pass under way; return the exit code of a signal, or None. Raises
        IllegalTransition if the migration was paused or has ended."""
        code = self._passes.run(migration.id)
        if code is not None:
            say("relay: stopped; run the same command again to go on", sys.stderr)
            return code
        found = self.ledger.migration(migration.id)
        if found.state != MigrationState.RUNNING:
            error = found.error or {}
            detail = f": {error['detail']}" if error.get("detail") else ""
            raise IllegalTransition(
                f"migration {found.name} is {found.state}{detail}",
                hint=str(error.get("hint") or "Resume it, and run the same command again."),
            )
        confirm(pass_line(self._last(migration)))
        return None

    def _new_pass(self, migration: Migration, kind: str) -> Exit | None:
        """Run the pass under way, or a new one of a kind; as `_run_pass`. Raises
        IllegalTransition if another command has changed the phase."""
        found = self.ledger.migration(migration.id)
        if found.is_at_rest and not self.ledger.standing.begin_pass(migration.id, kind):
            phase = require_standing(self.ledger.migration(migration.id)).phase
            raise IllegalTransition(f"migration {found.name} is in the phase {phase} now")
        return self._run_pass(migration)

    def _last(self, migration: Migration) -> Pass:
        return self.ledger.standing.passes(migration.id, limit=1)[0]

    def _audit(self) -> AuditResult:
        space = SpillSpace(self.settings.spill_folder(), self.settings.spill_bytes)
        with interrupt_as_exception("relay: stopped; run the same command again to go on"):
            return audit(
                self.ledger,
                self._job,
                self._engine,
                space,
                reads=self.order.reads,
                slots=self.slots,
            )

    # -- rehearsal

    def _require_rehearsal(self, migration: Migration) -> None:
        """Raise IllegalTransition without a rehearsal that was passed lately."""
        if self.order.unrehearsed:
            return
        now = time.time()
        for one in self.ledger.standing.passes(migration.id, limit=1000):
            is_passed = one.kind == PassKind.REHEARSAL and (one.outcome or {}).get("passed")
            if is_passed and one.ended is not None and now - one.ended < REHEARSED_SECONDS:
                return
        raise IllegalTransition(
            f"migration {migration.name} was not rehearsed in the last 24 hours",
            hint=(
                f"`relay cutover {migration.name} --rehearse` does that; --unrehearsed skips it."
            ),
        )

    def _rehearse(self, migration: Migration) -> int:
        code = self._enter(migration, PhaseEvent.REHEARSE)
        if code is None:
            code = self._new_pass(migration, PassKind.REHEARSAL)
        if code is not None:
            return code
        last = self._last(migration)
        began = time.monotonic()
        result = self._audit()
        seconds = time.monotonic() - began
        checks = list(self._checks(migration, last, result))
        passed = all(check.level is not CheckLevel.FAIL for check in checks)
        outcome = {"passed": passed, "audit_seconds": round(seconds, 3), "audit": result.to_json()}
        outcome["checks"] = [{"level": one.level.value, "text": one.text} for one in checks]
        self.ledger.standing.note_outcome(migration.id, last.number, outcome)
        self.ledger.standing.change_phase(migration.id, PhaseEvent.REHEARSED)
        expected = self.ledger.standing.forecast(migration.id)
        confirm(f"audit: {counts_text(result)}, {duration(seconds)}")
        if not result.is_good(self.order.accept_refused):
            self._repair(migration, result)
        if expected is not None:
            p50, p90 = duration(expected.p50), duration(expected.p90)
            confirm(f"if you cut over now: about {p50} (p90 {p90})")
        for check in checks:
            confirm(f"{check.level.value:<5} {plain(check.text)}")
        return Exit.VERIFIED if passed else Exit.FAILED

    def _checks(self, migration: Migration, last: Pass, result: AuditResult) -> Iterator[Check]:
        ok, warn, fail = CheckLevel.OK, CheckLevel.WARN, CheckLevel.FAIL
        if not last.complete:
            yield Check(fail, "the source could not be listed to its end")
        is_good = result.is_good(self.order.accept_refused)
        yield Check(ok if is_good else fail, f"audit: {counts_text(result)}")
        try:
            yield Check(ok, f"signing key {load_key(key_path()).fingerprint}")
        except RelayError as error:
            yield Check(fail, f"{error.message}; `relay keys new` makes one")
        yield uploads_check(open_uploads(self._job, self._engine))
        yield from limit_checks(migration.bounds)
        room = room_check(self._job, last.bytes)
        mount = mount_check(self._job.source, read_mounts())
        yield from (check for check in (room, mount) if check is not None)
        yield Check(warn, "it is not known for how long the credentials are valid")

    # -- cutover

    def _cut_over(self, migration: Migration, key: SigningKey) -> int:
        folder = self._folder(migration)
        code = self._enter(migration, PhaseEvent.CUTOVER)
        if code is not None:
            return code
        until = time.monotonic() + self.order.give_up
        while True:
            if require_standing(self.ledger.migration(migration.id)).phase == Phase.REPORTED:
                return self._print_reported(migration)  # another command was first
            code = self._new_pass(migration, PassKind.FINAL)
            if code is not None:
                return code
            last, before = [*self.ledger.standing.passes(migration.id, limit=2), None][:2]
            assert last is not None  # the pass that has just ended
            if self._is_quiet(migration, last, before):
                assert before is not None  # a quiet pass is compared with one
                result = self._audit()
                confirm(f"audit: {counts_text(result)}")
                phase = require_standing(self.ledger.migration(migration.id)).phase
                if result.is_good(self.order.accept_refused) and phase == Phase.FINAL:
                    return self._report(migration, key, folder, (before, last), result)
                if not self._repair(migration, result):
                    return self._give_up(migration, "another pass would not change that")
            elif _fails_again(last, before):
                return self._give_up(
                    migration,
                    f"{count_of(last.failed, 'object')} failed in each pass: `relay report"
                    f" {migration.name} --state failed`",
                )
            if time.monotonic() > until:
                return self._give_up(migration, f"not quiet in {duration(self.order.give_up)}")
            with interrupt_as_exception():
                gevent.sleep(min(MOST_REST_SECONDS, (last.ended or last.begun) - last.begun))

    def _repair(self, migration: Migration, result: AuditResult) -> int:
        """Print the bad objects of an audit, and let the next pass move those that are missing or
        differ; return their number. It finds those that are new since the last listing itself."""
        for line in bad_lines(result, self.order.accept_refused):
            confirm(f"fail  {line}")
        count = self.ledger.standing.restart_refuted(migration.id, result.refuted)
        count += len(self.ledger.listings.unknown_names(migration.id, result.refuted))
        if count:
            confirm(f"the next pass looks at {count:,} of them again")
        return count

    def _give_up(self, migration: Migration, why: str) -> Exit:
        self.ledger.standing.change_phase(migration.id, PhaseEvent.ABORT)
        say(
            f"relay: given up: {why}; the passes of migration {migration.name} continue",
            sys.stderr,
        )
        return Exit.FAILED

    def _is_quiet(self, migration: Migration, last: Pass, before: Pass | None) -> bool:
        """Return whether the last two listings were complete and equal, and say why not."""
        if not last.complete:
            say("relay: the source could not be listed to its end: once more", sys.stderr)
            return False
        if before is None or before.kind != PassKind.FINAL or not before.complete:
            return False
        if before.begun < self.ledger.standing.phase_begun(migration.id):
            return False  # a pass of an earlier cutover
        if last.is_quiet and last.failed - last.refused <= 0:
            return True
        say(
            f"relay: not quiet: {last.changed:,} names are new or changed, {last.gone:,} are gone,"
            f" {last.copied:,} objects were copied, {last.failed:,} are not there",
            sys.stderr,
        )
        for name, modified in self.ledger.standing.moved_since(migration.id, last.begun, SHOWN):
            when = "" if modified is None else f", changed {time_text(modified)}"
            say(f"relay:   {plain(name)}{when}", sys.stderr)
        return False

    def _report(
        self,
        migration: Migration,
        key: SigningKey,
        folder: ReportFolder,
        equal: tuple[Pass, Pass],
        result: AuditResult,
    ) -> int:
        uploads = open_uploads(self._job, self._engine)
        members = cutover_members(equal, result, uploads)
        passes = self.ledger.standing.passes(migration.id, limit=1000)
        more = {"cutover": members, "passes": [pass_texts(one) for one in reversed(passes)]}
        self.ledger.standing.note_outcome(
            migration.id, equal[1].number, {"audit": result.to_json()}
        )
        with interrupt_as_exception(), folder:
            written = write_report(self.ledger, migration.id, key, folder, time.time, more=more)
        try:
            self.ledger.standing.change_phase(migration.id, PhaseEvent.REPORT)
        except IllegalTransition as error:
            raise IllegalTransition(
                f"{error.message}: the report in {folder.final} is one of a moment before that",
                hint=error.hint,
            ) from None
        print_report(migration, folder, written, members, result=result, uploads=uploads)
        return Exit.VERIFIED

    def _folder(self, migration: Migration) -> ReportFolder:
        """Return the folder of the report: the one of `--output`, or the first name that is
        free."""
        if self.order.output is not None:
            return ReportFolder(self.order.output)
        name = report_name(migration.name)
        path, count = Path(name), 1
        while path.exists():
            count += 1
            path = Path(f"{name}-{count}")
        return ReportFolder(path)

    def _print_reported(self, migration: Migration) -> int:
        digest = self.ledger.reports.last(migration.id)
        confirm(
            f"migration {migration.name} is reported already; the SHA-256 of its report.json is"
            f" {digest}"
        )
        confirm(f"now switch the readers, then: relay finish {migration.name}")
        return Exit.VERIFIED


def _fails_again(last: Pass, before: Pass | None) -> bool:
    """Return whether two passes found nothing but the same number of objects that fail."""
    is_still = before is not None and last.is_quiet and before.is_quiet
    return is_still and before is not None and last.failed == before.failed > last.refused
