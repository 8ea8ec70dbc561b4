"""Deletions in a bucket that keeps versions, and compares ETags or does not: the simulated answers of
AWS (docs.aws.amazon.com, "Conditional deletes", "DeleteObject")."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.removal.probes import Probe, delete_as_objects
from relay.errors import NotFound, PermissionDenied, PreconditionFailed
from relay.ledger.deletion_values import Candidate, DeletionBasis, DeletionEnd, DeletionState
from relay.ledger.ledger import Ledger
from relay.location import Location
from relay.receipt import Version
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.s3.store import S3Store
from relay.stores.s3.version_deletes import VersionDeletes
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.end_to_end.terminal import bucket_terminal


@dataclass
class Bucket:
    """The versions of each key, the newest last; None is a delete marker."""

    compares: bool = True
    versioned: bool = True
    denied: bool = False
    versions: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    before_delete: str | None = None
    """A version that another writer puts there just before the next DELETE."""

    def put(self, key: str, id: str, etag: str) -> None:
        """Store one more version."""
        rows = self.versions.setdefault(key, [])
        if not self.versioned:
            rows.clear()
        rows.append((id, etag))

    def current(self, key: str) -> tuple[str, str | None] | None:
        """Return the newest version or marker."""
        rows = self.versions.get(key)
        return rows[-1] if rows else None


class Handler(BaseHTTPRequestHandler):
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, status: int, **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        if self.command != "HEAD":
            self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        """Answer with the current version."""
        found = self.bucket.current(urlsplit(self.path).path)
        if found is None:
            return self._answer(404)
        if found[1] is None:
            return self._answer(404, x_amz_delete_marker="true", x_amz_version_id=found[0])
        more = {"x_amz_version_id": found[0]} if self.bucket.versioned else {}
        self._answer(
            200,
            ETag=found[1],
            Content_Length="5",
            Last_Modified="Mon, 30 Nov 2026 12:00:00 GMT",
            **more,
        )

    def do_DELETE(self) -> None:
        """Delete a version, or make a marker, if the precondition holds."""
        bucket, path = self.bucket, urlsplit(self.path).path
        bucket.seen.append(f"{self.path} {self.headers.get('If-Match')}")
        if bucket.denied:
            return self._answer(403)
        if bucket.before_delete is not None:
            bucket.put(path, bucket.before_delete, '"another"')
            bucket.before_delete = None
        ids = parse_qs(urlsplit(self.path).query).get("versionId")
        rows = bucket.versions.setdefault(path, [])
        if ids:
            rows[:] = [row for row in rows if row[0] != ids[0]]
            return self._answer(204, x_amz_version_id=ids[0])
        wanted, found = self.headers.get("If-Match"), bucket.current(path)
        if bucket.compares and wanted is not None:
            if found is None or found[1] is None:
                return self._answer(404)
            if found[1] != wanted:
                return self._answer(412)
        if not bucket.versioned:
            rows.clear()
            return self._answer(204)
        marker = f"marker-{len(rows)}"
        rows.append((marker, None))
        self._answer(204, x_amz_delete_marker="true", x_amz_version_id=marker)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    found = Bucket()
    handler = type("Bound", (Handler,), {"bucket": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def place(bucket: Bucket) -> Location:
    bucket.put("/b/tree/a", "v1", '"one"')
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1")
    return s3_location(S3Config(signer, bucket.url), "b", "tree/a")  # type: ignore[attr-defined]


@pytest.fixture
def store(wire: Wire) -> S3Store:
    return S3Store(wire, "source", Watchdog(Limits()))


READ = Version(5, '"one"', "Mon, 30 Nov 2026 12:00:00 GMT", id="v1")


def test_a_marker_is_named_and_the_version_stays(
    bucket: Bucket, store: S3Store, place: Location
) -> None:
    done = store.delete_version(place, READ)
    assert (done.marker, done.window) == ("marker-1", True)
    assert bucket.versions["/b/tree/a"] == [("v1", '"one"'), ("marker-1", None)]
    assert bucket.seen == ['/b/tree/a "one"']
    with pytest.raises(NotFound):
        store.delete_version(place, READ)


def test_a_purge_deletes_one_version_for_good(
    bucket: Bucket, store: S3Store, place: Location
) -> None:
    bucket.versions["/b/tree/a"].insert(0, ("v0", '"none"'))
    done = store.delete_version(place, READ, purge=True)
    assert (done.marker, done.window) == (None, False)
    assert bucket.versions["/b/tree/a"] == [("v0", '"none"')]
    # A version that another writer puts on top meanwhile stays.
    bucket.put("/b/tree/a", "v1", '"one"')
    bucket.before_delete = "v2"
    store.delete_version(place, READ, purge=True)
    assert bucket.current("/b/tree/a") == ("v2", '"another"')


@pytest.mark.parametrize("purge", [True, False])
def test_an_object_older_than_the_versions_is_purged_too(
    bucket: Bucket, store: S3Store, place: Location, purge: bool
) -> None:
    bucket.versions["/b/tree/a"] = [("null", '"one"')]
    read = Version(5, '"one"', READ.last_modified)
    assert store.delete_version(place, read, purge=purge).marker == "marker-1"
    kept = [] if purge else [("null", '"one"')]
    assert bucket.versions["/b/tree/a"] == [*kept, ("marker-1", None)]


@pytest.mark.parametrize("versioned", [True, False])
def test_a_store_that_compares_closes_the_window(
    bucket: Bucket,
    store: S3Store,
    place: Location,
    versioned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket.versioned = versioned
    read = READ if versioned else Version(5, '"one"', READ.last_modified)
    monkeypatch.setattr(VersionDeletes, "is_conditional", lambda *_: True)
    bucket.before_delete = "v2"
    with pytest.raises(PreconditionFailed):
        store.delete_version(place, read)
    assert bucket.current("/b/tree/a") == ("v2", '"another"')
    bucket.put("/b/tree/a", "v1", '"one"')
    assert not store.delete_version(place, read).window


def test_another_version_with_the_same_bytes_is_kept(
    bucket: Bucket, store: S3Store, place: Location
) -> None:
    bucket.put("/b/tree/a", "v2", '"one"')
    with pytest.raises(PreconditionFailed, match="version id"):
        store.delete_version(place, READ)
    assert bucket.seen == []


def test_the_question_of_permission_leaves_nothing(
    bucket: Bucket, store: S3Store, place: Location
) -> None:
    folder = place.with_target("/b/tree/")
    for compares in (True, False):
        bucket.compares = compares
        store.require_deletes(folder)
        assert {key for key, rows in bucket.versions.items() if rows} == {"/b/tree/a"}
    bucket.denied = True
    with pytest.raises(PermissionDenied):
        store.require_deletes(folder)


def test_a_marker_is_removed_only_while_it_is_the_newest(
    bucket: Bucket, store: S3Store, place: Location
) -> None:
    marker = store.delete_version(place, READ).marker
    assert marker is not None
    assert store.remove_marker(place, marker) == READ
    assert bucket.versions["/b/tree/a"] == [("v1", '"one"')]
    marker = store.delete_version(place, READ).marker
    bucket.put("/b/tree/a", "v2", '"another"')
    assert marker is not None
    with pytest.raises(PreconditionFailed):
        store.remove_marker(place, marker)
    assert bucket.current("/b/tree/a") == ("v2", '"another"')


@pytest.mark.parametrize("is_newer", [False, True])
def test_a_mirror_is_undone(bucket: Bucket, tmp_path: Path, is_newer: bool) -> None:
    """The listing of both sides, and the copies, are as in other tests: here the rows of the ledger
    are written, and the command takes them back."""
    terminal = bucket_terminal(tmp_path, bucket.url, RELAY_EGRESS_ALLOW="127.0.0.1")  # type: ignore[attr-defined]
    ledger = Ledger.connect(f"sqlite:///{terminal.ledger}")
    (tmp_path / "from").mkdir()
    remotes = Remotes(folders=None)
    environment = {
        "AWS_ACCESS_KEY_ID": "KEY",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_ENDPOINT_URL_S3": bucket.url,  # type: ignore[attr-defined]
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        order = MigrationRequest(
            Endpoint(f"{tmp_path}/from/"), Endpoint("s3://b/tree/"), recursive=True, mirrors=True
        )
        id = ledger.create(order.spec(remotes))[0].id
    ledger.deletions.intend(id, "destination", [Candidate("a", READ, DeletionBasis.ABSENT)])
    bucket.versions["/b/tree/a"] = [("v1", '"one"'), ("m1", None)]
    if is_newer:
        bucket.put("/b/tree/a", "v2", '"another"')
    done = DeletionEnd("a", DeletionState.DELETED, marker="m1")
    ledger.deletions.settle(id, "destination", [done])
    ledger.close()
    code, out, err = terminal.run("undo", "1", "--json")
    assert (code, json.loads(out)["undone"]) == ((3, 0) if is_newer else (0, 1)), out + err
    assert bucket.current("/b/tree/a") == (("v2", '"another"') if is_newer else ("v1", '"one"'))
    if not is_newer:  # once
        assert json.loads(terminal.run("undo", "1", "--json")[1])["undone"] == 0


def test_a_bucket_with_versions_keeps_nothing_of_a_probe(
    bucket: Bucket, store: S3Store, place: Location
) -> None:
    stores: Any = SimpleNamespace(destination=lambda place, meter: store)
    probe = Probe(place, Version(5, '"one"', id="v1"), b"probe")
    delete_as_objects(stores, probe, store, Watchdog(Limits()), purge=False)
    assert not bucket.versions["/b/tree/a"]
