"""Ports for servers that have to be given one. Decided here: which ports."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 12_000, 32_000
"""Below the ports that Linux gives to connections and to listeners on port 0 (32768 and up): none
of those takes a port between its choice here and the start of its server."""


def free_ports(count: int) -> list[int]:
    """Return different ports of loopback on which nothing listens now."""
    found: list[int] = []
    # Tests seed the other generator, and two processes would choose the same ports.
    chance = random.SystemRandom()
    while len(found) < count:
        port = chance.randrange(_FIRST, _LAST)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
