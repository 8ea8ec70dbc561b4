"""A listening socket and a thread for each connection. Decided here: start, stop and TLS; never
the protocol."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

from simulators.wire import Connection

_BACKLOG: Final = 1024
_JOIN_SECONDS: Final = 5.0
_NO_DESCRIPTOR_SECONDS: Final = 0.02

Serve = Callable[[Connection], None]


class Listener:
    """Accepts on one port and calls `serve` with each connection, in a thread of its own.

    `greet` runs before the TLS handshake and may stall it. `accepting=False` listens with the
    shortest backlog and never accepts. Raises OSError when the port is taken."""

    def __init__(
        self,
        serve: Serve,
        bind: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        greet: Serve | None = None,
        accepting: bool = True,
        buffer_bytes: int | None = None,
    ) -> None:
        self._serve, self._tls, self._greet = serve, tls, greet
        self._live: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._socket = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET)
        self._acceptor: threading.Thread | None = None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if buffer_bytes is not None:
                # Before listen(2): the accepted sockets inherit it (tcp(7)).
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            self._socket.bind((bind, port))
            self._socket.listen(_BACKLOG if accepting else 0)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self.accepted = 0
        if accepting:
            self._acceptor = threading.Thread(
                target=self._accept, name=f"accept:{self.port}", daemon=True
            )
            self._acceptor.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait for the threads. Safe to call twice."""
        with self._lock:
            self._stopping = True
        _shut_down(self._socket)  # wakes accept(2), which close(2) would not
        if self._acceptor is not None:
            self._acceptor.join(_JOIN_SECONDS)
        self._socket.close()
        with self._lock:
            live = dict(self._live)
        for thread, sock in live.items():
            _shut_down(sock)
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                if self._stopping:
                    return
                time.sleep(_NO_DESCRIPTOR_SECONDS)  # EMFILE would otherwise spin
                continue
            # Nagle's algorithm would join the small writes of `slice` and `drip`.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            with self._lock:
                if self._stopping:
                    sock.close()
                    return
                self.accepted += 1
                self._live[thread] = sock
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        try:
            if self._greet is not None:
                self._greet(Connection(sock))
            if self._tls is not None:
                sock = self._wrap_in_tls(sock, self._tls)
            self._serve(Connection(sock))
        except OSError:
            pass  # a handshake that failed, or a socket shut by stop()
        finally:
            sock.close()
            with self._lock:
                self._live.pop(threading.current_thread(), None)

    def _wrap_in_tls(self, sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._live[threading.current_thread()] = secured
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured


def _shut_down(sock: socket.socket) -> None:
    try:
        # Not SSLSocket.shutdown: it drops the TLS object under the thread that reads from it.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already
