"""A transport adapter for `requests` over relay's wire.

    session = wire_session(wire)
    with session.get(source, stream=True) as response:
        session.put(destination, data=response.raw)      # response.raw is a Body, and is pumped

Errors are relay's own (`RelayError`), not `requests.RequestException`, which derives from OSError
(law 2). Content codings are passed through untouched: `response.raw` gives the bytes as they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from relay.errors import RelayError, TooManyRedirects, Unsupported
from relay.location import parse_location
from relay.redirects import redirect_target
from relay.wire.exchange import Payload, Request, Response, Wire
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

READS = frozenset({"GET", "HEAD", "OPTIONS"})
OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "accept-encoding", "connection", "expect"}
)
"""Fields that the exchange writes itself, to match the bytes that it sends."""
IMPERSONAL = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "user-agent",
        "want-content-digest",
        "want-repr-digest",
    }
)
"""Fields that follow a redirect to another origin. Any other may be a credential: the names of
credentials are not a closed set."""


class WireAdapter(BaseAdapter):
    """Carries the exchanges of a `requests.Session` over a Wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Do one exchange; the limits are the wire's, so `timeout` is ignored.

        Raises Unsupported for `verify=False`, another CA bundle, a client certificate or a proxy,
        RequestError for a URL that is not acceptable, and what `Wire.exchange` raises."""
        if verify is not True or cert or proxies:
            raise Unsupported(
                "the wire verifies every certificate by its own bundle, and uses no proxy"
            )
        answer = self._wire.exchange(_to_wire(request, self._wire))
        return _to_requests(answer, request, self)

    def close(self) -> None:
        """Close the idle connections."""
        self._wire.pool.close()


def _to_wire(request: requests.PreparedRequest, wire: Wire) -> Request:
    location = parse_location(request.url or "")
    method = request.method or "GET"
    body, length = _payload(request)
    return Request(
        method=method,
        origin=location.origin,
        host=location.host_header,
        target=location.target,
        side="source" if method in READS else "destination",
        meter=Watchdog(wire.limits),
        fields=_fields(request.headers),
        body=body,
        length=length,
        expect=bool(request.headers.get("Expect")),
    )


def _fields(headers: Mapping[str, str | bytes]) -> Fields:
    pairs = (
        (name, value.decode("latin-1") if isinstance(value, bytes) else value)
        for name, value in headers.items()
    )
    return tuple((name, value) for name, value in pairs if name.lower() not in OURS)


def _payload(request: requests.PreparedRequest) -> tuple[Payload, int | None]:
    """Return the body as the wire takes it, and its length where `requests` learned one."""
    body: Any = request.body
    if isinstance(body, str):
        body = body.encode()
    announced = request.headers.get("Content-Length")
    # A Body stays as it is, and is pumped (only it has `note_unseen_bytes`). Any other file is read
    # in pieces of 256 KiB: to iterate over a file would give its lines.
    if hasattr(body, "read") and not hasattr(body, "note_unseen_bytes"):
        body = iter(lambda: request.body.read(1 << 18), b"")  # type: ignore[union-attr]
    return body, int(announced) if announced else None


def _to_requests(
    answer: Response, request: requests.PreparedRequest, adapter: WireAdapter
) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.head.status
    response.reason = answer.head.reason
    response.headers = CaseInsensitiveDict()
    for name, _ in answer.head.fields:
        response.headers[name] = answer.head.get(name) or ""
    response.encoding = get_encoding_from_headers(response.headers)
    response.raw = answer.body
    response.url = request.url or ""
    response.request = request
    response.connection = adapter  # type: ignore[assignment]
    return response


class WireSession(requests.Session):
    """A Session that reads nothing from its environment, keeps no cookies, and redirects reads
    only."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = wire.limits.redirects
        self.adapters.clear()
        for scheme in ("http://", "https://"):
            self.mount(scheme, WireAdapter(wire))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the redirect's target as `requests` does, but none for a request with a body: the
        body is spent."""
        request = resp.request
        if request.method not in READS or request.body or not resp.is_redirect:
            return None
        return str(resp.headers["location"])

    def resolve_redirects(
        self,
        resp: requests.Response,
        req: requests.PreparedRequest,
        stream: bool = False,
        *args: Any,
        yield_requests: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Follow redirects, at most as many as the wire's limits say; their bodies are discarded
        unread. Fields that may be credentials go to the origin that the caller named, and to no
        other. Raises RedirectRefused and TooManyRedirects (relay's own), and what `Wire.exchange`
        raises."""
        history: list[requests.Response] = []
        while (target := self.get_redirect_target(resp)) is not None:
            try:
                if len(history) == self.max_redirects:
                    raise TooManyRedirects(
                        f"more than {self.max_redirects} redirects, one after the other",
                        side="source",
                    )
                req = _follow(req, target)
            except RelayError:
                if yield_requests:
                    # `requests` asks for `Response.next` of an answer that its caller does not
                    # follow: the answer itself did not fail.
                    return
                resp.close()
                raise
            if yield_requests:
                yield req
                return
            resp.history = list(history)
            history.append(resp)
            _drop(resp)
            # `stream`: the body of a redirect is never read, since it may be endless. The `send`
            # that follows the redirects reads the last body, unless its caller streams it.
            resp = self.send(req, stream=True, allow_redirects=False, **options)
            yield resp


def _follow(request: requests.PreparedRequest, target: str) -> requests.PreparedRequest:
    """Return the request as it follows a redirect. Raises RedirectRefused."""
    here = parse_location(request.url or "")
    there = redirect_target(here, target)
    followed = request.copy()
    followed.url = there.url
    if there.origin != here.origin:
        for name in [name for name in followed.headers if name.lower() not in IMPERSONAL]:
            del followed.headers[name]
    return followed


def _drop(response: requests.Response) -> None:
    """Release an answer whose body is not needed; a later read finds it empty."""
    response.close()
    response._content, response._content_consumed = b"", True  # type: ignore[attr-defined]


def wire_session(wire: Wire) -> WireSession:
    """Return a `requests.Session` over the wire."""
    return WireSession(wire)
