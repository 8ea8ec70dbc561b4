"""Sign S3 requests, and follow the bucket to its region.

Decided here: with which credentials, for which region and by which clock a request is signed, and
which of the caller's headers only an upload has. Never here: the signature itself (`sigv4.py`),
which refusal means that one of them is wrong (`client.py`)."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from relay.errors import ConfigError, CredentialsWithdrawn
from relay.location import Location
from relay.stores.http_client import HttpClient
from relay.stores.metadata import CARRIED
from relay.stores.s3.account import account_of, in_region
from relay.stores.s3.error_codes import error_region
from relay.stores.s3.sigv4 import UNSIGNED, UNSIGNED_TRAILER, AwsCredentials, Signer
from relay.wire.body import Body
from relay.wire.exchange import Payload, Response, Wrapping
from relay.wire.http1 import Fields

_OF_UPLOADS: Final = re.compile(
    "x-amz-(?:server-side-encryption(?!-customer)|storage-class|acl|grant-|object-lock-|meta-"
    f"|tagging|website-redirect-location)|(?:{'|'.join(CARRIED)}|expires)$"
)
"""The beginnings of the names of fields that describe the object of an upload. MinIO and AWS refuse
some of them in other requests, even in a HEAD and in the upload of a part. (The key of SSE-C is in
all of them.)"""


class SignedRequests:
    """The signed requests of one side of a transfer.

    It keeps what the last request was signed with. The signer is shared: another transfer may have
    learned a different region or clock meanwhile, or renewed the credentials."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._credentials: AwsCredentials | None = None
        self._region = ""
        self._skew = timedelta(0)

    def send(
        self,
        method: str,
        location: Location,
        fields: Fields,
        body: Payload = None,
        *,
        expect: bool = False,
        wrapping: Wrapping | None = None,
    ) -> Response:
        """As HttpClient.send, signed. If the answer's head names the bucket's region, the request
        is sent again for that region, unless its body is a stream.

        Raises CredentialsWithdrawn (retryable) if credentials are missing now."""
        if (
            location.headers
            and self._http.side == "destination"
            and not _describes(method, location)
        ):
            location = _without_upload_fields(location)
        account = account_of(location)
        signer, fields = account.signer, fields + account.asked
        payload = UNSIGNED_TRAILER if wrapping else UNSIGNED
        while True:
            there, signed = self._sign(signer, method, location, fields, payload)
            response = self._http.send(
                method, there, fields + signed, body, expect=expect, wrapping=wrapping
            )
            # A Body is spent: its refusal is an error, and the retry goes to the region that it
            # names.
            if response.head.status not in (301, 307, 400) or isinstance(body, Body):
                return response
            if not self.learn_region(location, error_region(response.head, "")):
                return response
            response.body.close()

    def _sign(
        self, signer: Signer, method: str, location: Location, fields: Fields, payload: str
    ) -> tuple[Location, Fields]:
        """Return the location that a request is sent to, and the fields that sign it."""
        try:
            self._credentials = credentials = signer.credentials()
            self._region, self._skew = signer.region, signer.skew
            there = in_region(location, self._region)
            host, sent = there.host_header, there.headers + fields
            return there, signer.fields_by(
                credentials, method, host, there.target, fields=sent, payload=payload
            )
        except ConfigError as error:
            # They were about to be renewed, which may succeed in a moment.
            raise CredentialsWithdrawn(
                error.message, side=self._http.side, retryable=True, hint=error.hint
            ) from None

    @property
    def token(self) -> str | None:
        """The session token of the last request's credentials, which no message may repeat."""
        return self._credentials.token if self._credentials is not None else None

    def learn_region(self, location: Location, region: str | None) -> bool:
        """Send later requests to `region`. Return False if the last request went there, or if the
        signer refuses it."""
        if region is None:
            return False
        return account_of(location).signer.learn_region(region, self._region)

    def learn_time(self, location: Location, theirs: datetime) -> bool:
        """Use the server's clock for signatures from now on. Return False if the last request was
        signed by it."""
        return account_of(location).signer.learn_time(theirs, self._skew)

    def has_new_credentials(self, location: Location) -> bool:
        """Return whether there are now other credentials than those of the last request."""
        try:
            return account_of(location).signer.renew(self._credentials)
        except ConfigError:
            return False  # the store's refusal says more than our own error


def _describes(method: str, location: Location) -> bool:
    """Return whether a request has the description of an object: an upload in one request, a copy,
    or the beginning of a multipart upload."""
    if method == "PUT":
        return "uploadId=" not in location.query
    return method == "POST" and location.query.startswith("uploads")


def _without_upload_fields(location: Location) -> Location:
    """Return a location without the headers that only an upload has."""
    kept = tuple(pair for pair in location.headers if not _OF_UPLOADS.match(pair[0].lower()))
    return replace(location, headers=kept)
