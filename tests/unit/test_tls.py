"""Both TLS libraries: the same certificates are accepted and refused, and the same bytes pass."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

from relay.config import TlsLibrary
from relay.errors import ConfigError
from relay.wire.buffers import BUFFERS
from relay.wire.tls import choice, wheel
from relay.wire.tls.choice import client_context
from relay.wire.tls.sessions import Broken, EndedEarly, TlsSession, Untrusted
from relay.wire.tls.standard import StandardContext
from relay.wire.tls.stream import TlsStream

LIBRARIES = (TlsLibrary.SSL, TlsLibrary.PYOPENSSL)
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
HOST = "files.example.com"


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The contents of a certificate."""

    names: tuple[str, ...] = (HOST,)
    common_name: str | None = None
    starts: datetime.timedelta = -DAY
    ends: datetime.timedelta = 30 * DAY
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    is_authority: bool = False
    may_sign: bool = True
    key: Callable[[], Any] = field(default=lambda: ec.generate_private_key(ec.SECP256R1()))


def issue(wanted: Wanted, issuer: Issued | None = None) -> Issued:
    """Issue a certificate; without an issuer it is signed by its own key."""
    key = wanted.key()
    common_name = wanted.common_name or ("an authority" if wanted.is_authority else "a server")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer is not None else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + wanted.starts)
        .not_valid_after(NOW + wanted.ends)
        .add_extension(
            x509.BasicConstraints(ca=wanted.is_authority and wanted.may_sign, path_length=None),
            critical=True,
        )
    )
    if wanted.names and not wanted.is_authority:
        names = [_general_name(one) for one in wanted.names]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if not wanted.is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([wanted.usage]), critical=False)
    signer = issuer.key if issuer is not None else key
    return Issued(certificate=builder.sign(signer, hashes.SHA256()), key=key)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@cache
def authority() -> Issued:
    return issue(Wanted(is_authority=True))


def chain_of(case: str) -> list[Issued]:
    """Return the certificates that the server of a case sends, its own first."""
    root = authority()
    if case == "self-signed":
        return [issue(Wanted())]
    if case == "another authority":
        return [issue(Wanted(), issue(Wanted(is_authority=True)))]
    middle = Wanted(is_authority=True, common_name="a middle", may_sign=case != "not an authority")
    if case == "expired middle":
        middle = Wanted(is_authority=True, common_name="a middle", ends=-DAY / 2)
    if case in ("middle", "middle not sent", "not an authority", "expired middle"):
        issuer = issue(middle, root)
        sent = [issue(Wanted(), issuer), issuer]
        return sent[:1] if case == "middle not sent" else sent
    return [issue(CASES[case][1], root)]


def _rsa(bits: int) -> Callable[[], Any]:
    return lambda: rsa.generate_private_key(65537, bits)


CASES: dict[str, tuple[bool, Wanted]] = {
    "right": (True, Wanted()),
    "one of several names": (True, Wanted(names=("a.example", HOST, "*.b.example"))),
    "capital letters": (True, Wanted(names=("Files.Example.COM",))),
    "wildcard": (True, Wanted(names=("*.example.com",))),
    "common name without other names": (True, Wanted(names=(), common_name=HOST)),
    "RSA": (True, Wanted(key=_rsa(2048))),
    "middle": (True, Wanted()),
    "another name": (False, Wanted(names=("files.example.org",))),
    "common name beside other names": (False, Wanted(names=("a.example",), common_name=HOST)),
    "an address as a name": (False, Wanted(names=("127.0.0.1",))),
    "wildcard of two labels": (False, Wanted(names=("*.com",))),
    "partial wildcard": (False, Wanted(names=("f*.example.com",))),
    "wildcard in the middle": (False, Wanted(names=("files.*.com",))),
    "ends like it": (False, Wanted(names=("example.com",))),
    "expired": (False, Wanted(ends=-DAY / 2)),
    "not yet valid": (False, Wanted(starts=DAY)),
    "for clients": (False, Wanted(usage=ExtendedKeyUsageOID.CLIENT_AUTH)),
    "a short key": (False, Wanted(key=_rsa(1024))),
    "self-signed": (False, Wanted()),
    "another authority": (False, Wanted()),
    "middle not sent": (False, Wanted()),
    "not an authority": (False, Wanted()),
    "expired middle": (False, Wanted()),
}
"""Cases: whether the certificate is accepted, and its contents."""


