"""Checksums of uploads: the trailing one of a stream, and those of bytes in memory.

Theory of operation. An upload whose bytes pass through the process has the `aws-chunked` coding:
one chunk, then a trailer with the CRC64NVME that was computed on the way. The server compares it
before it stores anything, so a body that was damaged on the way never becomes an object.

Decided here: the bytes and the fields of that coding. Never here: whether an endpoint accepts it
(`quirks.py`)."""

from __future__ import annotations

import base64
from typing import Final

from relay.digest import ALGORITHMS, Digester
from relay.location import Location
from relay.stores.metadata import FRAMED
from relay.stores.s3.account import aws_host
from relay.stores.s3.responses import CHECKSUM, TRAILER
from relay.wire.body import Body
from relay.wire.exchange import Wrapping
from relay.wire.http1 import Fields

CONTENT_MD5: Final = "Content-MD5"
_CODED_BYTES: Final = len(base64.b64encode(bytes(ALGORITHMS[TRAILER].width)))


def digest_of(body: Body | bytes | memoryview, name: str = TRAILER) -> bytes:
    """Return a digest of the sent bytes."""
    if isinstance(body, Body):
        return body.digests[name]
    digester = Digester((name,))
    digester.update(body)
    return digester.digests()[name]


def sent_md5(fields: Fields, body: Body | bytes | memoryview = b"") -> bytes | None:
    """Return the MD5 of the sent bytes, if it was computed on the way or is among the fields."""
    reported = dict(fields).get(CONTENT_MD5)
    if reported is not None:
        return base64.b64decode(reported)
    return body.digests.get("md5") if isinstance(body, Body) else None


def trailer(body: Body) -> Wrapping:
    """Return the `aws-chunked` coding of a body: one chunk, and a trailer with its CRC64NVME."""
    assert body.length is not None, "only a body of known length is wrapped"
    end = f"{CHECKSUM}{TRAILER}:".encode()
    # For an empty body, the line of its length is the last chunk already.
    between = b"\r\n0\r\n" if body.length else b""

    def after() -> bytes:
        return between + end + base64.b64encode(body.digests[TRAILER]) + b"\r\n\r\n"

    return Wrapping(b"%x\r\n" % body.length, after, len(between) + len(end) + _CODED_BYTES + 4)


def coding_fields(location: Location, metadata: Fields, length: int) -> Fields:
    """Add the fields that announce the coding. As in MinIO's client, `x-amz-content-sha256` names
    it.

    At AWS Content-Encoding names it too, as AWS documents (docs.aws.amazon.com, "Signature
    calculations: transferring a payload in multiple chunks"), and removes `aws-chunked` when it
    stores the object. Other servers may not: SeaweedFS keeps it."""
    announced: Fields = (
        ("x-amz-decoded-content-length", str(length)),
        ("x-amz-trailer", CHECKSUM + TRAILER),
    )
    if aws_host(location.host) is None:
        return (*metadata, *announced)
    own = [value for name, value in metadata if name.lower() == "content-encoding"]
    others = tuple(pair for pair in metadata if pair[0].lower() != "content-encoding")
    return (*others, ("Content-Encoding", ",".join([FRAMED, *own])), *announced)
