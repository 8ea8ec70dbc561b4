"""TLS by the OpenSSL in the `cryptography` wheel, set up by pyOpenSSL.

Theory of operation. The wheel's OpenSSL is newer than that of most systems, and its AES-GCM takes
half the time of OpenSSL 3.0. pyOpenSSL makes the context and the session. Its methods copy each
piece once more than needed, so the bytes themselves pass through the same functions of OpenSSL
(SSL_read(3), SSL_write(3), BIO_read(3)) that those methods call. `is_usable` says whether this
version of pyOpenSSL has what is used here.

Decided here: nothing that `standard.py` decides otherwise."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL, crypto

from relay.wire.buffers import BUFFERS
from relay.wire.stream import HELD_BYTES
from relay.wire.tls.sessions import (
    MOST_RECORDS,
    Broken,
    EndedEarly,
    Resumable,
    Untrusted,
)
from relay.wire.tls.trust import bundle_blocks, bundle_error

NOTHING: Final = memoryview(b"")
TAKEN_BYTES: Final = 512 * 1024
"""Maximum number of bytes of cipher text that are taken at once."""
CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:"
    b"@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
)
"""Those of Python's `ssl` module, AES-128-GCM first."""
SUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
NO_PARTIAL_WILDCARDS: Final = 4
"""X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS (X509_check_host(3)), as the `ssl` module sets it."""
FLAGS: Final = int(
    ssl.VERIFY_X509_TRUSTED_FIRST
    if sys.version_info < (3, 13)
    else ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
)
"""Flags of the verification, as `ssl.create_default_context` sets them."""

_lib: Any = Binding.lib
_ffi: Any = Binding.ffi
_NEEDED: Final = (
    "SSL_read",
    "SSL_write",
    "SSL_do_handshake",
    "SSL_get_error",
    "SSL_pending",
    "SSL_get_verify_result",
    "X509_verify_cert_error_string",
    "BIO_new",
    "BIO_new_mem_buf",
    "BIO_read",
    "SSL_set_bio",
    "BIO_get_mem_data",
    "BIO_set_mem_eof_return",
    "SSL_get0_param",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "ERR_get_error",
    "ERR_clear_error",
    "ERR_reason_error_string",
    "SSL_ERROR_WANT_READ",
    "SSL_ERROR_ZERO_RETURN",
    "SSL_ERROR_SYSCALL",
    "SSL_R_UNEXPECTED_EOF_WHILE_READING",
    "ERR_GET_REASON",
    "SSL_clear_mode",
    "SSL_MODE_ENABLE_PARTIAL_WRITE",
)


def is_usable() -> bool:
    """Say if the installed versions of pyOpenSSL and cryptography have all that is used here."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    members = ("_ssl", "_into_ssl", "_from_ssl")
    return all(hasattr(_lib, name) for name in _NEEDED) and all(
        hasattr(connection, name) for name in members
    )


def version() -> str:
    """Return the version of the wheel's OpenSSL."""
    return SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()


class WheelContext:
    """A TlsContext by the OpenSSL of the wheel. Raises ConfigError for a bundle that can't be
    read."""

    def __init__(self, ca_bundle: Path | None = None) -> None:
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_verify(SSL.VERIFY_PEER)
        context.set_cipher_list(CIPHERS)
        context.set_tls13_ciphersuites(SUITES)
        context.set_alpn_protos([b"http/1.1"])
        context.set_options(SSL.OP_NO_COMPRESSION)
        _trust_system(context)
        store = context.get_cert_store()
        assert store is not None, "a context has a store"
        store.set_flags(FLAGS)
        if ca_bundle is not None:
            for block in bundle_blocks(ca_bundle):
                try:
                    store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, block))
                except (crypto.Error, ValueError) as error:
                    raise bundle_error(ca_bundle, error) from None
        self._resumable = Resumable()

    @staticmethod
    def library() -> str:
        """As TlsContext.library."""
        return f"{version()} (pyOpenSSL)"

    def session(self, host: str, port: int) -> WheelSession:
        """As TlsContext.session."""
        return WheelSession(SSL.Connection(self._context), host, *self._resumable.find(host, port))


def _trust_system(context: SSL.Context) -> None:
    """Trust the authorities that Python's `ssl` module trusts. (The wheel's OpenSSL was built
    elsewhere, and has other paths.) As there, a file without certificates gives none, and there may
    be several folders, with ':' in between."""
    paths = ssl.get_default_verify_paths()
    file = os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
    folders = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)
    for names in ((file, None), (None, folders)):
        with suppress(SSL.Error):
            context.load_verify_locations(*names)


