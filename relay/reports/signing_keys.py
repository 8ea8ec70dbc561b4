"""The key that signs reports: a file of its user alone, in the form of OpenSSH.

Decided here: where it is, and that no key is ever replaced. Never here: signatures
(`ssh_signatures.py`)."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from relay.config import data_folder
from relay.errors import ConfigError
from relay.process.small_files import read_secret
from relay.reports import ssh_signatures
from relay.reports.report_folder import sync_names
from relay.reports.report_members import FORMAT

_OPEN: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def key_path() -> Path:
    """Return the place of this user's key: beside the ledger of this user. Raises ConfigError if
    the user has no home."""
    return data_folder(hint="Set HOME, or XDG_DATA_HOME.") / "report-key"


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public_line(self) -> str:
        """The public key as OpenSSH's files have it: its type, and itself in base64."""
        line = self.private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return line.decode()

    @property
    def blob(self) -> bytes:
        """The public key as SshSignature has it."""
        raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return ssh_signatures.key_blob(raw)

    @property
    def fingerprint(self) -> str:
        """As ssh_signatures.fingerprint_of."""
        return ssh_signatures.fingerprint_of(self.blob)

    def sign(self, digest: bytes) -> str:
        """Return the file of a signature over a file of a report with this SHA-512."""
        return ssh_signatures.sign(self.private, self.blob, FORMAT, digest)

    def allowed_signers_line(self, name: str) -> str:
        """Return the line that allows this key to sign reports, and nothing else, under a name."""
        return f'{name} namespaces="{FORMAT}" {self.public_line}'


def make_key(path: Path) -> SigningKey:
    """Make a key, and write it into a new file that survives a power loss. Raises ConfigError if
    the file exists already, or can't be written; nothing of it is left then."""
    key = SigningKey(Ed25519PrivateKey.generate())
    text = key.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    made = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        descriptor = os.open(path, _OPEN, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already",
            hint="relay replaces no key: `relay keys show` shows it. Move it away for another one.",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for one in made:
            sync_names(one.parent)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise _unwritable(path, error) from None
    return key


def load_key(path: Path) -> SigningKey:
    """Read a key. Raises ConfigError if there is none, if others may read the file, and for one
    that is damaged, has a passphrase, or is of another type."""
    if not os.path.lexists(path):
        raise ConfigError(
            f"the signing key {path} does not exist", hint="Make one: relay keys new."
        )
    text = read_secret(path, "the signing key")
    try:
        key = _parse_key(text)
    except TypeError:
        raise ConfigError(
            f"the signing key {path} has a passphrase",
            hint="relay asks for none: move the key away, and make one by: relay keys new.",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"the signing key {path} is damaged, or not an Ed25519 key of OpenSSH",
            hint="Put its backup back, or move it away and make another one: relay keys new.",
        ) from None
    return key


def _parse_key(text: str) -> SigningKey:
    """Return the key of a file (PROTOCOL.key). Raises ValueError and UnsupportedAlgorithm, and
    TypeError if it has a passphrase."""
    private = load_ssh_private_key(text.encode(), password=None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError("another type")
    key = SigningKey(private)
    # The library does not compare the public key of the file, and no reader would know the one of a
    # damaged private key.
    encoded = text.partition("KEY-----")[2].partition("-----END")[0]
    if key.blob not in base64.b64decode(encoded):
        raise ValueError("the private key is not that of the public one")
    return key


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the signing key {path} can't be written ({error.strerror})",
        hint="Set XDG_DATA_HOME to a folder that you may write to.",
    )
