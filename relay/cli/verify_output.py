"""The output of `relay verify`: the rows as they are found, the summary, and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.terminal import ReaderGone, in_columns, plain, say, tell
from relay.engine.comparison_report import ComparisonReport, NameFinding, TreeVerdict
from relay.errors import NotFound
from relay.views.sample_statements import sample_statement
from relay.views.tree_findings import (
    FINDING_FIELDS,
    comparison_members,
    finding_csv,
    finding_html,
    finding_members,
    html_beginning,
    html_end,
)

LINES, SECONDS = 500, 0.5
"""Rows are written together: at most LINES, and the first after at most SECONDS."""


class AnyComparison(Protocol):
    """Any of the comparisons of `relay verify`."""

    report: ComparisonReport

    def findings(self) -> Iterator[NameFinding]:
        """Yield what is found about each name. Raises RelayError."""


@dataclass(frozen=True, kw_only=True)
class VerifyWords:
    """The words for one kind of comparison."""

    gaps: str = "folders could not be listed"
    gap: str = "could not be listed"
    """What is said of a folder, or of an inventory, that is not complete."""
    empty: str = "nothing was found on either side"
    empty_hint: str = "Check both names: many stores show a missing folder as an empty one."


def _table_line(found: NameFinding) -> str:
    why = f"{found.basis.value}: {found.detail}" if found.detail else found.basis.value
    return f"{found.verdict.value:<9} {plain(found.name)}  ({plain(why)})"


def _json_line(found: NameFinding) -> str:
    return json.dumps(finding_members(found))


FORMS: Final[Mapping[str, Callable[[NameFinding], str]]] = {
    "table": _table_line,
    "jsonl": _json_line,
    "csv": finding_csv,
    "html": finding_html,
}
"""The forms of a row."""


@dataclass(frozen=True, kw_only=True)
class VerifyOutput:
    """What is printed of a comparison."""

    form: str | None
    """One of FORMS; None: the rows that are not the same, as a table."""
    as_json: bool
    """Whether only the counts are printed, as JSON."""
    only: frozenset[str]
    """The verdicts whose rows are printed; empty: all."""
    words: VerifyWords = VerifyWords()

    def print(self, comparison: AnyComparison) -> Exit:
        """Print the rows and the summary of a comparison; return the exit code. Raises what the
        comparison raises, and OutputFailed."""
        output = _Output()
        self._print_rows(comparison.findings(), output)
        report = comparison.report
        is_empty = report.names == 0 and not report.unlisted
        if self.as_json:
            output.write(json.dumps(comparison_members(report)))
        elif self.form == "html":
            output.write("\n".join(html_end(self._summary(report))))
        elif not is_empty:
            # Where the rows go to a program, the summary does not mix with them.
            stream = sys.stderr if self.form in ("jsonl", "csv") else None
            for row in self._summary(report):
                if stream is None:
                    output.write(in_columns(*row))
                else:
                    say(in_columns(*row), stream)
        for side, name, why in report.folders:
            said = f"{side}: {plain(name)} {self.words.gap}: {plain(why)}"
            say(f"relay: {said}", sys.stderr)
        if report.has_differences:
            return Exit.FAILED
        return Exit.VERIFIED if report.is_proved else Exit.UNVERIFIED

    def _print_rows(self, findings: Iterator[NameFinding], output: _Output) -> None:
        line_of = FORMS[self.form or "table"]
        if self.form == "csv":
            output.write(",".join(FINDING_FIELDS))
        if self.form == "html":
            output.write("\n".join(html_beginning()))
        shows_same = self.form in ("jsonl", "csv")
        lines: list[str] = []
        written = monotonic()
        try:
            for found in findings:
                if self.as_json:
                    continue
                if self.only:
                    is_shown = found.verdict.value in self.only
                else:
                    is_shown = shows_same or found.verdict is not TreeVerdict.SAME
                if not is_shown:
                    continue
                lines.append(line_of(found))
                if len(lines) == LINES or monotonic() - written > SECONDS:
                    text = "\n".join(lines)
                    lines, written = [], monotonic()
                    output.write(text)
        finally:
            if lines:
                output.write("\n".join(lines))

    def _summary(self, report: ComparisonReport) -> Iterator[tuple[str, str]]:
        same = report.counts[TreeVerdict.SAME]
        by = " · ".join(f"{count:,} by {basis.value}" for basis, count in report.bases.items())
        text = f"{same:,} objects, {_bytes(report.same_bytes)}"
        yield "same", text + (f"; {by}" if by else "")
        for verdict, count in report.counts.items():
            if verdict is not TreeVerdict.SAME and count:
                yield verdict.value, f"{count:,}"
        if report.unsampled:
            yield "not asked", f"{report.unsampled:,} outside of the sample"
        if report.excluded:
            yield "excluded", f"{report.excluded:,} by the filters"
        if report.others:
            yield "others", f"{report.others:,} that the migration did not write"
        if report.bytes_read:
            yield "read", _bytes(report.bytes_read)
        if report.unlisted:
            yield "incomplete", f"{report.unlisted:,} {self.words.gaps}"
        if report.sample is not None:
            yield "sample", sample_statement(report.sample)

    def refuse_empty(self, report: ComparisonReport) -> None:
        """Raise NotFound if there was nothing to compare."""
        if report.names or report.unlisted:
            return
        if report.excluded:
            raise NotFound(
                f"the filters exclude everything: the trees have {report.excluded:,} names",
                side="relay",
                hint="`relay ls -r` with the same filters shows what they choose.",
            )
        raise NotFound(self.words.empty, side="relay", hint=self.words.empty_hint)


class _Output:
    """stdout, until its reader closes it: the exit code is an answer too."""

    def __init__(self) -> None:
        self._is_closed = False

    def write(self, text: str) -> None:
        """Print some lines. Raises OutputFailed."""
        if self._is_closed:
            return
        try:
            tell(text)
        except ReaderGone:
            self._is_closed = True


def _bytes(count: int) -> str:
    return f"{count:,} bytes ({decimal(count)})" if count >= 1000 else f"{count:,} bytes"
