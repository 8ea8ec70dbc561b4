"""A lying S3: one bucket, objects and multipart uploads.

Decided here: the meaning of a path, a query and a method, and multipart uploads
(docs.aws.amazon.com, "API Reference"). Never here: the form of a listing (`s3_listing.py`), the
parts that all stores share (`base.py`)."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import unquote
from xml.sax.saxutils import escape

from awscrt import checksums

from simulators.answer import Answer, Text, plain
from simulators.liars.base import Liar
from simulators.liars.operations import Op
from simulators.liars.s3_listing import answer_list_parts, answer_list_uploads, answer_listing
from simulators.liars.stored_objects import Held, Upload
from simulators.liars.upload_storage import flip_byte
from simulators.message import BadRequest, Request

BUCKET = "bucket"
SUM = "x-amz-checksum-crc64nvme"
_PART = re.compile(r"<ETag>(.*?)</ETag><PartNumber>(\d+)</PartNumber>")
_REFUSED = {
    "trailers-501": (501, "NotImplemented"),
    "trailers-401": (401, "Unauthorized"),
    "trailers-400": (400, "AuthorizationHeaderMalformed"),
}
_MESSAGES = {
    "SlowDown": "Please reduce your request rate.",
    "NoSuchKey": "The specified key does not exist.",
}


class S3Liar(Liar):
    """S3."""

    kind = "s3"

    def url(self, name: str = "") -> str:
        """Return the endpoint."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def is_allowed(self, request: Request) -> bool:
        """As Liar's: by the access key that the signature names; the signature itself is not
        checked."""
        authorization = request.get("authorization") or ""
        return any(f"Credential={key}/" in authorization for key in self.secrets)

    def refusal(self, status: int, code: str = "") -> Answer:
        """As Liar's, in an error document."""
        text = (
            f"<Error><Code>{code}</Code><Message>{_MESSAGES.get(code, 'No.')}</Message></Error>"
            if code
            else ""
        )
        return Answer(status, [("Content-Type", "application/xml")], [Text(text.encode())])

    def operation(self, request: Request) -> Op:
        """As Liar's."""
        _, _, rest = request.path.partition(f"/{BUCKET}")
        name, query = unquote(rest.removeprefix("/")), request.query
        upload = query.get("uploadId", "")
        if upload:
            number = int(query.get("partNumber") or 0)
            kind = {"PUT": "part", "POST": "complete", "DELETE": "abort", "GET": "parts"}[
                request.method
            ]
            return Op(kind=kind, name=name, upload=upload, number=number)
        if not name:
            return Op(
                kind="uploads" if "uploads" in query else "list", number=int(self._page(query))
            )
        if "uploads" in query:
            return Op(kind="begin", name=name)
        if "tagging" in query:
            return Op(kind="tags", name=name)
        kinds = {"HEAD": "head", "GET": "get", "PUT": "put", "DELETE": "delete"}
        if request.method not in kinds:
            raise BadRequest(405, "not a method of ours")
        return Op(kind=kinds[request.method], name=name, version=query.get("versionId", ""))

    @staticmethod
    def _page(query: Mapping[str, str]) -> int:
        found = query.get("continuation-token", "0").partition(":")[0]
        return int(found) if found.isdigit() else 0

    def respond(self, op: Op, request: Request, body: bytes) -> Answer:
        """As Liar's."""
        if skewed := self._refuse_skew(op):
            skewed.put("Date", formatdate(time.time() + 3600, usegmt=True))
            return skewed
        if op.kind in ("get", "head"):
            return self.read(op, request)
        if op.kind == "list":
            return answer_listing(self, op, request.query)
        if op.kind == "uploads":
            return answer_list_uploads(self, request.query)
        if op.kind == "tags":
            return _document("Tagging", "<TagSet/>")
        if op.kind == "put":
            return self._put(op, request, body)
        if op.kind == "delete":
            return self._delete(op, request)
        return self._of_upload(op, request, body)

    # -- one request an object

    def object_fields(self, held: Held) -> list[tuple[str, str]]:
        """As Liar's, and the checksum that the store has."""
        fields = [(name, value) for name, value in super().object_fields(held) if name != "_tag"]
        fields += self._versions(held)
        return fields if self._is_without_checksums else [*fields, (SUM, crc64nvme(held.data))]

    @property
    def _is_versioned(self) -> bool:
        return self.store_habits.has("versioned") or self.store_habits.has("versions-later")

    def _versions(self, held: Held) -> list[tuple[str, str]]:
        """Return the field that names a version, of a bucket that keeps several."""
        if self.store_habits.does("versioned"):
            return [("x-amz-version-id", f"v{held.serial}.")]
        if self.store_habits.does("versions-later"):
            old = held.serial in {first.serial for first in self._first_of.values()}
            return [("x-amz-version-id", "null" if old else f"v{held.serial}.")]
        return []

    @property
    def _first_of(self) -> dict[str, Held]:
        """The object of each name before the first request."""
        found: dict[str, Held] = {}
        for event in self.shelf.events:
            if event.held is not None and event.old is None and event.by in ("before", "source"):
                found.setdefault(event.name, event.held)
        return found

    def requested_object(self, op: Op) -> Held | None:
        """As ObjectResponses's; a named version is returned, independent of later writes."""
        if not (op.version and self._is_versioned):
            return self.visible_object(op.name, op.kind)
        if op.version == "null":
            first = self._first_of.get(op.name)
            return first and self.shelf.version(op.name, first.serial)
        number = op.version.strip("v.")
        return self.shelf.version(op.name, int(number)) if number.isdecimal() else None

    def absent_answer(self, op: Op) -> Answer:
        """As ObjectResponses's; with the delete marker, if there is one."""
        answer = self.refusal(404, "NoSuchVersion" if op.version else "NoSuchKey")
        if self._is_versioned and self.shelf.previous_object(op.name) is not None:
            answer.put("x-amz-delete-marker", "true")
        return answer

    @property
    def _is_without_checksums(self) -> bool:
        """Whether the store lacks checksums."""
        return self.store_habits.has("trailers-unheard") or self.store_habits.has("trailers-stored")

    def tag(self, held: Held) -> str | None:
        """As Liar's: the MD5 of an object that was uploaded in one request."""
        return f'"{held.fields.get("_tag") or hashlib.md5(held.data).hexdigest()}"'

    def _decode_upload(self, request: Request, body: bytes) -> bytes | Answer:
        """Return an upload's own bytes, without their chunk coding, or the refusal of damaged
        ones."""
        if request.get("x-amz-trailer") is None:
            reported = request.get(SUM)
            if reported is not None and reported != crc64nvme(body):
                return self.refusal(400, "BadDigest")
            return body
        for habit, (status, code) in _REFUSED.items():
            if self.store_habits.does(habit):
                return self.refusal(status, code)
        if self.store_habits.does("trailers-stored"):
            return body
        # relay sends one chunk (relay/stores/s3/checksums.py): a line with its size, the bytes, the
        # trailer.
        line, _, rest = body.partition(b"\r\n")
        size = int(line, 16)
        data, trailer = rest[:size], rest[size:]
        reported = trailer.partition(f"{SUM}:".encode())[2].partition(b"\r\n")[0].decode()
        compares = not (
            self.store_habits.does("trailers-unheard") or self.store_habits.does("checksum-echoed")
        )
        if compares and reported != crc64nvme(data):
            return self.refusal(400, "BadDigest")
        return data

    def _upload_fields(self, data: bytes) -> list[tuple[str, str]]:
        fields = [("ETag", f'"{hashlib.md5(data).hexdigest()}"')]
        return fields if self._is_without_checksums else [*fields, (SUM, crc64nvme(data))]

    def conditional(self, request: Request, name: str) -> Answer | None:
        """Return the refusal of an upload by its precondition, or None."""
        if request.get("if-none-match") is not None and self.store_habits.does("conditions-501"):
            return self.refusal(501, "NotImplemented")
        return (
            self.refusal(412, "PreconditionFailed")
            if self.forbidden(request, self.shelf.get(name))
            else None
        )

    def broken(self, op: Op, request: Request, body: bytes) -> None:
        """As Liar's: some keep an empty part, and never replace it."""
        upload = self.shelf.uploads.get(op.upload)
        if op.kind == "part" and upload is not None and self.store_habits.does("part-emptied"):
            upload.parts[op.number] = b""
            upload.stuck.add(op.number)

    def _refuse_skew(self, op: Op) -> Answer | None:
        if self.store_habits.once("clock-skew"):
            return self.refusal(403, "RequestTimeTooSkewed")
        return None

    def _put(self, op: Op, request: Request, body: bytes) -> Answer:
        if refused := self.conditional(request, op.name):
            return refused
        data = self._decode_upload(request, body)
        if isinstance(data, Answer):
            return data
        held = self.store_upload(op, data, _metadata(request))
        if held is None:
            return plain(200, "", [("ETag", f'"{hashlib.sha256(data).hexdigest()[:32]}"')])
        return plain(200, "", [*self._upload_fields(held.data), *self._versions(held)])

    def _delete(self, op: Op, request: Request) -> Answer:
        for status in (403, 405):
            if self.store_habits.does(f"delete-{status}"):
                return self.refusal(status, "AccessDenied" if status == 403 else "MethodNotAllowed")
        held = self.requested_object(op)
        if self.forbidden(request, held):
            return self.refusal(412, "PreconditionFailed")
        if op.version and self._is_versioned:
            if held is not None:
                self.shelf.remove(op.name, held, "relay")
            return plain(204, "", [("x-amz-version-id", op.version)])
        self.shelf.delete(op.name, "relay", asked_tag=request.get("if-match"))
        return plain(204, "", [("x-amz-delete-marker", "true")] if self._is_versioned else [])

    # -- multipart uploads

    def _of_upload(self, op: Op, request: Request, body: bytes) -> Answer:
        if op.kind == "begin":
            return self._begin(op, request)
        upload = self.shelf.uploads.get(op.upload)
        if (
            upload is not None
            and op.kind == "complete"
            and self.store_habits.once("upload-gone", op.name)
        ):
            upload.state = "gone"
        if upload is None or upload.state != "open":
            return self.refusal(404, "NoSuchUpload")
        if op.kind == "part":
            return self._part(op, request, body, upload)
        if op.kind == "parts":
            return answer_list_parts(upload)
        if op.kind == "abort":
            if self.store_habits.does("delete-403"):
                return self.refusal(403, "AccessDenied")
            upload.state = "aborted"
            return plain(204)
        return self._complete(op, request, body, upload)

    def _begin(self, op: Op, request: Request) -> Answer:
        if request.get("x-amz-checksum-type") is not None and self.store_habits.does("begin-plain"):
            return self.refusal(400, "InvalidArgument")
        with self.shelf.lock:
            id = f"up/{len(self.shelf.uploads) + 1}"
            self.shelf.uploads[id] = Upload(
                id=id, name=op.name, by="relay", begun=time.time(), fields=_metadata(request)
            )
        text = f"<Bucket>{BUCKET}</Bucket><Key>{escape(op.name)}</Key><UploadId>{id}</UploadId>"
        return _document("InitiateMultipartUploadResult", text)

    def _part(self, op: Op, request: Request, body: bytes, upload: Upload) -> Answer:
        data = self._decode_upload(request, body)
        if isinstance(data, Answer):
            return data
        if op.number in upload.stuck:
            return plain(200, "", self._upload_fields(data))
        kept = flip_byte(data) if data and self.store_habits.once("part-damaged", op.name) else data
        with self.shelf.lock:
            upload.parts[op.number] = kept
            upload.sent.append(op.number)
        return plain(200, "", self._upload_fields(kept))

    def _complete(self, op: Op, request: Request, body: bytes, upload: Upload) -> Answer:
        if refused := self.conditional(request, op.name):
            return refused
        if self.store_habits.once("complete-error", op.name):
            text = (
                "<Error><Code>InternalError</Code><Message>We encountered an internal"
                " error.</Message></Error>"
            )
            # AWS sends blanks while it assembles a large object, then the result or an error.
            return Answer(
                200, [("Content-Type", "application/xml")], [Text(f"  \n{text}".encode())]
            )
        rows = [
            (tag.replace("&quot;", '"').strip('"'), int(number))
            for tag, number in _PART.findall(body.decode())
        ]
        for tag, number in rows:
            part = upload.parts.get(number)
            if part is None or hashlib.md5(part).hexdigest() != tag:
                return self.refusal(400, "InvalidPart")
        numbers = [number for _, number in rows]
        if len(numbers) > 1 and self.store_habits.once("parts-swapped", op.name):
            numbers.reverse()
        data = b"".join(upload.parts[number] for number in numbers)
        reported = request.get(SUM)
        if reported is not None and reported != crc64nvme(data):
            return self.refusal(400, "BadDigest")
        upload.state = "completed"
        tag = f"{hashlib.md5(data).hexdigest()}-{len(rows)}"
        held = self.store_upload(op, data, {**upload.fields, "_tag": tag}, why="completed")
        text = f"<Key>{escape(op.name)}</Key><ETag>&quot;{tag}&quot;</ETag>"
        if held is not None and not self._is_without_checksums:
            text += f"<ChecksumCRC64NVME>{crc64nvme(held.data)}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>"
        answer = _document("CompleteMultipartUploadResult", text)
        answer.headers += [] if held is None else self._versions(held)
        return answer


def crc64nvme(data: bytes) -> str:
    """Return the checksum as S3 writes it."""
    return base64.b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()


def _metadata(request: Request) -> dict[str, str]:
    return {
        name: value for name, value in request.headers if name.lower().startswith("x-amz-meta-")
    }


def _document(name: str, inner: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{inner}</{name}>'
    return Answer(200, [("Content-Type", "application/xml")], [Text(text.encode())])
