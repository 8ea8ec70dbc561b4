"""The findings of a comparison of two trees as plain values and as lines of CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Iterator
from typing import Any, Final

from relay.engine.comparison_report import ComparisonReport, NameFinding, TreeVerdict
from relay.views.migrations import spreadsheet_cell
from relay.views.sample_statements import sample_members

FINDING_FIELDS: Final = (
    *("name", "verdict", "basis", "detail"),
    *("source_size", "destination_size"),
)
"""The members of a finding, in the order of its CSV."""


def finding_members(found: NameFinding) -> dict[str, Any]:
    """Return a finding as plain values."""
    return {
        "name": found.name,
        "verdict": found.verdict.value,
        "basis": found.basis.value,
        "detail": found.detail,
        "source_size": found.source_size,
        "destination_size": found.destination_size,
    }


def finding_csv(found: NameFinding) -> str:
    """Return a finding as a line of CSV (RFC 4180). Bytes of a name that are not UTF-8 are
    escaped."""
    members = finding_members(found)
    cells = ["" if members[name] is None else str(members[name]) for name in FINDING_FIELDS]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        [spreadsheet_cell(cell.encode("utf-8", "backslashreplace").decode()) for cell in cells]
    )
    return line.getvalue()


def html_beginning() -> Iterator[str]:
    """Yield the beginning of a page with findings, which needs no other file."""
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>relay verify</title>'
    yield "<style>:root{color-scheme:light dark}body{font:14px/1.4 system-ui;margin:2rem}"
    yield "table{border-collapse:collapse;margin:1rem 0}"
    yield "td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #8884}</style>"
    yield "<h1>relay verify</h1><p>Objects that are the same are counted below.</p><table><tr>"
    yield "".join(f"<th>{name}</th>" for name in FINDING_FIELDS) + "</tr>"


def finding_html(found: NameFinding) -> str:
    """Return a finding as a row of that page. A name may turn the direction of the text behind it;
    `bdi` keeps that in its cell."""
    members = finding_members(found)
    return "<tr>" + "".join(f"<td>{_bdi(members[name])}</td>" for name in FINDING_FIELDS) + "</tr>"


def html_end(summary: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the end of that page: the rows of the summary."""
    yield "</table><table>"
    for name, text in summary:
        yield f"<tr><th>{_bdi(name)}</th><td>{_bdi(text)}</td></tr>"
    yield "</table></html>"


def _bdi(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"<bdi>{html.escape(text.encode('utf-8', 'backslashreplace').decode())}</bdi>"


def comparison_members(report: ComparisonReport) -> dict[str, Any]:
    """Return the counts of a comparison as plain values."""
    return {
        "names": report.names,
        "found": {
            verdict.value: count
            for verdict, count in report.counts.items()
            if count or verdict is not TreeVerdict.TOO_NEW
        },
        "proved_by": {basis.value: count for basis, count in report.bases.items()},
        "same_bytes": report.same_bytes,
        "bytes_read": report.bytes_read,
        "excluded": report.excluded,
        "complete": not report.unlisted,
        "unlisted": [
            {"side": side, "name": name, "why": why} for side, name, why in report.folders
        ],
        "unlisted_count": report.unlisted,
        **({"others": report.others} if report.others else {}),
        **({} if report.sample is None else {"sample": sample_members(report.sample)}),
    }