class WheelSession:
    """A TlsSession by the OpenSSL of the wheel."""

    def __init__(
        self, connection: SSL.Connection, host: str, resumed: Any, keep: Callable[[Any], None]
    ) -> None:
        made: Any = connection
        self._connection, self._keep = connection, keep
        self._ssl, self._incoming, self._outgoing = made._ssl, made._into_ssl, made._from_ssl
        self._data = _ffi.new("char **")
        self._taken: memoryview | None = None
        self._fed: memoryview | None = None
        """The buffer whose bytes OpenSSL is reading."""
        self._failure: Exception | None = None
        """The failure of a read that had decrypted some records."""
        connection.set_connect_state()
        # pyOpenSSL lets each SSL_write end after one record.
        _lib.SSL_clear_mode(self._ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        self._require_name(host)
        if resumed is not None:
            connection.set_session(resumed)

    def _require_name(self, host: str) -> None:
        """Let OpenSSL check that the certificate carries `host`, as the `ssl` module does."""
        parameters = _lib.SSL_get0_param(self._ssl)
        _lib.X509_VERIFY_PARAM_set_hostflags(parameters, NO_PARTIAL_WILDCARDS)
        try:
            address = ip_address(host).packed
        except ValueError:
            name = host.encode("ascii")
            # Only for a name: SNI allows no addresses (RFC 6066 section 3).
            self._connection.set_tlsext_host_name(name)
            done = _lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
        else:
            done = _lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
        if done != 1:
            raise Untrusted("the host's name can't be checked")

    def shake_hands(self) -> bool:
        """As TlsSession.shake_hands."""
        result = _lib.SSL_do_handshake(self._ssl)
        if result == 1:
            return True
        kind = _lib.SSL_get_error(self._ssl, result)
        if kind == _lib.SSL_ERROR_WANT_READ:
            self._give_fed_back()
            return False
        failure = _read_failure()
        verified = _lib.SSL_get_verify_result(self._ssl)
        if isinstance(failure, Broken) and verified:
            text = _ffi.string(_lib.X509_verify_cert_error_string(verified)).decode()
            raise Untrusted(text)
        raise failure

    def read(self, view: memoryview) -> int | None:
        """As TlsSession.read."""
        if self._failure is not None:
            raise self._failure
        done: int = 0
        size, count = len(view), 0
        with _ffi.from_buffer("char[]", view, require_writable=True) as buffer:
            for _ in range(MOST_RECORDS):
                count = _lib.SSL_read(self._ssl, buffer + done, size - done)
                if count <= 0:
                    break
                done += count
                if done == size:
                    return done
            else:
                return done
        kind = _lib.SSL_get_error(self._ssl, count)
        # Most reads end here. An exception would cost more, and one that this frame kept would be a
        # cycle of all frames below, with their buffers.
        if kind == _lib.SSL_ERROR_WANT_READ:
            self._give_fed_back()
            return done or None
        if kind != _lib.SSL_ERROR_ZERO_RETURN:
            if not done:
                raise _read_failure()
            self._failure = _read_failure()
        return done

    def write(self, view: memoryview) -> int:
        """As TlsSession.write."""
        with _ffi.from_buffer(view) as data:
            count: int = _lib.SSL_write(self._ssl, data, len(view))
        if count > 0:
            return count
        failure = _read_failure()
        if isinstance(failure, Broken):
            raise failure
        # As the `ssl` module's: a peer may negotiate again in the middle of an upload (TLS 1.2).
        raise Broken("nothing can be sent before the peer's next message")

    def feed(self, piece: memoryview, count: int) -> None:
        """As TlsSession.feed. OpenSSL reads from the buffer itself, without a copy."""
        self._give_fed_back()
        self._fed = piece
        made = _lib.BIO_new_mem_buf(_ffi.from_buffer(piece), count)
        _lib.BIO_set_mem_eof_return(made, -1)  # its end is not the end of the connection
        _lib.SSL_set_bio(self._ssl, made, self._outgoing)  # frees the one before
        self._incoming = made

    def _give_fed_back(self) -> None:
        if self._fed is not None:
            BUFFERS.give(self._fed)
            self._fed = None

    def feed_end(self) -> None:
        """As TlsSession.feed_end."""
        _lib.BIO_set_mem_eof_return(self._incoming, 0)

    def has_unread(self) -> bool:
        """As TlsSession.has_unread."""
        unread = _lib.BIO_get_mem_data(self._incoming, self._data)
        return bool(unread or _lib.SSL_pending(self._ssl) or self._failure)

    def unsent(self) -> int:
        """As TlsSession.unsent."""
        size: int = _lib.BIO_get_mem_data(self._outgoing, self._data)
        return size

    def take(self) -> memoryview:
        """As TlsSession.take."""
        size = min(self.unsent(), TAKEN_BYTES)
        if not size:
            return NOTHING
        if size <= HELD_BYTES:  # a request's head; the pool would cost more
            buffer = memoryview(bytearray(size))
        else:
            self._taken = buffer = BUFFERS.take(size)
        with _ffi.from_buffer("char[]", buffer, require_writable=True) as data:
            _lib.BIO_read(self._outgoing, data, size)
        return buffer[:size]

    def give_back(self) -> None:
        """As TlsSession.give_back."""
        if self._taken is not None:
            BUFFERS.give(self._taken)
            self._taken = None

    def close(self) -> None:
        """As TlsSession.close."""
        # Else OpenSSL forbids a session of TLS 1.2 to be resumed when it frees the connection
        # (SSL_set_shutdown(3)).
        self._connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        self.give_back()
        if self._fed is not None:
            # No BIO may keep a pointer into a buffer that another stream borrows.
            self._incoming = _lib.BIO_new(_lib.BIO_s_mem())
            _lib.SSL_set_bio(self._ssl, self._incoming, self._outgoing)
            # OpenSSL asks for more only once it has read the whole buffer.
            self._give_fed_back()

    def remember(self) -> None:
        """As TlsSession.remember."""
        session = self._connection.get_session()
        if session is not None:
            self._keep(session)


def _read_failure() -> Exception:
    """Return the failure of a call in OpenSSL's queue of errors, which is empty afterwards, so that
    no later call finds this one's error."""
    code = _lib.ERR_get_error()
    _lib.ERR_clear_error()
    # OpenSSL reports an end without close_notify as an error since 3.0; before, by an empty queue
    # (SSL_get_error(3)).
    if code == 0 or _lib.ERR_GET_REASON(code) == _lib.SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return EndedEarly()
    text = _lib.ERR_reason_error_string(code)
    return Broken(_ffi.string(text).decode() if text != _ffi.NULL else "unknown reason")
