"""Inventories: every planted defect is found from the files alone, and a gap is never a difference."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from relay.engine.comparison_report import NameFinding
from relay.engine.inventory_comparison import InventoryComparison
from relay.errors import InventoryRefused
from relay.inventories.inventory_files import Inventory, open_inventory
from relay.sorting.spill import SpillSpace

START = 1_700_000_000
OLD, NEW = "2023-11-01T00:00:00.000Z", "2023-11-20T00:00:00.000Z"
S3_COLUMNS = (
    *("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate"),
    *("ETag", "EncryptionStatus", "ChecksumAlgorithm"),
)


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test of an inventory open a socket."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an inventory needs no request")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@dataclass(frozen=True, kw_only=True)
class Object:
    """One object of a store."""

    name: str
    data: bytes = b"data"
    modified: str = OLD
    encryption: str = "SSE-S3"
    parts: int = 0
    is_latest: bool = True
    is_marker: bool = False

    @property
    def md5(self) -> bytes:
        return hashlib.md5(self.data, usedforsecurity=False).digest()


def csv_of(rows: Sequence[Sequence[str]], quoting: int = csv.QUOTE_ALL) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode("utf-8", "surrogateescape")


def s3_cells(one: Object) -> list[str]:
    etag = f"{one.md5.hex()}-{one.parts}" if one.parts else one.md5.hex()
    key = quote(one.name, safe="/~-._").replace("%20", "+")
    latest, marker = str(one.is_latest).lower(), str(one.is_marker).lower()
    return [
        *("bucket", key, "v1", latest, marker, str(len(one.data)), one.modified),
        *(etag, one.encryption, "CRC64NVME"),
    ]


def write_s3(
    folder: Path, objects: Sequence[Object], shards: int = 2, begun: int = START, **more: Any
) -> Path:
    """Write an inventory as S3 does; return its manifest."""
    (folder / "data").mkdir(parents=True)
    (folder / "2023-11-14T01-00Z").mkdir()
    files = []
    for number in range(shards):
        name = f"{number}.csv.gz"
        data = gzip.compress(csv_of([s3_cells(one) for one in objects[number::shards]]))
        (folder / "data" / name).write_bytes(data)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        files.append({"key": f"x/bucket/y/data/{name}", "size": len(data), "MD5checksum": md5})
    manifest = {
        "sourceBucket": "bucket",
        "creationTimestamp": str(begun * 1000),
        "fileFormat": "CSV",
        "fileSchema": ", ".join(S3_COLUMNS),
        "files": files,
        **more,
    }
    path = folder / "2023-11-14T01-00Z" / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def write_gcs(folder: Path, objects: Sequence[Object], **more: Any) -> Path:
    """Write an inventory report as Cloud Storage does; return its manifest."""
    folder.mkdir()
    fields = ["bucket", "name", "size", "updated", "timeDeleted", "md5Hash"]
    rows = [
        ["b", one.name, str(len(one.data)), one.modified, "", base64.b64encode(one.md5).decode()]
        for one in objects
    ]
    (folder / "r_0.csv").write_bytes(csv_of([fields, *rows], csv.QUOTE_MINIMAL))
    manifest = {
        "report_config": {
            "csvOptions": {"delimiter": ",", "headerRequired": True},
            "objectMetadataReportOptions": {"metadataFields": fields},
        },
        "records_processed": len(rows),
        "snapshot_time": "2023-11-14T22:13:20Z",
        "shard_count": 1,
        "report_shards_file_names": ["r_0.csv"],
        **more,
    }
    path = folder / "r_manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def write_azure(folder: Path, objects: Sequence[Object], **more: Any) -> Path:
    folder.mkdir()
    fields = ["Name", "Content-Length", "Last-Modified", "Content-MD5", "VersionId"]
    fields += ["IsCurrentVersion", "Snapshot"]
    rows = [
        [
            *(f"box/{one.name}", str(len(one.data)), one.modified),
            *(base64.b64encode(one.md5).decode(), "v", str(one.is_latest).lower(), ""),
        ]
        for one in objects
    ]
    data = csv_of([fields, *rows], csv.QUOTE_MINIMAL)
    (folder / "rule.csv").write_bytes(data)
    manifest = {
        "files": [{"blob": "2023/11/14/rule.csv", "size": len(data)}],
        "inventoryStartTime": "2023-11-14T22:13:20Z",
        "ruleDefinition": {"format": "csv", "objectType": "blob"},
        "status": "Succeeded",
        **more,
    }
    path = folder / "rule-manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def compare(home: Path, ours: Inventory, theirs: Inventory, held: int = 7) -> InventoryComparison:
    return InventoryComparison(ours, theirs, space=SpillSpace(home, 1 << 20, held_rows=held))


def verdicts(found: Sequence[NameFinding]) -> dict[str, str]:
    return {one.name: f"{one.verdict} {one.basis}" for one in found}


PLANTED: Mapping[str, tuple[Object | None, Object | None, str]] = {
    "flipped": (Object(name="flipped"), Object(name="flipped", data=b"dat@"), "differs digest"),
    "short": (Object(name="short"), Object(name="short", data=b"dat"), "differs size"),
    "gone": (Object(name="gone"), None, "missing listing"),
    "extra": (None, Object(name="extra"), "extra listing"),
    "empty": (Object(name="empty", data=b""), Object(name="empty", data=b""), "same size"),
    "parts": (Object(name="parts", parts=3), Object(name="parts"), "unproved nothing"),
    "kms": (
        Object(name="kms", encryption="SSE-KMS", data=b"1234"),
        Object(name="kms"),
        "unproved nothing",
    ),
    "sp ace/+%é\n": (Object(name="sp ace/+%é\n"), Object(name="sp ace/+%é\n"), "same digest"),
    "newer": (
        Object(name="newer", data=b"abcd", modified=NEW),
        Object(name="newer"),
        "too-new digest",
    ),
    "written": (Object(name="written", modified=NEW), None, "too-new listing"),
    "copied": (Object(name="copied", modified=NEW), Object(name="copied"), "same digest"),
}
"""The object at the source and at the destination, and its verdict."""


@pytest.mark.parametrize("writes", [write_s3, write_gcs, write_azure])
def test_every_planted_defect_is_found(tmp_path: Path, writes: Any) -> None:
    many = [Object(name=f"f/{number:03}", data=bytes([number])) for number in range(200)]
    rows = list(PLANTED.values())
    ours = [*many, *(one for one, _, _ in rows if one is not None)]
    theirs = [*many, *(one for _, one, _ in rows if one is not None)]
    random.Random(4).shuffle(ours)
    random.Random(5).shuffle(theirs)
    hidden = [Object(name="f/000", data=b"old", is_latest=False)]
    marker = [Object(name="deleted", data=b"", is_latest=True, is_marker=True)]
    folders = [Object(name="f/", data=b"")]
    ours_at = write_s3(tmp_path / "a", [*ours, *hidden, *marker, *folders], shards=3)
    theirs_at = writes(tmp_path / "b", theirs)
    comparison = compare(
        tmp_path,
        open_inventory(ours_at),
        open_inventory(theirs_at, "box" if writes is write_azure else ""),
    )
    found = verdicts(list(comparison.findings()))
    assert found == {
        **{one.name: "same digest" for one in many},
        **{name: verdict for name, (_, _, verdict) in PLANTED.items()},
    }
    report = comparison.report
    assert not report.unlisted and report.has_differences
    assert comparison.source.markers == 1
    assert not list(tmp_path.glob(".relay-spill*"))


@pytest.mark.parametrize("harm", ["missing", "altered", "cut"])
def test_a_shard_that_is_not_whole_is_a_gap(tmp_path: Path, harm: str) -> None:
    """Names of the other side are neither missing nor extra then, and nothing counts as proved."""
    objects = [Object(name=f"{number:02}") for number in range(20)]
    ours, theirs = write_s3(tmp_path / "a", objects), write_s3(tmp_path / "b", objects)
    shard = tmp_path / "b" / "data" / "1.csv.gz"
    data = shard.read_bytes()
    shard.write_bytes(data[:-9] + data[-9:][::-1] if harm == "altered" else data[:-9])
    if harm == "missing":
        shard.unlink()
    comparison = compare(tmp_path, open_inventory(ours), open_inventory(theirs))
    found = verdicts(list(comparison.findings()))
    assert set(found.values()) == {"same digest", "unproved nothing"}
    assert list(found.values()).count("same digest") == 10
    report = comparison.report
    assert report.unlisted == 1 and not report.is_proved and not report.has_differences
    assert "1.csv.gz" in report.folders[0][2]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"records_processed": 9}, "names 9 rows, and 3 were read"),
        ({"shard_count": 2}, "names 1 of 2 shards"),
    ],
)
def test_a_report_with_too_few_rows_is_a_gap(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    objects = [Object(name=name) for name in "abc"]
    ours, theirs = write_gcs(tmp_path / "a", objects), write_gcs(tmp_path / "b", objects, **more)
    comparison = compare(tmp_path, open_inventory(ours), open_inventory(theirs))
    assert set(verdicts(list(comparison.findings())).values()) == {"same digest"}
    assert not comparison.report.is_proved and said in comparison.report.folders[0][2]


def test_rows_that_can_not_be_read_are_gaps(tmp_path: Path) -> None:
    good = hashlib.md5(b"data", usedforsecurity=False).hexdigest()
    (tmp_path / "a.csv").write_text(f"name,size,md5\na,4,{good}\nb,4,{good}\nc,4,{good}\n")
    for text in (f"name,size,md5\na,4,{good}\nb,4\n", f"name,size,md5\na,4,{good}\nb,-4,{good}\n"):
        (tmp_path / "b.csv").write_text(text)
        ours, theirs = open_inventory(tmp_path / "a.csv"), open_inventory(tmp_path / "b.csv")
        comparison = compare(tmp_path, ours, theirs)
        assert verdicts(list(comparison.findings())) == {
            "a": "same digest",
            "b": "unproved nothing",
            "c": "unproved nothing",
        }
        assert comparison.report.unlisted == 1


def test_a_list_of_rclone_is_compared(tmp_path: Path) -> None:
    """`rclone lsjson -R --hash` prints an object a line; a list that is cut has no end."""
    md5 = hashlib.md5(b"data", usedforsecurity=False).hexdigest()
    rows = [
        {"Path": "d", "Name": "d", "Size": -1, "ModTime": OLD, "IsDir": True},
        *(
            {"Path": name, "Size": 4, "ModTime": OLD, "IsDir": False, "Hashes": {"md5": md5}}
            for name in ("d/é", "a")
        ),
    ]
    text = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    ours = write_s3(tmp_path / "a", [Object(name="a"), Object(name="d/é"), Object(name="z")])
    listed = tmp_path / "list.json"
    for kept, gone in ((text, "missing listing"), (text[:-3], "unproved nothing")):
        listed.write_text(kept)
        comparison = compare(tmp_path, open_inventory(ours), open_inventory(listed))
        found = verdicts(list(comparison.findings()))
        assert found == {"a": "same digest", "d/é": "same digest", "z": gone}


def test_etags_that_may_be_no_md5_prove_no_difference(tmp_path: Path) -> None:
    """Without the state of the encryption an equal MD5 is a proof, and another one is none."""
    ours = [Object(name="a", encryption=""), Object(name="b", encryption="")]
    theirs = [Object(name="a", encryption=""), Object(name="b", encryption="", data=b"dat@")]
    paths = write_s3(tmp_path / "a", ours), write_s3(tmp_path / "b", theirs)
    comparison = compare(tmp_path, *map(open_inventory, paths))
    found = verdicts(list(comparison.findings()))
    assert found == {"a": "same etag", "b": "unproved nothing"}


def test_only_a_folder_is_compared(tmp_path: Path) -> None:
    ours = write_s3(tmp_path / "a", [Object(name="x/a"), Object(name="xa"), Object(name="y/b")])
    theirs = write_s3(tmp_path / "b", [Object(name="to/here/a"), Object(name="b")])
    comparison = compare(
        tmp_path, open_inventory(ours, "x"), open_inventory(theirs.parent, "to/here/")
    )
    assert verdicts(list(comparison.findings())) == {"a": "same digest"}
    assert comparison.source.outside == 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("manifest.json", '{"fileSchema": "Bucket, Key", "fileFormat": "ORC"}', "ORC is not read"),
        ("manifest.json", '{"fileSchema": "Key", "fileFormat": "Parquet"}', "Parquet is not"),
        ("manifest.json", '{"fileSchema": "Key", "fileFormat": "CSV"}', "with a mistake"),
        ("manifest.json", "{", "with a mistake"),
        ("manifest.json", '{"a": 1}', "not a manifest of"),
        ("x.orc", "ORC", "ORC is not read"),
        ("x.csv", "a,b\n1,2\n", "column `name`"),
        ("x.csv.gz", "\x1f\x8bxx", "can't be read"),
    ],
)
def test_what_is_no_inventory_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(InventoryRefused, match=said):
        open_inventory(tmp_path / name)


def test_a_manifest_that_was_altered_is_refused(tmp_path: Path) -> None:
    path = write_s3(tmp_path / "a", [Object(name="a")])
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    path.with_suffix(".checksum").write_text(f"{digest}\n")
    assert open_inventory(path).dialect.store == "s3"
    path.write_text(path.read_text() + " ")
    with pytest.raises(InventoryRefused, match="MD5"):
        open_inventory(path)


def test_a_part_without_its_manifest_is_incomplete(tmp_path: Path) -> None:
    write_gcs(tmp_path / "a", [Object(name="a")])
    found = open_inventory(tmp_path / "a" / "r_0.csv")
    assert "without its manifest" in found.gaps[0]
    with pytest.raises(InventoryRefused, match="column 'key'"):
        path = write_s3(tmp_path / "b", [Object(name="a")], fileSchema=", ".join("abcdefghij"))
        list(open_inventory(path).rows())
