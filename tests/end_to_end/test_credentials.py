"""Credentials that expire during a migration (F25): the migration waits, arrived objects are kept,
and fresh credentials resume it. From HTTP to SeaweedFS, with a counting proxy before the bucket."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from simulators.proxy import Proxy
from simulators.source import Source
from tests.end_to_end.test_client import run
from tests.end_to_end.test_limits import until
from tests.end_to_end.test_migrations import has_ended, wait_for
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.seaweed import KEY, REGION, SECRET, Seaweed

MIB = 1 << 20
SIZE = 40 * MIB
PART = 5 * MIB
IN_FLIGHT = 2
SLACK = 512 * 1024
"""Heads, and the framing of signed bodies."""


@pytest.fixture
def way(seaweed: Seaweed) -> Iterator[Proxy]:
    """Return the route to it, which counts."""
    with Proxy(seaweed.endpoint.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def server(tmp_path: Path, way: Proxy) -> Iterator[Server]:
    """Return a relay of two workers that knows the bucket as `far:`."""
    (tmp_path / "relay.toml").write_text(
        f'[remotes.far]\ntype = "s3"\nendpoint = "{way.url()}"\naccess_key_id = "{KEY}"\n'
        f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
    )
    settings = {
        "RELAY_CONFIG": str(tmp_path / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{tmp_path}/relay.db",
        "RELAY_WORKERS": "2",
        "RELAY_PARTED_BYTES": str(12 * MIB),
        "RELAY_PART_BYTES": str(PART),
        "RELAY_PARTS_IN_FLIGHT": str(IN_FLIGHT),
        "RELAY_SETTLE_SECONDS": "2",
        "RELAY_LOCAL_FOLDERS": str(tmp_path),
    }
    with run_server(SERVE, **settings) as made:
        yield made


def is_paused(migration: dict[str, Any]) -> bool:
    """Return whether it waits, and none of its transfers runs."""
    return migration["state"] == "paused" and not migration["under_way"]


def kept_bytes(ledger: Path, seaweed: Seaweed, key: str) -> int:
    """Return the number of bytes in parts that the ledger knows; the bucket must have every part.

    It may have one or two more, which arrived too late to be recorded."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as connection:
        known = {
            number for (number,) in connection.execute("SELECT number FROM parts WHERE etag != ''")
        }
    client = seaweed.client()
    uploads = client.list_multipart_uploads(Bucket=seaweed.bucket).get("Uploads", [])
    (upload,) = [upload["UploadId"] for upload in uploads if upload["Key"] == key]
    parts = client.list_parts(Bucket=seaweed.bucket, Key=key, UploadId=upload).get("Parts", [])
    assert known <= {part["PartNumber"] for part in parts}
    return len(known) * PART


# -- one object


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "asked", [{"Prefer": "respond-async"}, {"Idempotency-Key": "the-photos"}], ids=["async", "key"]
)
def test_f25_an_expired_signature_loses_no_arrived_part(
    seaweed: Seaweed, way: Proxy, server: Server, tmp_path: Path, asked: dict[str, str]
) -> None:
    key = f"f25/{'-'.join(asked)}"
    with Source(seed="f25") as source:
        url = source.url(f"/{key}?size={SIZE}")
        expiring = f"{url}&X-Amz-Signature=stale-secret&X-Amz-Fault=on(GET,after(6,status(403)))"
        order = {"source": expiring, "destination": f"far:{seaweed.bucket}/{key}"}
        status, document = server.ask("POST", "/migrate", order, **asked)
        assert status == 202, document
        id = document["id"]
        document = wait_for(server, id, is_paused)
        assert (document["error"]["code"], document["error"]["side"]) == (
            "store-credentials-withdrawn",
            "source",
        )
        assert "stale-secret" not in json.dumps(document)
        kept = kept_bytes(tmp_path / "relay.db", seaweed, key)
        assert kept >= 2 * PART

        # A resume without fresh credentials is denied again, and loses nothing either.
        assert server.ask("POST", f"/migrations/{id}/resume")[0] == 200
        assert wait_for(server, id, is_paused)["error"]["code"] == "store-credentials-withdrawn"
        assert kept_bytes(tmp_path / "relay.db", seaweed, key) == kept

        before, asked_for = way.bytes_carried("up"), len(source.journal.snapshot())
        fresh = {**order, "source": f"{url}&X-Amz-Signature=fresh-secret"}
        status, document = server.ask("POST", f"/migrations/{id}/resume", fresh)
        assert (status, document["error"]) == (200, None)
        document = wait_for(server, id, has_ended)
        assert (document["state"], document["objects"], document["levels"]) == (
            "succeeded",
            {"verified": 1},
            {"whole_digest": 1},
        )
        assert way.bytes_carried("up") - before <= SIZE - kept + SLACK
        read = [
            entry for entry in source.journal.snapshot()[asked_for:] if entry["method"] == "GET"
        ]
        assert len(read) == (SIZE - kept) // PART
        data = source.content.read(f"/{key}", 0, SIZE)
    stored = seaweed.client().get_object(Bucket=seaweed.bucket, Key=key)["Body"].read()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()
    assert "Uploads" not in seaweed.client().list_multipart_uploads(Bucket=seaweed.bucket)