class Server:
    """A TLS server over memory."""

    def __init__(self, chain: list[Issued], tmp_path: Path, **versions: ssl.TLSVersion) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_ciphers("ALL:@SECLEVEL=0")
        for name, version in versions.items():
            setattr(self.context, name, version)
        file = tmp_path / "server.pem"
        file.write_bytes(
            chain[0].key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + b"".join(pem(one) for one in chain)
        )
        self.context.load_cert_chain(file)
        self.accept()

    def accept(self) -> None:
        """Start with the next client."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake_hands(self, client: TlsSession) -> None:
        """Complete the handshake. Raises the client's errors."""
        done = False
        while not done:
            done = client.shake_hands()
            self.collect(client)
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            self.deliver(client)

    def collect(self, client: TlsSession) -> None:
        """Read the client's cipher text."""
        while client.unsent():
            self.incoming.write(client.take())
            client.give_back()

    def deliver(self, client: TlsSession) -> None:
        """Send the client our cipher text."""
        feed(client, self.outgoing.read())


def feed(client: TlsSession, cipher: bytes) -> None:
    """Feed cipher text, once the client has read all that it has."""
    while cipher:
        try:
            client.read(memoryview(bytearray(1)))
        except (EndedEarly, Broken):
            pass
        piece = BUFFERS.take(1 << 16)
        count = min(len(cipher), len(piece))
        piece[:count] = cipher[:count]
        client.feed(piece, count)
        cipher = cipher[count:]


