"""The corruption matrix against receipts: whatever happened to an object since it was moved is found,
over every kind of store, on real servers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relay.engine.comparison_report import Reads
from relay.engine.receipt_comparison import ReceiptComparison
from relay.engine.sampling import NameSample
from relay.ledger.pages import TransferRow
from relay.location import Location
from relay.receipt import Receipt, Version
from relay.sorting.spill import SpillSpace
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer

KINDS = (
    *("local", "memory", "seaweed", "webdav+wsgidav"),
    pytest.param("swift", marks=pytest.mark.campaign),
)
GOOD, OTHER = os.urandom(20_000), os.urandom(20_000)
PLANTED: dict[str, tuple[bytes, bytes | None, str]] = {
    "empty": (b"", b"", "same"),
    "f/good é": (GOOD, GOOD, "same"),
    "flipped": (GOOD, GOOD[:7000] + bytes([GOOD[7000] ^ 1]) + GOOD[7001:], "differs"),
    "missing": (GOOD, None, "missing"),
    "again": (GOOD, GOOD, "same"),
    "stale": (GOOD, OTHER, "differs"),
    "swapped/1": (GOOD, OTHER, "differs"),
    "swapped/2": (OTHER, GOOD, "differs"),
    "truncated": (GOOD, GOOD[:-1], "differs"),
    "zero-tailed": (GOOD, GOOD[:-512] + bytes(512), "differs"),
}
"""The content that was moved, the content that is there now, and the verdict."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def put(engine: Engine, place: Location, data: bytes) -> Receipt:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
    with Peer(source_script(Cloud(), fixed_answer(head, data))) as source:
        receipt = engine.migrate(source.url(), place).receipt
    assert receipt is not None
    return receipt


def row_of(id: int, name: str, receipt: Receipt) -> TransferRow:
    return TransferRow(
        id=id,
        name=name,
        state=receipt.state.value,
        size=receipt.bytes,
        bytes=receipt.bytes,
        resent=0,
        attempts=1,
        seconds=0.1,
        level=receipt.level.value,
        error=None,
        reason=None,
        receipt=dict(receipt.to_json()),
        ended=1.0,
    )


@pytest.fixture
def compare(engine: Engine, place: Place, tmp_path: Path) -> Callable[..., ReceiptComparison]:
    def compare(rows: list[TransferRow], **options: object) -> ReceiptComparison:
        return ReceiptComparison(
            place("tree/").folder(),
            rows,
            engine.runner.stores,
            limits=engine.runner.limits,
            space=SpillSpace(tmp_path / "runs", 1 << 20, held_rows=3),
            slots=3,
            **options,  # type: ignore[arg-type]
        )

    return compare


@pytest.mark.timeout(120)
def test_every_change_is_found(
    engine: Engine, place: Place, compare: Callable[..., ReceiptComparison], tmp_path: Path
) -> None:
    """Without reading, nothing that changed counts as the same."""
    tree, rows = place("tree/").folder(), []
    for number, (name, (moved, _, _)) in enumerate(PLANTED.items()):
        receipt = put(engine, tree.below(name, destination=True), moved)
        rows.append(row_of(number, name, receipt))
    comparison = compare(rows)
    assert {one.verdict.value for one in comparison.findings()} <= {"same", "unproved"}
    for name, (moved, now, _) in PLANTED.items():
        at = tree.below(name, destination=True)
        if now is None:
            engine.runner.stores.destination(at, Watchdog(engine.runner.limits)).delete(
                at, Version()
            )
        elif now != moved or name == "again":
            put(engine, at, now)
    put(engine, tree.below("new", destination=True), GOOD)
    expected = {name: verdict for name, (_, _, verdict) in PLANTED.items()}
    for reads in Reads:
        comparison = compare(rows, reads=reads)
        found = {one.name: one.verdict.value for one in comparison.findings()}
        assert comparison.report.others == 1
        if reads is Reads.NONE:
            certain = {name for name, verdict in found.items() if verdict != "unproved"}
            assert certain >= {"empty", "missing", "truncated"}
            found.update({name: expected[name] for name in found if name not in certain})
        assert found == expected, reads
    sample = NameSample(100, "seed")
    comparison = compare(rows, reads=Reads.ALL, sample=sample)
    found = {one.name: one.verdict.value for one in comparison.findings()}
    assert found == expected and sample.defects == 5 and sample.bound is None
    assert not list((tmp_path / "runs").iterdir())


def test_a_receipt_that_proves_less_is_not_believed(
    engine: Engine, place: Place, compare: Callable[..., ReceiptComparison], kind: str
) -> None:
    if kind != "memory":
        pytest.skip("one store is enough")
    receipt = put(engine, place("tree/").folder().below("a", destination=True), GOOD)
    row = row_of(1, "a", receipt)
    for bad, detail in (
        (
            replace(row, state="skipped", receipt={"notes": ["unchanged"]}),
            "the migration skipped it",
        ),
        (
            replace(row, state="failed", receipt=None, error={"detail": "refused"}),
            "failed: refused",
        ),
        (replace(row, state="queued", receipt=None), "its transfer is queued"),
        (replace(row, state="unverified"), "read the source to its end"),
    ):
        (found,) = compare([bad], reads=Reads.ALL).findings()
        assert found.verdict.value == "unproved" and detail in found.detail
