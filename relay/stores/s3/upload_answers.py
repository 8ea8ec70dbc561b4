"""Read the answer to an upload: the stored object, or an error that names what is left out next.

Theory of operation. An ETag is not a digest: for encrypted objects and for multipart uploads it is
a digest of nothing. Only an ETag that equals the MD5 of the sent bytes proves something; it is used
if a server reports no other checksum.

Decided here: what an answer to PUT proves, and when a refused upload is sent again. Never here:
which field is left out (`quirks.py`), what an error code means (`error_codes.py`)."""

from __future__ import annotations

import re
from typing import Final

from relay.errors import RelayError, Unavailable, UploadGone
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import PutResult
from relay.stores.metadata import REDIRECT, STRICT
from relay.stores.s3.account import at_version
from relay.stores.s3.client import S3Client
from relay.stores.s3.error_codes import code_and_message, error_field, error_region
from relay.stores.s3.objects import version_of
from relay.stores.s3.quirks import FEW, MD5_TAGS
from relay.stores.s3.responses import TRAILER
from relay.stores.s3.upload_limits import FEW_PARTS
from relay.stores.s3.upload_refusals import UploadRefusal
from relay.wire.exchange import Response, Wrapping
from relay.wire.http1 import Fields

_FEW_PARTS: Final = re.compile(rf"between 1 and {FEW_PARTS}\b")
"""How OpenStack Swift refuses a part number."""


def read_upload(
    client: S3Client, response: Response, location: Location, md5: bytes | None
) -> PutResult:
    """Return the result of an accepted PUT, pinned to its version in a versioned bucket.

    An ETag that equals the `md5` of the sent bytes counts as the server's digest; another ETag
    proves nothing. A Content-MD5 that was sent proves nothing either: a server may ignore the
    field."""
    client.http.drain(response)
    version, quirks = version_of(response.head), client.quirks(location)
    quirks.note_accepted(reported=TRAILER in version.digests)
    digests = version.digests
    if not digests and md5 is not None and (version.etag or "").strip('"').lower() == md5.hex():
        digests = {"md5": md5}
        quirks.learn(MD5_TAGS)
    return pinned_to_version(location, Version(etag=version.etag, digests=digests, id=version.id))


def pinned_to_version(location: Location, version: Version) -> PutResult:
    """Return a result whose object is read by its version id, if it has one."""
    readable = at_version(location, version.id) if version.id else location
    return PutResult(version, readable, version.digests)


def upload_refusal(
    client: S3Client,
    response: Response,
    method: str,
    location: Location,
    fields: Fields,
    *,
    wrapping: Wrapping | None = None,
    metadata: Fields = (),
) -> RelayError:
    """Return the error of a refused upload, and release its connection. It is retryable if an
    optional field may be the cause, which is then left out."""
    text, status = client.http.refusal_text(response, method), response.head.status
    code = code_and_message(text)[0]
    # A request to a wrong region says nothing about its fields.
    if client.is_elsewhere(location, code, error_region(response.head, text)):
        return client.error_of_code(response, method, location, text)
    if code == "InvalidArgument" and _FEW_PARTS.search(text):
        response.body.close()
        client.quirks(location).learn(FEW)
        message = f"{method} {location} was answered {status} {code}: it has too many parts"
        return UploadGone(f"{message}, and is sent in fewer", side=client.side)
    refusal = UploadRefusal(
        status=status,
        code=code,
        named=error_field(text) or (REDIRECT if REDIRECT in text.lower() else ""),
        fields=fields,
        wrapped=wrapping is not None,
        strict=STRICT in dict(metadata),
    )
    what = client.quirks(location).leave_out(refusal)
    if what is None:
        return client.error_of_code(response, method, location, text)
    if not refusal.can_mean_unknown_field:
        # Most likely the refusal is justified, so the user sees it if the retries end.
        denial = client.error_of_code(response, method, location, text)
        denial.retryable, denial.message = True, f"{denial.message}, with {what}"
        return denial
    response.body.close()
    return Unavailable(
        f"{method} {location} was answered {status} {code}; it is sent again without {what}",
        side=client.side,
        store_status=status,
    )
