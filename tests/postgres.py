"""PostgreSQL: a server of our own, and a proxy to it that loses responses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from loadtests.bench.postgres import Postgres, postgresql, programs

__all__ = ["Deaf", "Pooler", "Postgres", "run_deaf_proxy", "postgresql", "programs"]


class Deaf:
    """A proxy to the server that can lose the response to a COMMIT: the commit is made, and the
    client does not learn of it."""

    def __init__(self, target: int) -> None:
        """Listen, and forward everything."""
        self._target, self._armed = target, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._socks: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_next(self) -> None:
        """Lose the response to the next COMMIT, and the connection with it."""
        self._armed.set()

    def close(self) -> None:
        """Close every connection."""
        for sock in (self._listener, *self._socks):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._socks += [client, server]
                deaf = threading.Event()
                for reads, writes, up in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pass, args=(reads, writes, up, deaf), daemon=True
                    ).start()

    def _pass(
        self, reads: socket.socket, writes: socket.socket, up: bool, deaf: threading.Event
    ) -> None:
        with suppress(OSError):
            while piece := reads.recv(65536):
                if up and b"COMMIT\x00" in piece and self._armed.is_set():
                    self._armed.clear()
                    deaf.set()
                if not up and deaf.is_set():
                    break  # the server has confirmed it
                writes.sendall(piece if up else self._answer(piece))
        for sock in (reads, writes):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, piece: bytes) -> bytes:
        """Return what the client gets for a piece of the server's answers."""
        return piece


class Pooler(Deaf):
    """A way to the server that gives the client another process id than the server's, as poolers
    do (BackendKeyData in PostgreSQL's protocol)."""

    def _answer(self, piece: bytes) -> bytes:
        before, key, after = piece.partition(b"K\x00\x00\x00\x0c")
        return before + key + bytes(4) + after[4:] if key else piece


@contextmanager
def run_deaf_proxy(server: Postgres) -> Iterator[Deaf]:
    """Run such a proxy for the time of the block."""
    made = Deaf(server.port)
    try:
        yield made
    finally:
        made.close()
