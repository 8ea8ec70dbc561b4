"""Answers as plain values, which Flask and the checks before it send alike.

Decided here: how an answer becomes one of WSGI, or one of Flask. Never here: which answer a request
gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response
from werkzeug.http import HTTP_STATUS_CODES


@dataclass(frozen=True, kw_only=True)
class PlainAnswer:
    """A whole answer."""

    status: int
    kind: str
    """The media type of its body."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Those besides Content-Type and Content-Length."""

    def as_response(self) -> Response:
        """Return it for a view of Flask."""
        made = Response(self.body, status=self.status, content_type=self.kind)
        made.headers.extend(self.headers)
        return made

    def send(
        self, environ: Mapping[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request with it, without Flask. The answer to HEAD has no body."""
        start_response(self._status, self._fields())
        return () if environ["REQUEST_METHOD"] == "HEAD" else (self.body,)

    def as_bytes(self) -> bytes:
        """Return it as HTTP, after which the connection closes (RFC 9112 section 9.6)."""
        fields = [("Connection", "close"), *self._fields()]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"HTTP/1.1 {self._status}\r\n{head}\r\n".encode("latin-1") + self.body

    @property
    def _status(self) -> str:
        return f"{self.status} {HTTP_STATUS_CODES[self.status].upper()}"  # as werkzeug writes it

    def _fields(self) -> list[tuple[str, str]]:
        length = ("Content-Length", str(len(self.body)))
        return [("Content-Type", self.kind), length, *self.headers]
