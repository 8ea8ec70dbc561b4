"""`relay doctor` over real servers: its findings match their known features, and it leaves nothing
behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.conftest import nginx, simulator, wsgidav, wsgidav_root  # noqa: F401 - the servers, as fixtures
from tests.end_to_end.test_cli import relay
from tests.seaweed import Seaweed

pytestmark = pytest.mark.timeout(60)


def examine(
    location: str, *words: str, code: int = 0, **settings: str
) -> dict[str, tuple[str, str]]:
    """Run it; return the answers with their meanings."""
    done = relay("doctor", location, "--json", *words, **settings)
    assert done.returncode == code, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        row["what"]: (row.get("answer", ""), row.get("means", row.get("level", ""))) for row in rows
    }


def test_a_local_folder(tmp_path: Path) -> None:
    found = examine(str(tmp_path))
    assert {what for what, (answer, _) in found.items() if answer == "no"} == {"digests", "parts"}
    assert found["expect"][1] == "read_back"
    assert list(tmp_path.iterdir()) == []


def test_s3(seaweed: Seaweed) -> None:
    found = examine(f"s3://{seaweed.bucket}/doctor/", **seaweed.environment)
    for what in (
        "write and read",
        "digests",
        "compares",
        "ranges",
        "parts",
        "unknown length",
        "broken upload",
        "names",
        "delete",
    ):
        assert found[what][0] == "yes", (what, found[what])
    assert "crc64nvme" in found["digests"][1]
    assert found["expect"][1] == "whole_digest"
    left = seaweed.client().list_objects_v2(Bucket=seaweed.bucket, Prefix="doctor/")
    assert left["KeyCount"] == 0
    assert "Uploads" not in seaweed.client().list_multipart_uploads(Bucket=seaweed.bucket)


def test_webdav(wsgidav: str, wsgidav_root: Path) -> None:  # noqa: F811 - a fixture
    (wsgidav_root / "doctor").mkdir()
    found = examine(f"webdav+{wsgidav}/doctor/")
    for what in ("write and read", "ranges", "appears whole", "broken upload", "listing", "delete"):
        assert found[what][0] == "yes", (what, found[what])
    assert found["conditional write"][0] == "yes"
    assert found["names"] == (
        "no",
        "lost or merged: #hash?query&=",
    )  # it treats the end of a Destination as a query
    assert found["parts"][0] == "no"
    assert list((wsgidav_root / "doctor").iterdir()) == []


def test_plain_http_that_shows_broken_uploads(wsgidav: str, wsgidav_root: Path) -> None:  # noqa: F811 - a fixture
    """WsgiDAV writes to the final name, and requires existing folders."""
    found = examine(f"{wsgidav}/nowhere/", code=1)
    assert found["write and read"][0] == "no"
    assert not (wsgidav_root / "nowhere").exists()


def test_plain_http(nginx: str) -> None:  # noqa: F811 - a fixture
    found = examine(f"{nginx}/doctor/")
    for what in ("write and read", "ranges", "if-match", "broken upload", "delete"):
        assert found[what][0] == "yes", (what, found[what])
    assert found["parts"][0] == "no"
    assert found["expect"][1] == "read_back"


@pytest.mark.parametrize(
    ("location", "code", "says"),
    [
        ("https://no-such-host.invalid/x/", 1, "does not resolve"),
        ("nosuch:thing", 2, "no remote"),
        ("ftp://host/x", 2, "is not supported"),
        ("/proc/nowhere", 1, "No such file"),
    ],
)
def test_an_unusable_profile_is_reported(location: str, code: int, says: str) -> None:
    done = relay("doctor", location)
    assert done.returncode == code
    assert says in done.stdout + done.stderr


def test_wrong_credentials_are_reported(seaweed: Seaweed) -> None:
    wrong = seaweed.environment | {"AWS_SECRET_ACCESS_KEY": "x" * 20}
    found = examine(f"s3://{seaweed.bucket}/doctor/", code=1, **wrong)
    assert found["write and read"][0] == "no"


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    found = examine(str(tmp_path), "--read-only")
    assert found["read"][0] == found["listing"][0] == "yes"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
