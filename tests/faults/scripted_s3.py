"""A scripted S3: one bucket with one object, correct except for the answers that a test sets."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate

from relay.digest import Digester
from relay.location import Location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from tests.conftest import QUICK, Engine
from tests.faults.scripted_peers import read_requests
from tests.scripted import Peer, Talk

PART = 5 << 20
SIZE = PART + 1000
"""The size of an object of two parts."""
IN_PARTS = replace(QUICK, parted_bytes=PART, part_bytes=PART, parts_in_flight=1)
"""Limits under which an object of two parts is a multipart upload, one part after the other."""
PARTED = {"RELAY_PARTED_BYTES": str(PART), "RELAY_PART_BYTES": str(PART)}
"""Settings of a command under which an object of two parts is a multipart upload."""


def document(name: str, *members: tuple[str, str]) -> bytes:
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in members)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{inner}</{name}>'.encode()


EMPTY_PAGE = document(
    "ListBucketResult", ("Name", "bucket"), ("KeyCount", "0"), ("IsTruncated", "false")
)


def reply(status: int, body: bytes = b"", *fields: str) -> bytes:
    head = "".join(
        f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields)
    )
    return head.encode() + b"\r\n" + body


def refusal(status: int, code: str, *fields: str) -> bytes:
    return reply(
        status, document("Error", ("Code", code), ("Message", "as it is written")), *fields
    )


def crc64nvme(data: bytes) -> str:
    digester = Digester(("crc64nvme",))
    digester.update(data)
    return base64.b64encode(digester.digests()["crc64nvme"]).decode()


BEGUN = reply(200, document("InitiateMultipartUploadResult", ("UploadId", "up/1")))
GONE = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"
DONE = document("CompleteMultipartUploadResult", ("ETag", '"whole-2"'))

Scripted = bytes | Callable[[Talk], None]


@dataclass
class Bucket:
    """A bucket; `answers` are the first answers of each operation, in order, before it behaves
    correctly.

    An empty one does the work and closes the connection; a function sends the
    answer after the work is done. An `old` bucket knows neither checksums behind the bytes nor
    those of a whole object; a `blind` one stores their coding with the bytes."""

    answers: dict[str, list[Scripted]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    old: bool = False
    blind: bool = False
    refuses: Mapping[bytes, bytes] = field(default_factory=dict)
    """Names of fields, and the answer to an upload that has one."""
    tags: bool = True
    """The entity tags of an old one are the MD5 of the body."""
    sums: bool = False
    """It reports the checksum of the stored object."""
    mangle: Callable[[bytes], bytes] = bytes
    """Changes the bytes when they are stored."""
    order: Callable[[list[int]], list[int]] = sorted
    """The order in which the parts are assembled."""
    fields: tuple[str, ...] = ()
    """Further fields of every answer to HEAD and GET."""
    parts: dict[int, bytes] = field(default_factory=dict)
    whole: bytes | None = None
    tag: str = "whole-2"
    changed: str | None = None
    """The Last-Modified of the last upload; None leaves the field out."""

    def __call__(self, talk: Talk) -> None:
        for request, body in read_requests(talk):
            operation = self._operation(request)
            self.asked.append(operation)
            self.requests.append(request)
            waiting = self.answers.get(operation, [])
            scripted = waiting.pop(0) if waiting else None
            if isinstance(scripted, bytes) and scripted:
                talk.send(scripted)
                continue
            done = self._answer(operation, request, body)
            if scripted is None:
                talk.send(done)
            elif callable(scripted):
                scripted(talk)
            else:
                return

    def _operation(self, request: bytes) -> str:
        method, target = request.split(b" ", 2)[:2]
        if target.endswith(b"?tagging="):
            return "tags"
        if b"list-type=" in target:
            return "list"
        if b"uploads=" in target:
            return "begin" + (" whole" if b"FULL_OBJECT" in request else "")
        if b"uploadId=" not in target:
            return method.decode().lower()
        return {b"PUT": "part", b"POST": "complete", b"DELETE": "abort", b"GET": "parts"}[method]

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        refused = self._refuse_upload(operation, request)
        if refused is not None:
            return refused
        if operation.startswith(("begin", "list")):
            return BEGUN if operation != "list" else reply(200, EMPTY_PAGE)
        if operation == "part":
            number = int(request.partition(b"partNumber=")[2].partition(b"&")[0])
            self.parts[number] = self._decode_upload(request, body)
            return self._upload_reply(self.parts[number], f"part-{number}")
        if operation == "complete":
            return self._complete_upload()
        if operation == "put":
            self.whole = self.mangle(data := self._decode_upload(request, body))
            self.tag, self.changed = self._tag(data, "one"), formatdate(usegmt=True)
            return self._upload_reply(data, "one")
        if operation == "parts":
            listed = document("ListPartsResult", ("UploadId", "up/1"), ("IsTruncated", "false"))
            return GONE if self.whole is not None else reply(200, listed)
        if operation in ("abort", "delete"):
            if operation == "delete":
                self.whole = None
            return b"HTTP/1.1 204 X\r\n\r\n"
        if self.whole is None:
            return GONE
        fields = (*self.fields, *self._sums(self.whole), *self._change_date())
        extra = "".join(f"{line}\r\n" for line in fields)
        span = re.search(rb"\r\nRange: bytes=(\d+)-(\d+)\r\n", request)
        first, last = map(int, span.groups()) if span else (0, len(self.whole) - 1)
        status = (
            f"206 X\r\nContent-Range: bytes {first}-{last}/{len(self.whole)}" if span else "200 X"
        )
        head = f'HTTP/1.1 {status}\r\nContent-Length: {last + 1 - first}\r\nETag: "{self.tag}"\r\n{extra}\r\n'
        return head.encode() + (self.whole[first : last + 1] if operation == "get" else b"")

    def _refuse_upload(self, operation: str, request: bytes) -> bytes | None:
        if operation not in ("put", "part", "complete", "begin", "begin whole"):
            return None
        if self.old and operation != "begin whole" and b"x-amz-trailer" in request:
            return refusal(501, "NotImplemented")
        if self.old and operation == "put" and b"x-amz-checksum" in request:
            return refusal(501, "NotImplemented")
        return next(
            (answer for name, answer in self.refuses.items() if b"\r\n" + name in request), None
        )

    def _upload_reply(self, data: bytes, tag: str) -> bytes:
        return reply(200, b"", f'ETag: "{self._tag(data, tag)}"', *self._sums(data))

    def _sums(self, data: bytes) -> tuple[str, ...]:
        return (f"x-amz-checksum-crc64nvme: {crc64nvme(data)}",) if self.sums else ()

    def _change_date(self) -> tuple[str, ...]:
        dated = any(line.lower().startswith("last-modified:") for line in self.fields)
        return () if dated or self.changed is None else (f"Last-Modified: {self.changed}",)

    def _complete_upload(self) -> bytes:
        if not self.parts:
            return refusal(404, "NoSuchUpload")
        self.whole = self.mangle(
            b"".join(self.parts[number] for number in self.order(list(self.parts)))
        )
        self.tag, self.changed = "whole-2", formatdate(usegmt=True)
        self.parts.clear()
        return reply(200, DONE)

    def _decode_upload(self, request: bytes, body: bytes) -> bytes:
        if b"x-amz-trailer" not in request or self.blind:
            return body
        size, _, rest = body.partition(b"\r\n")
        return rest[: int(size, 16)]

    def _tag(self, data: bytes, other: str) -> str:
        return hashlib.md5(data).hexdigest() if self.old and self.tags else other


def with_retries(engine: Engine, seconds: float = 10) -> Engine:
    """Retry for some seconds; for less time where every attempt is to fail."""
    engine.runner.settings = replace(engine.runner.settings, retry_budget=seconds)
    return engine


def place(peer: Peer, signer: Signer | None = None) -> Location:
    signer = signer or Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1")
    return s3_location(S3Config(signer, peer.url("")), "bucket", "a/b.bin")


def repeat_script(bucket: Bucket) -> list[Bucket]:
    return [bucket] * 40
