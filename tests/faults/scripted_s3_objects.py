"""A scripted S3 of many objects. Its keys are plain texts: it never treats them as paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, quote, unquote

from tests.faults.scripted_peers import read_requests
from tests.faults.scripted_s3 import GONE, crc64nvme, document, refusal, reply
from tests.scripted import Talk

PREFIX = "/bucket/"


@dataclass
class Shelf:
    """The bucket `bucket`. `folds` maps a key to the one that a store on a file system would
    use."""

    objects: dict[str, bytes] = field(default_factory=dict)
    folds: Callable[[str], str] = str
    page: int = 1000
    lists: bool = True
    """Whether its credentials may list it."""
    meanwhile: list[dict[str, bytes]] = field(default_factory=list)
    """The writes of another writer just before each upload."""
    asked: list[str] = field(default_factory=list)
    """The requests' methods and targets, byte for byte."""

    def __call__(self, talk: Talk) -> None:
        for request, body in read_requests(talk):
            method, target = request.decode().split(" ", 2)[:2]
            self.asked.append(f"{method} {target}")
            path, _, query = target.partition("?")
            if method == "PUT" and self.meanwhile:
                self.objects |= self.meanwhile.pop()
            if "list-type" in query:
                talk.send(self._listing_page(parse_qs(query, keep_blank_values=True)))
            else:
                key = self.folds(unquote(path.removeprefix(PREFIX)))
                talk.send(self._done(method, key, request, body))

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        copied = _field(request, b"x-amz-copy-source")
        if method == "PUT":
            if b"\r\nIf-None-Match: *\r\n" in request and key in self.objects:
                return refusal(412, "PreconditionFailed")
            if copied is not None:
                body = self.objects[self.folds(unquote(copied.removeprefix(PREFIX)))]
            elif b"x-amz-trailer" in request:
                size, _, rest = body.partition(b"\r\n")
                body = rest[: int(size, 16)]
            self.objects[key] = body
            document_of_copy = (
                document("CopyObjectResult", ("ETag", _tag(body))) if copied is not None else b""
            )
            return reply(
                200,
                document_of_copy,
                f"ETag: {_tag(body)}",
                f"x-amz-checksum-crc64nvme: {crc64nvme(body)}",
            )
        if method == "DELETE":
            self.objects.pop(key, None)
            return b"HTTP/1.1 204 X\r\n\r\n"
        data = self.objects.get(key)
        if data is None:
            return GONE
        fields = f"ETag: {_tag(data)}\r\nx-amz-checksum-crc64nvme: {crc64nvme(data)}\r\n"
        head = f"HTTP/1.1 200 X\r\nContent-Length: {len(data)}\r\n{fields}\r\n".encode()
        return head + (data if method == "GET" else b"")

    def _listing_page(self, query: dict[str, list[str]]) -> bytes:
        if not self.lists:
            return refusal(403, "AccessDenied")
        asked = {name: values[0] for name, values in query.items()}
        prefix, after = (
            asked.get("prefix", ""),
            asked.get("continuation-token") or asked.get("start-after", ""),
        )
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = keys[: min(self.page, int(asked.get("max-keys", "1000")))]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows = "".join(
            f"<Contents><Key>{quote(key, safe='/')}</Key><Size>{len(self.objects[key])}</Size>"
            f"<ETag>{_tag(self.objects[key])}</ETag><LastModified>{now}</LastModified></Contents>"
            for key in page
        )
        more = len(page) < len(keys)
        token = (
            f"<NextContinuationToken>{quote(page[-1], safe='/')}</NextContinuationToken>"
            if more
            else ""
        )
        truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        text = f"<ListBucketResult><EncodingType>url</EncodingType>{truncated}{rows}</ListBucketResult>"
        return reply(200, text.encode())


def _field(request: bytes, name: bytes) -> str | None:
    found = (
        line.partition(b": ")[2].decode()
        for line in request.split(b"\r\n")
        if line.lower().startswith(name)
    )
    return next(found, None)


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
