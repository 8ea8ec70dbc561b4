"""Headers of the caller that describe an object: an S3 endpoint refuses them in other requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from relay.receipt import State
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf
from tests.faults.scripted_s3 import IN_PARTS, SIZE, Bucket, refusal
from tests.scripted import Peer

KEY = "x-amz-server-side-encryption-customer-key"
HEADERS = {
    "x-amz-server-side-encryption": "aws:kms",
    "X-Amz-Storage-Class": "STANDARD_IA",
    "x-amz-meta-owner": "me",
    "x-amz-object-lock-mode": "GOVERNANCE",
    "Cache-Control": "max-age=60",
    KEY: "a2V5",
    "x-amz-expected-bucket-owner": "1",
}
DESCRIBING = [name.lower() for name in HEADERS][:5]


@dataclass
class Strict(Bucket):
    """Refuses what MinIO refuses, and more: a field that describes an object in another request
    than one that creates it, or none in that."""

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        creates = operation.startswith(("put", "begin"))
        head = request.lower().decode()
        if any((f"\r\n{name}: " in head) is not creates for name in DESCRIBING):
            return refusal(400, "InvalidArgument")
        if f"\r\n{KEY}: " not in head or "\r\nx-amz-expected-bucket-owner: " not in head:
            return refusal(403, "AccessDenied")
        return super()._answer(operation, request, body)


@pytest.mark.parametrize("size", [1000, SIZE], ids=["one request", "parts"])
@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
def test_a_header_of_an_upload_is_in_no_other_request(
    engine: Engine, if_exists: str, size: int
) -> None:
    engine.runner.limits = engine.runner.wire.limits = replace(IN_PARTS)
    bucket, data = Strict(sums=True), bytes(size)
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1")
    with Peer([Shelf({b"/f": data}, heeds=True)] * 9) as source, Peer([bucket] * 40) as peer:
        there = s3_location(S3Config(signer, peer.url("")), "bucket", "a/b.bin", HEADERS)
        outcome = engine.migrate(source.url("/f"), there, if_exists=if_exists)
    assert outcome.state is State.VERIFIED
    assert bucket.whole == data
