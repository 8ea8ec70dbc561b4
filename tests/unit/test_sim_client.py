"""The raw client distinguishes a reset from an end, in whichever call notices it first."""

from __future__ import annotations

import select
import socket
import struct

from simulators.client import Reply, _talk


def test_a_reset_before_the_request() -> None:
    """The kernel reports a reset once: here to the send, and the read after it sees a mere end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as sock:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            assert select.select([sock], [], [], 10)[0]
            assert _talk(sock, b"GET / HTTP/1.1\r\n\r\n", 1.0, 1000, False) == Reply(b"", "reset")
