"""Signed reports of both ledgers: what they say of each object, one moment, the chain of reports,
and a check that refuses every change."""

from __future__ import annotations

import hashlib
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text, update

from relay.errors import OutputFailed, ReportRefused
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.pages import TransferRow
from relay.ledger.report_ledger import ReportLedger, _rows_by_name
from relay.ledger.schema import transfers
from relay.receipt import Level, Receipt, Version
from relay.reports.report_check import CheckedReport, check_report
from relay.reports.report_folder import ReportFolder
from relay.reports.report_members import FORMAT, object_members
from relay.reports.report_writer import WrittenReport, write_report
from relay.reports.signing_keys import SigningKey
from tests.ledgers import OBJECT, TREE, Opened

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
FILES = ["objects.jsonl", "objects.jsonl.sig", "report.json", "report.json.sig"]
NOON = 1_800_000_000.5
TEN_PB = 10**16
"""More than 2^53, of which JSON's readers lose the last digit."""


def receipt_of(level: Level, size: int = 5, **members: Any) -> dict[str, Any]:
    """Return a receipt as a settlement has it."""
    made = Receipt(
        level=level,
        bytes=size,
        digests={"crc64nvme": b"\x01" * 8},
        source=Version(size, '"read"', digests={"crc32c": b"\x02" * 4}),
        destination=Version(size, '"written"', id="v1"),
        attempts=1,
        bytes_resent=0,
        **members,
    )
    return dict(made.to_json())


def end_of(claim: Claim, level: Level, size: int = 5, **members: Any) -> Settlement:
    """Return the end of a claim with a receipt of a level."""
    receipt = receipt_of(level, size, **members)
    verb = "unverified" if level is Level.SIZE else "verified"
    return Settlement(claim, verb, bytes=size, level=level.value, receipt=receipt)


ERROR = {"code": "not-found", "side": "source", "detail": "a is not there", "hint": "Look."}
NAMES = ["B", "a", "a-b", "a/b", "z", "~", "\x7f", "é", "\uffff", "\U0001f600"]
"""In the order of their UTF-8 bytes, which is not that of a language, nor of UTF-16."""


def filled_tree(ledger: Ledger, names: list[str] = NAMES) -> str:
    """Accept a tree with objects of these names, each of which ends in another way: all proofs, a
    skip, a failure, and the others still queued. Return its id."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    page = [ListedObject(name, size=7, etag='"1"', modified=1.5, url=None) for name in names[::-1]]
    ledger.listings.add_page(listing, page, page[-1].name)
    ledger.listings.end(listing)
    claims = sorted(ledger.claims.claim(7), key=lambda claim: claim.name.encode())
    ends: list[Callable[[Claim], Settlement]] = [
        lambda claim: end_of(claim, Level.READ_BACK),
        lambda claim: end_of(claim, Level.WHOLE_DIGEST, TEN_PB),
        lambda claim: end_of(claim, Level.PART_DIGESTS, notes=("no tags are kept",)),
        lambda claim: end_of(claim, Level.SIZE),
        lambda claim: Settlement(claim, "skipped", bytes=7, receipt={"notes": ["it was there"]}),
        lambda claim: Settlement(claim, "failed", error=ERROR),
    ]
    ledger.claims.settle([end(claim) for end, claim in zip(ends, claims, strict=False)])
    return migration.id


def write(ledger: Ledger, id: str, folder: Path) -> WrittenReport:
    """Write a report."""
    with ReportFolder(folder) as opened:
        return write_report(ledger, id, KEY, opened, lambda: NOON)


def check(folder: Path, key: SigningKey = KEY) -> CheckedReport:
    """Check a report, with one allowed key."""
    return check_report(folder, lambda blob: "me" if blob == key.blob else None)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of a report."""
    return [json.loads(line) for line in (folder / "objects.jsonl").read_bytes().splitlines()]


