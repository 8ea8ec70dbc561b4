"""The client of a relay server, for commands.

Theory of operation. One `requests` session that reads nothing from its environment, keeps to one
address, and is never sent elsewhere: a redirect is no answer of relay's. Every answer is JSON, or
lines; a problem (RFC 9457) becomes the error of ours that has its name, with the side and the hint
that the server gave.

Decided here: what counts as an answer, and what does not. Never here: what is asked
(`relay/cli/backends.py`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from relay import __version__
from relay.cli.terminal import say
from relay.config import Settings, is_loopback
from relay.errors import (
    ConfigError,
    NotRelay,
    RelayError,
    RequestError,
    ServerRefused,
    ServerUnreachable,
    Unauthorized,
)
from relay.location import parse_location
from relay.process.small_files import read_secret
from relay.wire.tls import client_context

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 90.0
"""How long an answer, or the next piece of one, may take: a stream of events tells something each
second."""
GATEWAY: Final = frozenset({502, 503, 504})
"""What a proxy answers where the server behind it does not (RFC 9110 sections 15.6.3 to 15.6.5)."""
PROBLEM: Final = "application/problem+json"
PROBLEMS: Final = "/problems/"


class Client:
    """Asks one server. Every call raises ServerUnreachable, NotRelay, and the errors that the
    server tells of."""

    def __init__(self, url: str, token: str | None = None, ca_bundle: Path | None = None) -> None:
        """`url` is what the server's own URLs begin with. Raises ConfigError for one that is no
        such URL."""
        self.url = _checked(url)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(
            {"User-Agent": f"relay/{__version__}", "Accept": "application/json"}
        )
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._session.mount("https://", _Trusting(client_context(ca_bundle)))

    def ask(self, method: str, path: str, members: Any = None, **headers: str) -> dict[str, Any]:
        """Return the answer to one request, which is one JSON object."""
        with self._answer(method, path, members, headers, stream=False) as response:
            try:
                reported = response.json()
            except ValueError:
                reported = None
            if not isinstance(reported, dict):
                raise self._no_relay(response)
            return reported

    def lines(self, path: str, accept: str, **headers: str) -> Iterator[str]:
        """Yield the lines of an answer as they come; no more of it is kept."""
        with self._answer(
            "GET", path, None, {"Accept": accept, **headers}, stream=True
        ) as response:
            if not response.headers.get("Content-Type", "").startswith(accept):
                raise self._no_relay(response)
            for line in response.iter_lines(chunk_size=None):
                yield line.decode("utf-8", "replace")

    @contextmanager
    def _answer(
        self, method: str, path: str, members: Any, headers: Mapping[str, str], stream: bool
    ) -> Iterator[requests.Response]:
        with (
            self._told(),
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
    def _told(self) -> Iterator[None]:
        """Turn the library's errors into ours; none of them is repeated, since it may hold what was
        sent."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise NotRelay(f"{self.url} does not speak TLS, or none that is safe") from None
            raise ServerUnreachable(
                f"the certificate of {self.url} is not trusted",
                retryable=False,
                hint="Name its authority in RELAY_CA_BUNDLE.",
            ) from None
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            late = isinstance(error, requests.exceptions.Timeout)
            why = "does not answer in time" if late else "is not there, or hung up"
            raise ServerUnreachable(f"the server {self.url} {why}") from None
        except requests.exceptions.ChunkedEncodingError:
            raise ServerUnreachable(
                f"the server {self.url} broke off in the middle of its answer"
            ) from None
        except requests.exceptions.RequestException as error:
            raise NotRelay(
                f"{self.url} does not speak as a relay does ({type(error).__name__})"
            ) from None

    def _refusal(self, response: requests.Response) -> RelayError:
        problem = _problem(response)
        if problem is None and response.status_code in GATEWAY:
            return ServerUnreachable(
                f"the server behind {self.url} does not answer ({response.status_code})"
            )
        if problem is None:
            return self._no_relay(response)
        kind = (
            RelayError.named(str(problem.get("type", "")).rpartition(PROBLEMS)[2]) or ServerRefused
        )
        side, hint = problem.get("side"), str(problem.get("hint") or "") or None
        reported = kind(
            str(problem["detail"]),
            side=side if side in ("source", "destination", "relay", "request") else None,
            retryable=problem.get("retryable") is True,
            hint=_TOKEN if kind is Unauthorized else hint,
        )
        reported.pointer = _pointer(problem.get("errors"))
        return reported

    def _no_relay(self, response: requests.Response) -> NotRelay:
        kind = response.headers.get("Content-Type", "").partition(";")[0][:60]
        return NotRelay(
            f"{self.url} answered {response.status_code} {kind}".rstrip() + ", as no relay does"
        )


class _Trusting(HTTPAdapter):
    """Trusts the authorities that relay's stores are trusted by."""

    def __init__(self, context: Any) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """As the library's, with our context."""
        super().init_poolmanager(*args, **more, ssl_context=self._context)


def client_of(settings: Settings, url: str) -> Client:
    """Return what asks the server at `url`, with the token that the settings name. Raises
    ConfigError."""
    token = (
        read_secret(settings.token_file, "RELAY_TOKEN_FILE").strip()
        if settings.token_file
        else settings.token
    )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the token is not printable ASCII",
            hint="RELAY_TOKEN_FILE holds one token, and nothing else.",
        )
    made = Client(url, token, settings.ca_bundle)
    if (
        token
        and made.url.startswith("http://")
        and not is_loopback(parse_location(made.url + "/").host)
    ):
        say(f"relay: warning: the token is sent to {made.url} unencrypted", sys.stderr)
    return made


_TOKEN = (
    "Name a file with one of the server's tokens in RELAY_TOKEN_FILE, which nobody else may read."
)
_WRITE = (
    "Write it as `relay serve` prints it: http://127.0.0.1:8080, or https://host with what stands"
    " before it."
)


def _checked(url: str) -> str:
    try:
        found = parse_location(url)
    except RequestError as error:
        raise ConfigError(f"RELAY_URL (or --url): {error.message}", hint=_WRITE) from None
    if found.store != "http" or "?" in found.target or "#" in url:
        raise ConfigError("RELAY_URL (or --url) is not the URL of a server", hint=_WRITE)
    return url.rstrip("/")


def _pointer(errors: Any) -> str | None:
    """Return where in the request the first of a problem's errors is, if it says so."""
    first = errors[0] if isinstance(errors, list) and errors else None
    pointer = first.get("pointer") if isinstance(first, dict) else None
    return pointer if isinstance(pointer, str) else None


def _problem(response: requests.Response) -> dict[str, Any] | None:
    if not response.headers.get("Content-Type", "").startswith(PROBLEM):
        return None
    try:
        reported = json.loads(response.content)
    except ValueError:
        return None
    return (
        reported if isinstance(reported, dict) and isinstance(reported.get("detail"), str) else None
    )
