"""The client of a relay server, for commands.

Theory of operation. One `requests` session, which reads no settings from the environment and
follows no redirect: relay never redirects. An answer is JSON, or lines of text. A problem (RFC
9457) is raised as the RelayError with its code, with the server's side and hint.

Decided here: which responses are valid. Never here: the requests (`relay/cli/remote_server.py`)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from relay import __version__
from relay.cli.terminal import say
from relay.config import Settings
from relay.errors import (
    ConfigError,
    NotRelay,
    RelayError,
    RequestError,
    ServerRefused,
    ServerUnreachable,
    Unauthorized,
)
from relay.hosts import is_loopback
from relay.location import parse_location
from relay.process.small_files import read_secret
from relay.wire.tls.trust import standard_context

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 90.0
"""Time that an answer, or the next piece of one, may take; a stream of events has one each
second."""
GATEWAY: Final = frozenset({502, 503, 504})
"""Statuses of a proxy whose server does not answer (RFC 9110 sections 15.6.3 to 15.6.5)."""
PROBLEM: Final = "application/problem+json"
PROBLEMS: Final = "/problems/"


class Client:
    """The client of one server. Every method raises ServerUnreachable, NotRelay, and the errors in
    the server's problems."""

    def __init__(self, url: str, token: str | None = None, ca_bundle: Path | None = None) -> None:
        """`url` is the prefix of the server's URLs. Raises ConfigError for an invalid one."""
        self.url = _check_url(url)
        self._token = token or ""
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(
            {"User-Agent": f"relay/{__version__}", "Accept": "application/json"}
        )
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._session.mount("https://", _Trusting(standard_context(ca_bundle)))

    def ask(self, method: str, path: str, members: Any = None, **headers: str) -> dict[str, Any]:
        """Send one request and return the JSON object of its answer."""
        with self._answer(method, path, members, headers, stream=False) as response:
            try:
                found = response.json()
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise self._not_relay(response)
            return found

    def lines(self, path: str, accept: str, **headers: str) -> Iterator[str]:
        """Yield the lines of an answer as they arrive, without holding more than one."""
        with self._answer(
            "GET", path, None, {"Accept": accept, **headers}, stream=True
        ) as response:
            if not response.headers.get("Content-Type", "").startswith(accept):
                raise self._not_relay(response)
            # None passes each piece on as it arrives; a fixed size may hold events back until it is
            # full.
            for line in response.iter_lines(chunk_size=None):
                yield line.decode("utf-8", "replace")

    @contextmanager
    def _answer(
        self, method: str, path: str, members: Any, headers: Mapping[str, str], stream: bool
    ) -> Iterator[requests.Response]:
        with (
            self._map_exceptions(),
            self._session.request(
                method,
                self.url + path,
                json=members,
                headers=dict(headers),
                timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                allow_redirects=False,
                stream=stream,
            ) as response,
        ):
            if not 200 <= response.status_code < 300:
                raise self._refusal(response)
            yield response

    @contextmanager
    def _map_exceptions(self) -> Iterator[None]:
        """Raise the exceptions of `requests` as RelayErrors, without their texts, which may hold
        the token."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            # SSLError is a ConnectionError too, so its clause comes before that one.
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise NotRelay(f"{self.url} does not speak TLS, or no safe version of it") from None
            raise ServerUnreachable(
                f"the certificate of {self.url} is not trusted",
                retryable=False,
                hint="Set RELAY_CA_BUNDLE to a file with its certificate authority.",
            ) from None
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            late = isinstance(error, requests.exceptions.Timeout)
            why = (
                "does not answer in time" if late else "can't be reached, or closed the connection"
            )
            raise ServerUnreachable(f"the server {self.url} {why}") from None
        except requests.exceptions.ChunkedEncodingError:
            raise ServerUnreachable(
                f"the server {self.url} closed the connection in the middle of its answer"
            ) from None
        except requests.exceptions.RequestException as error:
            raise NotRelay(
                f"{self.url} is not a relay server: its answer is not valid HTTP"
                f" ({type(error).__name__})"
            ) from None

    def _refusal(self, response: requests.Response) -> RelayError:
        problem = _problem(response)
        if problem is None and response.status_code in GATEWAY:
            return ServerUnreachable(
                f"the server behind {self.url} does not answer ({response.status_code})"
            )
        if problem is None:
            return self._not_relay(response)
        kind = (
            RelayError.class_of(str(problem.get("type", "")).rpartition(PROBLEMS)[2])
            or ServerRefused
        )
        # The server's hint about tokens names the server's setting; a client has another one.
        side, hint = problem.get("side"), self._hide(str(problem.get("hint") or "")) or None
        error = kind(
            self._hide(str(problem["detail"])),
            side=side if side in ("source", "destination", "relay", "request") else None,
            retryable=problem.get("retryable") is True,
            hint=_TOKEN if kind is Unauthorized else hint,
            retry_after=_retry_after(response),
        )
        error.pointer = _pointer(problem.get("errors"))
        return error

    def _not_relay(self, response: requests.Response) -> NotRelay:
        kind = response.headers.get("Content-Type", "").partition(";")[0][:60]
        answer = f"{response.status_code} {kind}".rstrip()
        return NotRelay(f"{self.url} is not a relay server: it answered {self._hide(answer)}")

    def _hide(self, text: str) -> str:
        """Return a text of the server without the token: a URL may lead to a server that repeats
        what it was sent."""
        return text.replace(self._token, "…") if self._token else text


class _Trusting(HTTPAdapter):
    """Trusts the same certificate authorities as relay does for stores."""

    def __init__(self, context: Any) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """As HTTPAdapter's, with relay's TLS context."""
        super().init_poolmanager(*args, **more, ssl_context=self._context)


def client_of(settings: Settings, url: str) -> Client:
    """Return the client of the server at `url`, with the token of the settings. Warns on stderr
    before the token is sent unencrypted. Raises ConfigError."""
    token = settings.token
    if settings.token_file:
        token = read_secret(settings.token_file, "RELAY_TOKEN_FILE", waits=True).strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the token is not printable ASCII",
            hint="RELAY_TOKEN_FILE must hold one token and nothing else.",
        )
    made = Client(url, token, settings.ca_bundle)
    if (
        token
        and made.url.startswith("http://")
        and not is_loopback(parse_location(made.url + "/").host)
    ):
        say(f"relay: warning: the token is sent to {made.url} unencrypted", sys.stderr)
    return made


_TOKEN = "Set RELAY_TOKEN_FILE to a file with one of the server's tokens, which only you can read."
_WRITE = (
    "Write the URL that `relay serve` prints (http://127.0.0.1:8080), or the https URL of the proxy"
    " before the server."
)


def _check_url(url: str) -> str:
    try:
        found = parse_location(url)
    except RequestError as error:
        raise ConfigError(f"RELAY_URL (or --url): {error.message}", hint=_WRITE) from None
    if found.store != "http" or "?" in found.target or "#" in url:
        raise ConfigError("RELAY_URL (or --url) is not the URL of a server", hint=_WRITE)
    return url.rstrip("/")


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds of an answer's Retry-After. relay sends no date in it."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch("[0-9]{1,9}", text) else None


def _pointer(errors: Any) -> str | None:
    """Return the JSON Pointer of a problem's first error, or None."""
    first = errors[0] if isinstance(errors, list) and errors else None
    pointer = first.get("pointer") if isinstance(first, dict) else None
    return pointer if isinstance(pointer, str) else None


def _problem(response: requests.Response) -> dict[str, Any] | None:
    if not response.headers.get("Content-Type", "").startswith(PROBLEM):
        return None
    try:
        found = json.loads(response.content)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("detail"), str) else None
