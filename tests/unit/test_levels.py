"""The level of a proof as far as it is known before anything is sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import Verify
from relay.engine.proof_levels import predict_level, refuse_unprovable, unreadable_reason
from relay.errors import VerificationUnavailable
from relay.location import parse_location
from relay.receipt import Level
from relay.stores.remotes import Remotes
from relay.stores.webdav.account import WebDavAccount

SECRET = "planted-secret"
UPLOAD_ALONE = [
    f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={SECRET}",
    f"x-amz-signature={SECRET}",
    f"X-Goog-Signature={SECRET}",
    f"AWSAccessKeyId=KEY&Signature={SECRET}&Expires=1",
    f"GoogleAccessId=a%40b&Signature={SECRET}",
    f"sv=2024-11-04&sp=cw&sig={SECRET}",
]
READABLE = [
    "",
    "version=3",
    f"sig={SECRET}",
    f"sv=2024-11-04&sp=rcw&sig={SECRET}",
    f"sv=2024-11-04&ss=b&sig={SECRET}",
    f"Signature={SECRET}&Key-Pair-Id=K",
]


@pytest.mark.parametrize("query", UPLOAD_ALONE)
def test_b78_a_url_signed_for_an_upload_is_never_read_back(query: str) -> None:
    place = parse_location(f"https://a.example/b?{query}")
    assert unreadable_reason(place)
    with pytest.raises(VerificationUnavailable) as caught:
        refuse_unprovable(Verify.READ_BACK, place)
    assert (caught.value.status, caught.value.pointer) == (422, "/verify")
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    for verify in (Verify.AUTO, Verify.SIZE):
        refuse_unprovable(verify, place)
        assert predict_level(verify, place, reported=False) is Level.SIZE
    assert predict_level(Verify.AUTO, place, reported=True) is Level.WHOLE_DIGEST


@pytest.mark.parametrize("query", READABLE)
def test_b78_a_readable_destination_is_accepted(query: str) -> None:
    place = parse_location(f"https://a.example/b?{query}")
    refuse_unprovable(Verify.READ_BACK, place)
    assert predict_level(Verify.READ_BACK, place, reported=True) is Level.READ_BACK
    assert predict_level(Verify.AUTO, place, reported=False) is Level.READ_BACK


def test_b78_a_store_with_credentials_ignores_its_query() -> None:
    place = replace(
        parse_location(f"https://a.example/b?{UPLOAD_ALONE[0]}"),
        account=WebDavAccount("webdav+https://a"),
    )
    assert unreadable_reason(place) is None


def test_b78_of_a_tree_too() -> None:
    order = MigrationRequest(
        Endpoint("https://a.example/x/"),
        Endpoint(f"https://b.example/y/?{UPLOAD_ALONE[0]}"),
        recursive=True,
    )
    order.locate(Remotes())
    with pytest.raises(VerificationUnavailable):
        replace(order, verify=Verify.READ_BACK).locate(Remotes())
