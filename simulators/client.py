"""A raw client: bytes out, bytes back, and the end of the connection. No library in between could
hide a defect."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

Ending = Literal["fin", "ragged", "reset", "open"]
_BLOCK_BYTES: Final = 64 * 1024
_SETTLE_SECONDS: Final = 0.02
_FIRST_SECONDS: Final = 2.0
"""Minimum time to wait for the first byte in seconds: a busy machine may be that late."""


@dataclass(frozen=True)
class Reply:
    """All received bytes. `ending` is `open` if nothing more came for a while, `ragged` a TLS
    cut."""

    wire: bytes
    ending: Ending

    @property
    def head(self) -> bytes:
        """The first head, with its empty line."""
        head, end, _ = self.wire.partition(b"\r\n\r\n")
        return head + end

    @property
    def body(self) -> bytes:
        """The bytes after the first head, framing included."""
        return self.wire.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        """The status of the first head, 0 without one."""
        digits = self.wire[9:12]
        return (
            int(digits)
            if self.wire.startswith(b"HTTP/1.") and len(digits) == 3 and digits.isdigit()
            else 0
        )

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """Fields of the first head by lower-case name; the last one of a name."""
        lines = self.head.decode("utf-8", "replace").split("\r\n")[1:]
        return {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
            if name
        }


def head(method: str, target: str, **fields: str | int) -> bytes:
    """Write a request head; `content_length=5` is a Content-Length of 5."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join((*lines, "", "")).encode()


def talk(
    port: int,
    request: bytes,
    *,
    quiet_seconds: float = 0.3,
    patient: bool = False,
    limit_bytes: int = 64 * 1024 * 1024,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """Send the bytes to 127.0.0.1 and read until the end, until silence, or until `limit_bytes`
    came.

    After one whole answer that keeps the connection the silence is short, unless `patient`.
    Raises OSError when it cannot connect, ssl.SSLError when the handshake fails.
    """
    try:
        plain = socket.create_connection(("127.0.0.1", port), 10.0)
    except ConnectionResetError:  # accepted, and reset before `connect` had returned
        return Reply(b"", "reset")
    with plain:
        if tls is None:
            return _talk(plain, request, quiet_seconds, limit_bytes, patient)
        # An end without close_notify raises SSLEOFError then, which is reported as `ragged`.
        with tls.wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False
        ) as secured:
            return _talk(secured, request, quiet_seconds, limit_bytes, patient)


def get(port: int, target: str, *, patient: bool = False, **fields: str | int) -> Reply:
    """GET a target by `talk`; the server ends the connection."""
    return talk(port, head("GET", target, **fields), patient=patient)


def put(port: int, target: str, body: bytes, *, method: str = "PUT", **fields: str | int) -> Reply:
    """PUT a body with its length by `talk`."""
    return talk(port, head(method, target, Content_Length=len(body), **fields) + body)


def _is_whole(start: Reply, count: int, request: bytes) -> bool:
    """Return whether the first `count` bytes are one whole answer that keeps the connection."""
    if (
        b"\r\n\r\n" not in start.wire
        or start.status < 200
        or start.fields.get("connection") == "close"
    ):
        return False
    if request.startswith(b"HEAD") or start.status in (204, 304):
        return True
    length = start.fields.get("content-length", "")
    return length.isdecimal() and length.isascii() and count >= len(start.head) + int(length)


def _talk(
    sock: socket.socket, request: bytes, quiet_seconds: float, limit_bytes: int, patient: bool
) -> Reply:
    got = bytearray()
    end: Ending = "fin"
    try:
        sock.sendall(request)
    except ConnectionResetError:
        end = "reset"  # sendall has consumed the error, so recv sees only an end
    except OSError:
        pass  # it may have answered before it closed
    sock.settimeout(max(quiet_seconds, _FIRST_SECONDS))
    ending: Ending = "open"
    try:
        while len(got) < limit_bytes:
            block = sock.recv(_BLOCK_BYTES)
            if not block:
                ending = end
                break
            if not got:
                sock.settimeout(quiet_seconds)
            got += block
            if not patient and _is_whole(
                Reply(bytes(got[:_BLOCK_BYTES]), "open"), len(got), request
            ):
                sock.settimeout(min(quiet_seconds, _SETTLE_SECONDS))
    except TimeoutError:
        pass
    except ssl.SSLEOFError:
        ending = "ragged"
    except OSError:
        ending = "reset"
    return Reply(bytes(got), ending)