def pem(one: Issued) -> bytes:
    return one.certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes("an authority of ours, für Prüfungen\n".encode() + pem(authority()))
    return file


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_certificate_is_judged_alike(
    library: TlsLibrary, case: str, bundle: Path, tmp_path: Path
) -> None:
    server = Server(chain_of(case), tmp_path)
    client = client_context(bundle, library).session(HOST, 443)
    if CASES[case][0]:
        server.shake_hands(client)
    else:
        with pytest.raises(Untrusted) as caught:
            server.shake_hands(client)
        assert str(caught.value)
    client.close()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("names", "host", "good"),
    [
        (("127.0.0.1",), "127.0.0.1", True),
        (("::1",), "::1", True),
        (("::1",), "0:0:0:0:0:0:0:1", True),
        (("127.0.0.1",), "127.0.0.2", False),
        (("*.0.0.1",), "127.0.0.1", False),
        (("localhost",), "127.0.0.1", False),
        (("xn--bcher-kva.example",), "xn--bcher-kva.example", True),
        (("*.example",), "xn--bcher-kva.example", False),
    ],
)
def test_a_host_is_compared_alike(
    library: TlsLibrary, names: tuple[str, ...], host: str, good: bool, bundle: Path, tmp_path: Path
) -> None:
    server = Server([issue(Wanted(names=names), authority())], tmp_path)
    client = client_context(bundle, library).session(host, 443)
    if good:
        server.shake_hands(client)
    else:
        with pytest.raises(Untrusted):
            server.shake_hands(client)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_old_version_is_refused(library: TlsLibrary, bundle: Path, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        server = Server(
            chain_of("right"),
            tmp_path,
            minimum_version=ssl.TLSVersion.TLSv1,
            maximum_version=ssl.TLSVersion.TLSv1_1,
        )
    client = client_context(bundle, library).session(HOST, 443)
    assert not client.shake_hands()
    server.collect(client)
    with pytest.raises(ssl.SSLError):
        server.tls.do_handshake()
    feed_alert(client, server.outgoing.read())
    with pytest.raises(Broken):
        client.shake_hands()


def feed_alert(client: TlsSession, cipher: bytes) -> None:
    """Feed the end of a handshake that failed."""
    piece = BUFFERS.take(1 << 16)
    piece[: len(cipher)] = cipher
    client.feed(piece, len(cipher))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    version = ssl.TLSVersion[request.param]
    yield Server(chain_of("right"), tmp_path, minimum_version=version, maximum_version=version)


@pytest.mark.parametrize("library", LIBRARIES)
def test_bytes_pass_in_both_directions(library: TlsLibrary, server: Server, bundle: Path) -> None:
    client = client_context(bundle, library).session(HOST, 443)
    server.shake_hands(client)
    data = bytes(range(256)) * 4000
    assert client.write(memoryview(data)) == len(data)
    server.collect(client)
    assert _read_all(server, len(data)) == data
    server.tls.write(data)
    cipher, received, view = server.outgoing.read(), b"", memoryview(bytearray(100_000))
    for begin in range(0, len(cipher), 77_777):
        part = cipher[begin : begin + 77_777]
        piece = BUFFERS.take(1 << 17)
        piece[: len(part)] = part
        received += _drain(client, view)
        client.feed(piece, len(part))
    received += _drain(client, view)
    assert received == data
    assert not client.has_unread()
    client.close()


def _read_all(server: Server, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += server.tls.read(1 << 20)
    return received


def _drain(client: TlsSession, view: memoryview) -> bytes:
    received = b""
    while True:
        count = client.read(view)
        if count is None:
            return received
        received += view[:count]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ending", ["close_notify", "cut", "damage"])
def test_an_end_and_a_cut_are_distinguished(
    library: TlsLibrary, server: Server, bundle: Path, ending: str
) -> None:
    client = client_context(bundle, library).session(HOST, 443)
    server.shake_hands(client)
    server.tls.write(b"the last bytes")
    if ending == "close_notify":
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.unwrap()
    cipher = server.outgoing.read()
    if ending == "damage":
        cipher = cipher[:-1] + bytes([cipher[-1] ^ 1])
    view = memoryview(bytearray(100))
    assert client.read(view) is None
    feed_alert(client, cipher)
    if ending == "damage":
        with pytest.raises(Broken):
            client.read(view)
        return
    assert bytes(view[: client.read(view)]) == b"the last bytes"
    if ending == "close_notify":
        assert client.read(view) == 0
        return
    assert client.read(view) is None
    client.feed_end()
    with pytest.raises(EndedEarly):
        client.read(view)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_session_with_the_same_host_is_resumed(
    library: TlsLibrary, server: Server, bundle: Path
) -> None:
    context = client_context(bundle, library)
    reused = []
    for port in (443, 443, 444):
        client = context.session(HOST, port)
        server.shake_hands(client)
        server.tls.write(b"x")
        server.deliver(client)
        reused.append(server.tls.session_reused)
        client.remember()
        client.close()
        server.accept()
    assert reused == [False, True, False]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_renegotiation_is_answered(library: TlsLibrary, tmp_path: Path, bundle: Path) -> None:
    """Such as IIS begins with TLS 1.2, for a folder that accepts certificates of clients."""
    Server(chain_of("right"), tmp_path)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_chain_file(str(tmp_path / "server.pem"))
    context.use_privatekey_file(str(tmp_path / "server.pem"))
    server = SSL.Connection(context, None)
    server.set_accept_state()
    ours, theirs = socket.socketpair()
    view = memoryview(bytearray(100))
    with ours, theirs:
        for one in (ours, theirs):
            one.setblocking(False)

        def serve(step: Callable[[], Any]) -> Any:
            """Pass what has come to the server, take a step, and send what it says."""
            with suppress(BlockingIOError):
                server.bio_write(theirs.recv(1 << 16))
            try:
                return step()
            except SSL.WantReadError:
                return None
            finally:
                with suppress(SSL.WantReadError):
                    theirs.sendall(server.bio_read(1 << 16))

        stream = TlsStream(ours, "source", client_context(bundle, library).session(HOST, 443))
        stream.handshake(lambda ready: serve(server.do_handshake))
        serve(server.do_handshake)
        stream.write_now(memoryview(b"GET"))
        assert serve(lambda: server.recv(100)) == b"GET"
        server.renegotiate()
        serve(server.do_handshake)
        for _ in range(10):
            serve(lambda: server.recv(1))
            assert stream.read_now(view) is None
        assert not server.renegotiate_pending()
        serve(lambda: server.send(b"200"))
        assert stream.read_now(view) == 3
        stream.close()


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_http_1_1_is_offered(library: TlsLibrary, server: Server, bundle: Path) -> None:
    server.context.set_alpn_protocols(["h2", "http/1.1"])
    server.accept()
    client = client_context(bundle, library).session(HOST, 443)
    server.shake_hands(client)
    assert server.tls.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_bundle_without_certificates_is_refused(
    library: TlsLibrary, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        client_context(file, library)
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    ("ours", "wheels", "usable", "chosen"),
    [
        ((3, 0, 19), "OpenSSL 4.0.3 29 Sep 2026", True, "WheelContext"),
        ((3, 0, 19), "OpenSSL 4.0.3 29 Sep 2026", False, "StandardContext"),
        ((4, 0, 1), "OpenSSL 4.0.3 29 Sep 2026", True, "StandardContext"),
        ((4, 1, 0), "OpenSSL 4.0.3 29 Sep 2026", True, "StandardContext"),
        ((3, 0, 19), "LibreSSL 4.0.0", True, "StandardContext"),
    ],
)
def test_the_newer_library_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    ours: tuple[int, ...],
    wheels: str,
    usable: bool,
    chosen: str,
) -> None:
    monkeypatch.setattr(choice.ssl, "OPENSSL_VERSION_INFO", ours)
    monkeypatch.setattr(wheel, "version", lambda: wheels)
    monkeypatch.setattr(wheel, "is_usable", lambda: usable)
    assert type(client_context()).__name__ == chosen
    if not usable:
        with pytest.raises(ConfigError):
            client_context(library=TlsLibrary.PYOPENSSL)


def test_the_installed_library_is_usable() -> None:
    assert wheel.is_usable()


@pytest.mark.parametrize("library", LIBRARIES)
def test_bytes_that_need_the_peer_first_are_broken(library: TlsLibrary, bundle: Path) -> None:
    """As in the middle of an upload, when a server of TLS 1.2 negotiates again."""
    session = client_context(bundle, library).session(HOST, 443)
    with pytest.raises(Broken):
        session.write(memoryview(b"an upload"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_system_authorities_may_be_unreadable(
    library: TlsLibrary, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty SSL_CERT_FILE gives no authority, and the program starts without one."""
    (tmp_path / "empty").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty"))
    assert client_context(bundle, library).session(HOST, 443) is not None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_authorities_of_the_environment_are_trusted(
    library: TlsLibrary,
    variable: str,
    server: Server,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = crypto.X509.from_cryptography(authority().certificate).subject_name_hash()
    (bundle.parent / f"{number:08x}.0").write_bytes(pem(authority()))
    value = bundle if variable == "SSL_CERT_FILE" else f"{bundle.parent}/none:{bundle.parent}"
    monkeypatch.setenv(variable, str(value))
    server.shake_hands(client_context(library=library).session(HOST, 443))
    assert server.tls.version() is not None, "the handshake is complete"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("text", ["", "junk\n", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_broken_file_of_the_system_trusts_no_authority(
    library: TlsLibrary, text: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "system.pem").write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    client = client_context(library=library).session(HOST, 443)
    with pytest.raises(Untrusted):
        server.shake_hands(client)


@pytest.mark.parametrize("error", [ImportError, AttributeError, RuntimeError])
def test_a_library_that_cannot_be_imported_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("builtins.__import__", broken)
        chosen = choice._context_class(TlsLibrary.AUTO)
    with monkeypatch.context() as patched, pytest.raises(ConfigError):
        patched.setattr("builtins.__import__", broken)
        choice._context_class(TlsLibrary.PYOPENSSL)
    assert chosen.__name__ == "StandardContext"


def test_a_failure_behind_some_bytes_is_not_waited_for(server: Server, bundle: Path) -> None:
    client = client_context(bundle, TlsLibrary.PYOPENSSL).session(HOST, 443)
    server.shake_hands(client)
    server.tls.write(b"good")
    good = server.outgoing.read()
    server.tls.write(b"damaged")
    damaged = server.outgoing.read()
    view = memoryview(bytearray(100))
    assert client.read(view) is None
    feed_alert(client, good + damaged[:-1] + bytes([damaged[-1] ^ 1]))
    assert bytes(view[: client.read(view)]) == b"good"
    assert client.has_unread()
    with pytest.raises(Broken):
        client.read(view)


def test_a_resumed_session_of_the_ssl_module_is_not_read_again(
    server: Server, bundle: Path
) -> None:
    context = client_context(bundle, TlsLibrary.SSL)
    kept = []
    for _ in range(3):
        client = context.session(HOST, 443)
        server.shake_hands(client)
        server.tls.write(b"x")
        server.deliver(client)
        client.remember()
        kept.append(cast(StandardContext, context)._resumable.find(HOST, 443)[0])
        server.accept()
    assert kept[0] is kept[1] is kept[2]
