"""A certificate authority made for a run, and its certificates that a client must refuse."""

from __future__ import annotations

import datetime
import ssl
import warnings
from collections.abc import Callable, Mapping
from typing import Final

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

VARIANTS: Final = ("good", "expired", "wrong-name", "self-signed")
VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def server_context(
    variant: str = "good", version: str | None = None
) -> tuple[ssl.SSLContext, bytes]:
    """Return a server's TLS context and the PEM of the authority to trust.

    `variant` is one of VARIANTS; with `version`, one of VERSIONS, the server accepts no other."""
    authority = trustme.CA()
    issue: Callable[[], trustme.LeafCert] = {
        "good": lambda: authority.issue_cert(*_NAMES),
        "expired": lambda: _expired_certificate(authority),
        "wrong-name": lambda: authority.issue_cert("wrong.example"),
        "self-signed": _self_signed,
    }[variant]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issue().configure_cert(context)
    if version is not None:
        _speak_only(context, VERSIONS[version])
    return context, authority.cert_pem.bytes()


def _speak_only(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    with warnings.catch_warnings():
        # The test needs a deprecated version.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = version
        context.maximum_version = version
    if version < ssl.TLSVersion.TLSv1_2:
        # OpenSSL 3 refuses these versions at its default security level.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")


def _expired_certificate(authority: trustme.CA) -> trustme.LeafCert:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    return authority.issue_cert(*_NAMES, not_before=now - 2 * day, not_after=now - day)


def _self_signed() -> trustme.LeafCert:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return trustme.LeafCert(private, certificate.public_bytes(serialization.Encoding.PEM), [])
