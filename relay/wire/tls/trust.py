"""Which certificates are trusted: those of the system's authorities, and of a bundle besides.

Certificates and names are always checked; no setting switches that off."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final

from relay.errors import ConfigError
from relay.process.small_files import read_small

MOST_CA_BYTES: Final = 16 * 1024 * 1024
_PEM: Final = "Name a PEM file of certificates: blocks that begin with -----BEGIN CERTIFICATE-----."
_BLOCK: Final = re.compile(
    "-----BEGIN CERTIFICATE-----[^-]{1,1000000}-----END CERTIFICATE-----", re.ASCII
)


def standard_context(ca_bundle: Path | None = None) -> ssl.SSLContext:
    """Return a context of the `ssl` module that trusts the system's authorities, and those in
    `ca_bundle` (PEM) besides.

    TLS 1.2 or newer. Raises ConfigError for a bundle that can't be read."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _prefer_aes_128(context)
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cadata=bundle_text(ca_bundle))
        except (OSError, ValueError) as error:  # also ssl.SSLError, and where nothing is in it
            raise bundle_error(ca_bundle, error) from None
    return context


def bundle_text(ca_bundle: Path) -> str:
    """Return the ASCII text of a bundle; its comments may have other characters. Raises
    ConfigError."""
    text = read_small(ca_bundle, "RELAY_CA_BUNDLE", MOST_CA_BYTES)
    return text.encode("ascii", "ignore").decode()


def bundle_blocks(ca_bundle: Path) -> list[bytes]:
    """Return the certificates of a bundle, each as PEM. Raises ConfigError if it has none."""
    blocks = [found.encode() for found in _BLOCK.findall(bundle_text(ca_bundle))]
    if not blocks:
        raise bundle_error(ca_bundle, ValueError())
    return blocks


def bundle_error(ca_bundle: Path, error: Exception) -> ConfigError:
    """Return the error for a bundle that a library can't read."""
    why = getattr(error, "reason", None) or type(error).__name__
    return ConfigError(f"RELAY_CA_BUNDLE {ca_bundle} holds no certificates ({why})", hint=_PEM)


def _prefer_aes_128(context: ssl.SSLContext) -> None:
    """Put AES-128-GCM first among the ciphers of TLS 1.2, as Go and the browsers do; no cipher is
    added or removed. It costs a tenth less CPU than AES-256, and neither is broken. (The order of
    TLS 1.3 can't be set from Python 3.11.)"""
    names = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    context.set_ciphers(":".join(sorted(names, key=lambda name: "AES128-GCM" not in name)))
