"""Signatures of files in OpenSSH's form (PROTOCOL.sshsig), which `ssh-keygen -Y verify` accepts.

Such a signature is over the SHA-512 of a file, and over a namespace, so that a signature that was
made for another use does not count.

Decided here: the form, Ed25519 keys alone. Never here: whose key it is (`allowed_signers.py`)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_TYPE: Final = "ssh-ed25519"
MOST_BYTES: Final = 16 << 10
"""Longest signature that is read: one of Ed25519 has some 300 bytes."""
_MAGIC: Final = b"SSHSIG"
_VERSION: Final = 1
_HASH: Final = b"sha512"
_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_COLUMNS: Final = 70


@dataclass(frozen=True, kw_only=True)
class SshSignature:
    """A signature as its file has it. Nothing of it is trusted yet."""

    key: bytes
    """The public key as allowed_signers files have it, before base64 (RFC 8709 section 4)."""
    namespace: str
    value: bytes

    @property
    def fingerprint(self) -> str:
        """As fingerprint_of, of its key."""
        return fingerprint_of(self.key)

    def is_valid(self, digest: bytes) -> bool:
        """Return whether its key has signed a file with this SHA-512, for its namespace."""
        public = Ed25519PublicKey.from_public_bytes(_raw_key(self.key))
        try:
            public.verify(self.value, _signed_data(self.namespace, digest))
        except InvalidSignature:
            return False
        return True

    def to_text(self) -> str:
        """Return the file of this signature."""
        blob = b"".join(
            (
                _MAGIC,
                _VERSION.to_bytes(4, "big"),
                _string(self.key),
                _string(self.namespace.encode()),
                _string(b""),
                _string(_HASH),
                _string(_string(KEY_TYPE.encode()) + _string(self.value)),
            )
        )
        text = base64.b64encode(blob).decode()
        lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
        return "\n".join([_BEGIN, *lines, _END, ""])

    @classmethod
    def from_text(cls, text: str) -> SshSignature:
        """Parse the file of a signature. Raises ValueError, with the reason as a clause."""
        begin, *lines = text.removesuffix("\n").split("\n")
        if begin != _BEGIN or not lines or lines.pop() != _END:
            raise ValueError("it is not an SSH signature")
        encoded = "".join(lines)
        try:
            blob = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("its base64 is damaged") from None
        # The last letter may have bits that no byte gets; they are zero in what programs write.
        if base64.b64encode(blob).decode() != encoded:
            raise ValueError("its base64 is damaged")
        return cls._from_blob(blob)

    @classmethod
    def _from_blob(cls, blob: bytes) -> SshSignature:
        fields = _Fields(blob)
        if fields.take(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is not an SSH signature")
        if int.from_bytes(fields.take(4), "big") != _VERSION:
            raise ValueError("its version is unknown")
        key, namespace = fields.string(), fields.string()
        if fields.string() != b"":
            raise ValueError("its reserved field is not empty")
        if fields.string() != _HASH:
            raise ValueError("it is not over a SHA-512")
        signature = _Fields(fields.string())
        fields.end()
        _raw_key(key)
        if signature.string() != KEY_TYPE.encode():
            raise ValueError("it is not by an Ed25519 key; `ssh-keygen -Y verify` knows others")
        value = signature.string()
        signature.end()
        if len(value) != 64:  # RFC 8032 section 5.1.6
            raise ValueError("it is damaged")
        try:
            return cls(key=key, namespace=namespace.decode(), value=value)
        except UnicodeDecodeError:
            raise ValueError("its namespace is not UTF-8") from None


def sign(private: Ed25519PrivateKey, key: bytes, namespace: str, digest: bytes) -> str:
    """Return the file of a signature over a file with this SHA-512. `key` is the public one, as
    SshSignature has it."""
    value = private.sign(_signed_data(namespace, digest))
    return SshSignature(key=key, namespace=namespace, value=value).to_text()


def key_blob(raw: bytes) -> bytes:
    """Return the public key of these 32 bytes as SshSignature has it."""
    return _string(KEY_TYPE.encode()) + _string(raw)


def fingerprint_of(key: bytes) -> str:
    """Return a public key's fingerprint, as `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def _signed_data(namespace: str, digest: bytes) -> bytes:
    strings = (namespace.encode(), b"", _HASH, digest)
    return _MAGIC + b"".join(map(_string, strings))


def _string(data: bytes) -> bytes:
    """Return data as a `string` (RFC 4251 section 5): after its length."""
    return len(data).to_bytes(4, "big") + data


def _raw_key(key: bytes) -> bytes:
    """Return the 32 bytes of a public key. Raises ValueError for one of another type."""
    fields = _Fields(key)
    if fields.string() != KEY_TYPE.encode():
        raise ValueError("it is not by an Ed25519 key; `ssh-keygen -Y verify` knows others")
    raw = fields.string()
    fields.end()
    if len(raw) != 32:
        raise ValueError("its key is damaged")
    return raw


class _Fields:
    """Reads the fields of a blob, one after the other. Raises ValueError where it ends early."""

    def __init__(self, blob: bytes) -> None:
        self._left = blob

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        taken, self._left = self._left[:count], self._left[count:]
        if len(taken) != count:
            raise ValueError("it is damaged")
        return taken

    def string(self) -> bytes:
        """Return the next `string`."""
        return self.take(int.from_bytes(self.take(4), "big"))

    def end(self) -> None:
        """Raise ValueError if something is left."""
        if self._left:
            raise ValueError("it is damaged")
