"""Choose the TLS library: the one with the newer OpenSSL, unless a setting names one.

Each minor version of OpenSSL has made AES-GCM faster on newer processors: measured on x86-64 with
VAES, AES-128-GCM of OpenSSL 4.0 takes less than half the time of OpenSSL 3.0."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from relay.config import TlsLibrary
from relay.errors import ConfigError
from relay.wire.tls.sessions import TlsContext
from relay.wire.tls.standard import StandardContext


def client_context(
    ca_bundle: Path | None = None, library: TlsLibrary = TlsLibrary.AUTO
) -> TlsContext:
    """Return a context that trusts the system's authorities, and those in `ca_bundle` (PEM)
    besides.

    TLS 1.2 or newer. Raises ConfigError for a bundle that can't be read, and for a library that
    can't be used."""
    return _context_class(library)(ca_bundle)


def library_name(library: TlsLibrary) -> str:
    """Return the name and version of the library that is used. Raises ConfigError if it can't be
    used."""
    return _context_class(library).library()


def _context_class(library: TlsLibrary) -> type[TlsContext]:
    if library is TlsLibrary.SSL:
        return StandardContext
    try:
        # Imported here because it costs 60 ms, which a command without TLS need not pay.
        from relay.wire.tls import wheel  # noqa: PLC0415
    except Exception as error:  # noqa: BLE001 - AttributeError with another cryptography, ...
        if library is TlsLibrary.AUTO:
            return StandardContext
        raise ConfigError(
            f"RELAY_TLS=pyopenssl, and pyOpenSSL can't be loaded ({error})",
            hint="Install pyOpenSSL, or set RELAY_TLS=ssl.",
        ) from None
    if library is TlsLibrary.AUTO:
        newer = _is_newer(wheel.version()) and wheel.is_usable()
        return wheel.WheelContext if newer else StandardContext
    if not wheel.is_usable():
        raise ConfigError(
            "RELAY_TLS=pyopenssl, and relay can't use the installed version of pyOpenSSL",
            hint="Install the version that constraints.txt names, or set RELAY_TLS=ssl.",
        )
    return wheel.WheelContext


def _is_newer(version: str) -> bool:
    """Say if an OpenSSL has a newer major or minor version than that of the `ssl` module."""
    found = re.search(r"^OpenSSL (\d+)\.(\d+)", version)
    if found is None or not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
        return False
    return (int(found[1]), int(found[2])) > ssl.OPENSSL_VERSION_INFO[:2]