def test_a_report_says_what_was_proved_of_each_object(open_ledger: Opened, tmp_path: Path) -> None:
    ledger, folder = open_ledger(), tmp_path / "report"
    written = write(ledger, filled_tree(ledger), folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    lines = lines_of(folder)
    assert [line["name"] for line in lines] == NAMES
    ends = {line["name"]: (line["state"], line.get("level")) for line in lines}
    assert [end for end in ends.values() if end[0] not in ("queued", "running")] == [
        ("verified", "read_back"),
        ("verified", "whole_digest"),
        ("verified", "part_digests"),
        ("unverified", "size"),
        ("skipped", None),
        ("failed", None),
    ]
    claimed = [line for line in lines if line["state"] != "queued"]
    first, *_, skipped, failed, _running = claimed
    assert first | {"name": "", "ended": ""} == {
        "name": "",
        "state": "verified",
        "level": "read_back",
        "bytes": "5",
        "bytes_resent": "0",
        "attempts": 1,
        "ended": "",
        "digests": {"crc64nvme": "01" * 8},
        "source": {"etag": '"read"', "size": "5", "digests": {"crc32c": "02" * 4}},
        "destination": {"etag": '"written"', "size": "5", "version": "v1"},
    }
    assert claimed[1]["bytes"] == str(TEN_PB)
    assert skipped["notes"] == ["it was there"] and "digests" not in skipped
    assert failed["error"] == {name: ERROR[name] for name in ("code", "side", "detail")}
    report = json.loads((folder / "report.json").read_bytes())
    assert report["totals"]["verified"] == {
        "objects": "3",
        "bytes": str(TEN_PB + 10),
        "levels": {
            "read_back": {"objects": "1", "bytes": "5"},
            "whole_digest": {"objects": "1", "bytes": str(TEN_PB)},
            "part_digests": {"objects": "1", "bytes": "5"},
        },
    }
    assert report["totals"]["failed"] == {"objects": "1", "bytes": "7"}
    assert report["objects"]["rows"] == "10" and report["made"] == "2027-01-15T08:00:00Z"
    assert (report["source"], report["destination"]) == (TREE.source, TREE.destination)
    assert report["migration"]["state"] == "running"
    assert any("CRC64NVME" in remark and "malice" in remark for remark in report["remarks"])
    checked = check(folder)
    assert (checked.principals, checked.fingerprint) == ("me", KEY.fingerprint)
    assert checked.sha256 == written.sha256 and not checked.is_all_proved
    for name in ("report.json", "objects.jsonl"):
        for line in (folder / name).read_bytes().splitlines():
            assert rfc8785.dumps(json.loads(line)) == line


def row_of(**members: Any) -> TransferRow:
    """Return a row of the ledger."""
    common: dict[str, Any] = dict.fromkeys(TransferRow.__dataclass_fields__)
    return TransferRow(**common | {"id": 1, "name": "a", "resent": 0, "attempts": 1} | members)


@pytest.mark.parametrize("state", ["queued", "running", "failed", "cancelled", "skipped"])
def test_an_old_receipt_proves_nothing(state: str) -> None:
    """Of an object that moves again, or that is there for another reason."""
    row = row_of(state=state, level="read_back", receipt=receipt_of(Level.READ_BACK))
    found = object_members(row, "a")
    assert found["state"] == state
    assert not found.keys() & {"level", "digests", "source", "destination"}


@pytest.mark.parametrize("receipt", [None, {}, {"notes": ["x"]}, receipt_of(Level.SIZE)])
def test_an_object_without_a_proof_is_not_verified(receipt: dict[str, Any] | None) -> None:
    """Whatever its row says."""
    found = object_members(row_of(state="verified", level="read_back", receipt=receipt), "a")
    assert found["state"] == "unverified" and found.get("level") in (None, "size")


def test_an_error_with_a_name_that_is_not_utf8(open_ledger: Opened, tmp_path: Path) -> None:
    """As the name of a local file may be: its bytes are escaped."""
    ledger = open_ledger()
    id = filled_tree(ledger, ["a"])
    (claim,) = ledger.page(id)
    error = {**ERROR, "detail": "caf\udce9 is not there"}
    ledger.database.run(
        lambda c: c.execute(
            update(transfers)
            .where(transfers.c.id == claim.id)
            .values(state="failed", error=json.dumps(error))
        )
    )
    write(ledger, id, tmp_path / "report")
    (line,) = lines_of(tmp_path / "report")
    assert line["error"]["detail"] == "caf\\udce9 is not there"
    assert check(tmp_path / "report").totals.objects == 1


def test_a_single_object_has_the_name_of_its_source(open_ledger: Opened, tmp_path: Path) -> None:
    """And nothing of its credentials."""
    ledger = open_ledger()
    migration, _ = ledger.create(OBJECT)
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([end_of(claim, Level.WHOLE_DIGEST)])
    ledger.finish()
    write(ledger, migration.id, tmp_path / "report")
    assert [line["name"] for line in lines_of(tmp_path / "report")] == [OBJECT.source]
    assert check(tmp_path / "report").is_all_proved
    assert not any(b"secret" in (tmp_path / "report" / name).read_bytes() for name in FILES)


def test_a_report_is_about_one_moment(open_ledger: Opened, tmp_path: Path) -> None:
    """Objects that end meanwhile have in it the state that they had when it began."""
    ledger, other = open_ledger(), open_ledger()
    id = filled_tree(ledger)
    running = [row.name for row in ledger.page(id, ["running"])]

    def settle_meanwhile(_: Any, rows: Any) -> list[TransferRow]:
        found = [next(rows)]
        claims = other.claims.claim(10)
        other.claims.settle([end_of(claim, Level.READ_BACK) for claim in claims])
        assert claims
        return [*found, *rows]

    found = ledger.reports.at_one_moment(id, settle_meanwhile)
    assert [row.name for row in found] == NAMES
    assert [row.state for row in found].count("queued") == 3
    assert [row.name for row in found if row.state == "running"] == running
    assert len(ledger.page(id, ["queued"])) == 0


def test_each_report_names_the_one_before(open_ledger: Opened, tmp_path: Path) -> None:
    """Of its migration, also one that a crash kept back, or another process has signed."""
    ledger, other = open_ledger(), open_ledger()
    id, another = filled_tree(ledger), filled_tree(ledger)
    first = write(ledger, id, tmp_path / "1")
    second = write(other, id, tmp_path / "2")
    assert (first.previous, second.previous) == (None, first.sha256)
    assert write(ledger, another, tmp_path / "3").previous is None
    for number, written in ((1, first), (2, second)):
        report = (tmp_path / str(number) / "report.json").read_bytes()
        assert hashlib.sha256(report).hexdigest() == written.sha256
        assert json.loads(report)["previous"] == written.previous
    assert not ledger.reports.record(id, first.sha256, "c")
    assert ledger.reports.record(id, second.sha256, "c")
    assert write(ledger, id, tmp_path / "4").previous == "c"
    assert [e["sha256"] for e in ledger.events.all(id) if e["kind"] == "report_signed"][:3] == [
        first.sha256,
        second.sha256,
        "c",
    ]


def test_a_report_that_is_signed_meanwhile_is_named(
    open_ledger: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, other = open_ledger(), open_ledger()
    id = filled_tree(ledger)
    last, seen = ReportLedger.last, list[str | None]()

    def sign_another(self: ReportLedger, of: str) -> str | None:
        found = last(self, of)
        if not seen:  # it is signed after this report has looked for the one before
            seen.append(found)
            seen.append(write(other, id, tmp_path / "between").sha256)
        return found

    monkeypatch.setattr(ReportLedger, "last", sign_another)
    written = write(ledger, id, tmp_path / "late")
    assert written.previous == seen[1] is not None
    assert check(tmp_path / "late").sha256 == written.sha256


def test_the_objects_come_by_an_index_of_sqlite(tmp_path: Path) -> None:
    """So that a million of them are not sorted in memory."""
    ledger = Ledger.connect(f"sqlite:///{tmp_path}/l.db")
    id = filled_tree(ledger)

    def plan(connection: Any) -> str:
        seen: list[str] = []
        driver = connection.connection.driver_connection
        driver.set_trace_callback(seen.append)
        assert len(list(_rows_by_name(connection, id))) == len(NAMES)
        driver.set_trace_callback(None)
        rows = connection.execute(text(f"EXPLAIN QUERY PLAN {seen[-1]}"))
        return "\n".join(row[3] for row in rows)

    steps = ledger.database.run(plan, write=False)
    ledger.close()
    assert "autoindex_transfers_1 (migration_id=?)" in steps and "TEMP B-TREE" not in steps


# -- changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a report of every kind of object."""
    ledger = Ledger.connect(f"sqlite:///{tmp_path}/l.db")
    write(ledger, filled_tree(ledger), tmp_path / "report")
    ledger.close()
    return tmp_path / "report"


def test_a_thousand_flipped_bits_are_refused(folder: Path) -> None:
    chance, refused = random.Random(17), 0
    good = {name: (folder / name).read_bytes() for name in FILES}
    assert check(folder)
    for _ in range(1000):
        name = chance.choice(FILES)
        at = chance.randrange(len(good[name]) * 8)
        flipped = bytearray(good[name])
        flipped[at // 8] ^= 1 << at % 8
        (folder / name).write_bytes(flipped)
        with pytest.raises(ReportRefused):
            check(folder)
        refused += 1
        (folder / name).write_bytes(good[name])
    assert refused == 1000 and check(folder)


def sign_again(folder: Path, key: SigningKey = KEY) -> None:
    """Sign the files as they are, and put the digest of the objects into the report."""
    objects, path = (folder / "objects.jsonl").read_bytes(), folder / "report.json"
    report = json.loads(path.read_bytes())
    report["objects"]["sha256"] = hashlib.sha256(objects).hexdigest()
    path.write_bytes(rfc8785.dumps(report) + b"\n")
    for name in ("objects.jsonl", "report.json"):
        digest = hashlib.sha512((folder / name).read_bytes()).digest()
        (folder / f"{name}.sig").write_text(key.sign(digest))


def edit(name: str, before: str, after: str) -> Callable[[Path], None]:
    """Return a change of a file's text, which is signed again."""

    def change(folder: Path) -> None:
        found = (folder / name).read_text(encoding="utf-8")
        assert before in found
        (folder / name).write_text(found.replace(before, after, 1), encoding="utf-8")
        sign_again(folder)

    return change


def swap_lines(folder: Path) -> None:
    lines = (folder / "objects.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "objects.jsonl").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    sign_again(folder)


def repeat_line(folder: Path) -> None:
    lines = (folder / "objects.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "objects.jsonl").write_bytes(b"".join([lines[0], *lines]))
    sign_again(folder)


OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unsigned": (lambda f: (f / "report.json.sig").unlink(), "the file is not signed"),
    "objects unsigned": (lambda f: (f / "objects.jsonl.sig").unlink(), "the file is not signed"),
    "no report": (lambda f: (f / "report.json").unlink(), "no report"),
    "no objects": (lambda f: (f / "objects.jsonl").unlink(), "missing"),
    "an object cut off": (
        lambda f: (f / "objects.jsonl").write_bytes((f / "objects.jsonl").read_bytes()[:-50]),
        "objects.jsonl was altered",
    ),
    "a byte more": (
        lambda f: (f / "report.json").write_bytes((f / "report.json").read_bytes() + b"\n"),
        "altered since it was signed",
    ),
    "an empty signature": (lambda f: (f / "report.json.sig").write_text(""), "not a signature"),
    "a folder": (
        lambda f: ((f / "report.json").unlink(), (f / "report.json").mkdir()),
        "can't be read",
    ),
    "another's key": (lambda f: sign_again(f, OTHER), "not allowed to sign"),
    "the other file's signature": (
        lambda f: (f / "report.json.sig").write_text((f / "objects.jsonl.sig").read_text()),
        "altered since it was signed",
    ),
    "a later format": (edit("report.json", FORMAT, "relay-report@2"), "this relay knows"),
    "not a report": (edit("report.json", '"made"', '"mode"'), "not a report of relay"),
    "a total": (edit("report.json", '"objects":"3"', '"objects":"4"'), "totals"),
    "a number of rows": (edit("report.json", '"rows":"10"', '"rows":"11"'), "totals"),
    "a claim beyond its proof": (
        edit("objects.jsonl", '"level":"size"', '"level":"none"'),
        "7 is not an object of a report",
    ),
    "a verified one that is not": (
        edit("objects.jsonl", '"state":"skipped"', '"state":"verified"'),
        "8 is not an object of a report",
    ),
    "an unknown state": (
        edit("objects.jsonl", '"state":"skipped"', '"state":"proved"'),
        "8 is not an object of a report",
    ),
    "lines that are swapped": (swap_lines, "2 is not in the order"),
    "a line twice": (repeat_line, "2 is not in the order"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_report_that_is_not_as_it_was_signed(change: str, folder: Path) -> None:
    """Also one that its signer has made wrong."""
    act, says = CHANGES[change]
    act(folder)
    with pytest.raises(ReportRefused, match=says):
        check(folder)


# -- the folder


def test_nothing_that_exists_is_replaced(folder: Path, tmp_path: Path) -> None:
    before = (folder / "report.json").read_bytes()
    for place in (folder, tmp_path / "l.db"):
        with pytest.raises(OutputFailed, match="exists already"), ReportFolder(place):
            pass
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputFailed, match="exists already"), ReportFolder(tmp_path / "link"):
        pass
    assert (folder / "report.json").read_bytes() == before


def test_a_folder_that_came_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(OutputFailed, match="exists already"):
        with ReportFolder(tmp_path / "new") as opened:
            (tmp_path / "new").mkdir()
            (tmp_path / "new/file").write_text("")
            opened.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_recorded_report_is_never_removed(open_ledger: Opened, tmp_path: Path) -> None:
    """It is kept under its other name, since the next report names it."""
    ledger, final = open_ledger(), tmp_path / "report"
    id = filled_tree(ledger)

    def noon_and_another_folder() -> float:
        final.mkdir()
        return NOON

    opened = ReportFolder(final)
    with pytest.raises(OutputFailed, match="exists already"), opened:
        write_report(ledger, id, KEY, opened, noon_and_another_folder)
    assert opened.kept_place is not None and check(opened.kept_place).totals.objects == len(NAMES)
    digest = hashlib.sha256((opened.kept_place / "report.json").read_bytes()).hexdigest()
    assert write(ledger, id, tmp_path / "next").previous == digest


def test_a_report_that_was_not_recorded_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another report was signed before it, and its repetition fails."""
    ledger, clock = Ledger.connect(f"sqlite:///{tmp_path}/l.db"), iter([NOON])
    id = filled_tree(ledger)
    monkeypatch.setattr(ReportLedger, "record", lambda *_: False)
    opened = ReportFolder(tmp_path / "report")
    with pytest.raises(StopIteration), opened:
        write_report(ledger, id, KEY, opened, clock.__next__)
    assert opened.kept_place is None and not list(tmp_path.glob(".report*"))
    ledger.close()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        with ReportFolder(tmp_path / "new") as opened, opened.writing("report.json"):
            raise KeyError
    with pytest.raises(OutputFailed, match="No such file"):
        with ReportFolder(tmp_path / "none/new"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    ledger = Ledger.connect(f"sqlite:///{tmp_path}/l.db")
    id = filled_tree(ledger)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ReportFolder(tmp_path / "report") as opened:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(OutputFailed, match="can't be written"):
                write_report(ledger, id, KEY, opened, lambda: NOON)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "report").exists()
    assert ledger.reports.last(id) is None
    ledger.close()