@pytest.mark.timeout(180)
def test_f25_a_presigned_get_is_read_in_parts(
    seaweed: Seaweed, server: Server, tmp_path: Path
) -> None:
    """As buckets sign URLs: HEAD is denied. The response to the first byte has the size and the
    version."""
    client, data = seaweed.client(), bytes(range(256)) * (SIZE // 256)
    client.put_object(
        Bucket=seaweed.bucket, Key="signed/from", Body=data, ContentType="image/x-relay"
    )
    place = {"Bucket": seaweed.bucket, "Key": "signed/from"}
    url = client.generate_presigned_url("get_object", Params=place, ExpiresIn=600)
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        connection.request("HEAD", url.removeprefix(seaweed.endpoint))
        assert connection.getresponse().status == 403
    order = {"source": url, "destination": f"far:{seaweed.bucket}/signed/to"}
    body = server.ask("POST", "/migrate", order, Prefer="respond-async")[1]
    body = wait_for(server, body["id"], has_ended)
    assert (body["state"], body["levels"]) == ("succeeded", {"whole_digest": 1}), body
    (row,) = server.ask("GET", f"/migrations/{body['id']}/transfers")[1]["transfers"]
    assert row["receipt"]["destination"]["etag"].endswith(f'-{SIZE // PART}"')
    stored = client.get_object(Bucket=seaweed.bucket, Key="signed/to")
    assert (stored["ContentType"], stored["Body"].read() == data) == ("image/x-relay", True)


# -- lists of signed URLs

SMALL = ("first", "second", "third")


def write_list(source: Source, file: Path, signature: str, fault: str = "", also: str = "") -> str:
    """Write a list of URLs with this signature, of small objects and a large one; return it as a
    source."""
    lines = [
        f'{name},"{source.url(f"/{name}?size=70000&X-Amz-Signature={signature}")}"'
        for name in SMALL
    ]
    lines.append(
        f'large,"{source.url(f"/large?size={SIZE}&X-Amz-Signature={signature}&fault={fault}")}"'
    )
    file.write_text("\n".join(["name,url", *lines, also]))
    return f"list+file://{file}"


def read_again(source: Source, since: int) -> list[str]:
    """Return the paths that were read at the source after the first `since` requests."""
    return [
        entry["path"] for entry in source.journal.snapshot()[since:] if entry["method"] == "GET"
    ]


@pytest.mark.timeout(180)
def test_f25_a_list_resumes_with_fresh_urls(
    seaweed: Seaweed, way: Proxy, server: Server, tmp_path: Path
) -> None:
    with Source(seed="f25") as source:
        stale = write_list(
            source, tmp_path / "stale.csv", "stale-secret", "on(GET,after(6,status(403)))"
        )
        order = {
            "source": stale,
            "destination": f"far:{seaweed.bucket}/f25-list/",
            "recursive": True,
        }
        id = server.ask("POST", "/migrate", order)[1]["id"]
        document = wait_for(server, id, is_paused)
        assert (document["error"]["code"], document["error"]["side"]) == (
            "store-credentials-withdrawn",
            "source",
        )
        kept = kept_bytes(tmp_path / "relay.db", seaweed, "f25-list/large")
        assert kept >= 2 * PART

        # A list with unknown names is refused as a whole, including its known ones.
        others = "\n".join(
            f"{name},https://a.example/{name}?X-Amz-Signature=fresh-secret"
            for name in ("x", "y", "z", "w")
        )
        write_list(source, tmp_path / "others.csv", "fresh-secret", also=others)
        status, wrong = server.ask(
            "POST", f"/migrations/{id}/resume", {"list": f"file://{tmp_path}/others.csv"}
        )
        assert (status, wrong["type"].rpartition("/")[2]) == (422, "names-unknown"), wrong
        assert "'x', 'y', 'z', and 1 more" in wrong["detail"]
        assert wrong["errors"][0]["pointer"] == "/list"
        assert server.ask("GET", f"/migrations/{id}")[1]["state"] == "paused"

        before, asked_for = way.bytes_carried("up"), len(source.journal.snapshot())
        write_list(source, tmp_path / "fresh.csv", "fresh-secret")
        status, document = server.ask(
            "POST", f"/migrations/{id}/resume", {"list": f"file://{tmp_path}/fresh.csv"}
        )
        assert (status, document["error"]) == (200, None), document
        document = wait_for(server, id, has_ended)
        assert (document["state"], document["objects"]) == (
            "succeeded",
            {"verified": len(SMALL) + 1},
        )
        assert way.bytes_carried("up") - before <= SIZE - kept + len(SMALL) * 70_000 + SLACK
        assert (
            read_again(source, asked_for).count("/large") - 1 <= (SIZE - kept) // PART
        )  # and its first byte
        rows = server.ask("GET", f"/migrations/{id}/transfers")[1]
        assert "secret" not in json.dumps(
            [document, rows, wrong, server.ask("GET", "/migrations")[1]]
        )
        assert server.stop() == 0
        assert "secret" not in server.stderr
        data = source.content.read("/large", 0, SIZE)
    stored = seaweed.client().get_object(Bucket=seaweed.bucket, Key="f25-list/large")["Body"].read()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()
    assert "Uploads" not in seaweed.client().list_multipart_uploads(Bucket=seaweed.bucket)


# -- trees


class Guarded:
    """A web server with a tree for requests with its current token; `withdraw` ends that token."""

    def __init__(self, tree: dict[str, bytes], refusal: int) -> None:
        self.tree, self.token, self.after = tree, "first", -1
        self.served: list[str] = []
        lock, guarded = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802 - the name that the library asks for
                with lock:
                    good = guarded.lets(
                        self.headers.get("Authorization"), self.path, self.headers.get("Range")
                    )
                if not good:
                    return self._send(refusal, b"", {})
                if self.path == "/tree/":
                    links = "".join(
                        f'<a href="{name}">{name}</a>\n' for name in ("../", *guarded.tree)
                    )
                    page = f"<html><head><title>Index of /tree/</title></head><body><h1>Index of /tree/</h1><pre>{links}"
                    return self._send(
                        200, (page + "</pre></body></html>").encode(), {"Content-Type": "text/html"}
                    )
                data = guarded.tree.get(self.path.removeprefix("/tree/"))
                if data is None:
                    return self._send(404, b"", {})
                fields = {"ETag": f'"{len(data)}"', "Accept-Ranges": "bytes"}
                wanted = self.headers.get("Range")
                if wanted is None:
                    return self._send(200, data, fields)
                first, last = (int(text) for text in wanted.removeprefix("bytes=").split("-"))
                fields["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                self._send(206, data[first : last + 1], fields)

            do_HEAD = do_GET  # noqa: N815 - likewise

            def _send(self, status: int, data: bytes, fields: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**fields, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, format: str, *arguments: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/tree/"

    def lets(self, shown: str | None, path: str, wanted: str | None) -> bool:
        """Return whether a request is served; the token is withdrawn after a number of ranges."""
        if wanted is not None and self.after >= 0:
            self.after -= 1
            if self.after < 0:
                self.token = "second"
        good = shown == f"Bearer {self.token}"
        if good and wanted is not None:
            self.served.append(f"{path} {wanted}")
        return good

    def __enter__(self) -> Guarded:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def order_of(guarded: Guarded, seaweed: Seaweed, token: str, prefix: str) -> dict[str, Any]:
    """Return the request for the tree with one of its tokens."""
    source = {"url": guarded.url, "headers": {"Authorization": f"Bearer {token}"}}
    return {"source": source, "destination": f"far:{seaweed.bucket}/{prefix}/", "recursive": True}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("refusal", [401, 403])
def test_f25_a_tree_with_withdrawn_credentials_waits(
    seaweed: Seaweed, server: Server, tmp_path: Path, refusal: int
) -> None:
    tree = {f"small{i:02}": bytes([i]) * 1000 for i in range(20)} | {
        "large": bytes(range(256)) * (SIZE // 256)
    }
    prefix = f"f25-tree-{refusal}"
    with Guarded(tree, refusal) as guarded:
        guarded.after = 5
        status, document = server.ask(
            "POST", "/migrate", order_of(guarded, seaweed, "first", prefix)
        )
        assert status == 202
        id = document["id"]
        document = wait_for(server, id, is_paused)
        assert document["error"]["side"] == "source"
        assert "failed" not in document["objects"]
        kept = kept_bytes(tmp_path / "relay.db", seaweed, f"{prefix}/large")
        assert kept >= 2 * PART
        guarded.served.clear()
        status, _ = server.ask(
            "POST", f"/migrations/{id}/resume", order_of(guarded, seaweed, "second", prefix)
        )
        assert status == 422  # `recursive` is not a credential
        fresh = order_of(guarded, seaweed, "second", prefix)
        del fresh["recursive"]
        assert server.ask("POST", f"/migrations/{id}/resume", fresh)[0] == 200
        document = wait_for(server, id, has_ended)
        assert (document["state"], document["objects"]) == ("succeeded", {"verified": len(tree)})
        assert len([line for line in guarded.served if "large" in line]) == (SIZE - kept) // PART
    client = seaweed.client()
    for name, data in tree.items():
        assert (
            client.get_object(Bucket=seaweed.bucket, Key=f"{prefix}/{name}")["Body"].read() == data
        )
    assert "Uploads" not in client.list_multipart_uploads(Bucket=seaweed.bucket)


def test_f25_one_denied_object_stops_no_other(seaweed: Seaweed, server: Server) -> None:
    """It is that object's permission, and not the credentials: it fails, and all others arrive."""
    tree = {f"small{i:02}": bytes([i]) * 1000 for i in range(20)}
    with Guarded(tree, 403) as guarded:
        lets = guarded.lets
        guarded.lets = lambda shown, path, wanted: (
            "small07" not in path and lets(shown, path, wanted)
        )  # type: ignore[method-assign]
        order = order_of(guarded, seaweed, "first", "f25-denied")
        body = server.ask("POST", "/migrate", order, Prefer="wait=60")[1]
    assert (body["state"], body["objects"]) == ("partial", {"failed": 1, "verified": 19})


def test_f25_a_tree_without_a_listing_waits_for_credentials(
    seaweed: Seaweed, server: Server, tmp_path: Path
) -> None:
    """And a client that follows it gets the reason, and exit code 1."""
    header = tmp_path / "header"
    header.write_text("Authorization: Bearer first\n")
    header.chmod(0o600)
    with Guarded({"small": b"x" * 1000}, 401) as guarded:
        url, there = f"http://{server.host}:{server.port}", f"far:{seaweed.bucket}/f25-listing/"
        wrong = "Authorization: Bearer nonsense"
        code, out, err = run(
            "submit", "-r", guarded.url, there, "--source-header", wrong, "--wait", RELAY_URL=url
        )
        assert code == 1, err
        assert "paused" in out
        assert "source: " in out
        code, out, err = run(
            "resume", "1", guarded.url, there, "--source-headers-file", str(header), RELAY_URL=url
        )
        assert code == 0, err
        code, out, err = run("watch", "1", RELAY_URL=url)
        assert (code, "1 verified" in out) == (0, True), err
    until(lambda: not server.ask("GET", "/readyz")[1]["running"])
