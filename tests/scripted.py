"""A scripted peer: real sockets, plain threads, and exactly the bytes of a test.

A fault is a shorter list. Each connection is handled by the next script of the list (the last one
repeats); a script gets the accepted socket and decides every step on it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType

Script = Callable[["Talk"], None]


@dataclass
class Talk:
    """One accepted connection, and the bytes received on it."""

    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)

    def head(self) -> bytes:
        """Read one request's head; b'' at the end of the stream."""
        while b"\r\n\r\n" not in self.received:
            if not self._more():
                return b""
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        self.received = bytearray(rest)
        return head + b"\r\n\r\n"

    def body(self, length: int) -> bytes:
        """Read `length` bytes of a body, or fewer if the stream ends."""
        while len(self.received) < length and self._more():
            pass
        piece, self.received = bytes(self.received[:length]), self.received[length:]
        return piece

    def peek(self, length: int) -> bytes:
        """Wait for the first `length` bytes, or fewer if the stream ends, and leave them in the
        socket."""
        while len(self.received) < length and self._more():
            pass
        return bytes(self.received[:length])

    def read_all(self) -> bytes:
        """Read to the end of the stream."""
        while self._more():
            pass
        piece, self.received = bytes(self.received), bytearray()
        return piece

    def _more(self) -> bool:
        try:
            piece = self.sock.recv(65536)
        except OSError:
            return False
        self.received += piece
        return bool(piece)

    def send(self, *pieces: bytes) -> None:
        """Send the pieces; a closed peer does not fail the script."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.sock.sendall(piece)

    def reset(self) -> None:
        """End the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def linger(self, seconds: float = 20.0) -> None:
        """Keep the connection open until the other side ends it."""
        self.sock.settimeout(seconds)
        self.read_all()


def answer(*pieces: bytes, keep: bool = False) -> Script:
    """Answer each request with these pieces; close afterwards unless `keep`."""

    def script(talk: Talk) -> None:
        while talk.head():
            talk.send(*pieces)
            if not keep:
                return

    return script


def taking_script(reply: bytes, store: list[bytes]) -> Script:
    """Accept uploads with a Content-Length, keep whole ones in `store`, and answer them; HEAD and
    GET read them."""

    def script(talk: Talk) -> None:
        while head := talk.head():
            method = head.split(b" ", 1)[0]
            if method in (b"PUT", b"POST"):
                length = length_of(head)
                body = talk.body(length)
                if len(body) < length:
                    return
                store.append(body)
                talk.send(reply)
            elif not store:
                talk.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                text = store[-1] if method == b"GET" else b""
                talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(store[-1]), text)

    return script


def length_of(head: bytes) -> int:
    """Return a request's Content-Length, 0 if it has none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


class Peer:
    """Listens on a port of its own and plays scripts. Use as a context; everything is closed at its
    end."""

    def __init__(
        self, scripts: Script | Iterable[Script], tls: ssl.SSLContext | None = None
    ) -> None:
        self._scripts = [scripts] if callable(scripts) else list(scripts)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self.errors: list[BaseException] = []

    def url(self, path: str = "/object") -> str:
        """Return the URL of a path here."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Peer:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._play, args=(script, sock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, script: Script, sock: socket.socket) -> None:
        self._socks.append(sock)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            script(Talk(sock))
        except OSError:
            pass  # the other side closed or reset: the test checks that side
        except Exception as error:  # noqa: BLE001 - a script's own mistake must fail its test
            self.errors.append(error)
        finally:
            sock.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._socks:
            sock.close()
        if error is None:
            assert not self.errors, self.errors
