"""Signatures in the form of OpenSSH, their keys, and the files that allow them."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from relay.errors import ConfigError
from relay.reports.allowed_signers import principals_of
from relay.reports.report_members import FORMAT
from relay.reports.signing_keys import SigningKey, key_path, load_key, make_key
from relay.reports.ssh_signatures import SshSignature

FILE = b"a report\n"
SIGNED = """-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgOaMgxZaTruaF52AJhqFfZnBOId
2zCYBrV8XSTvxpsbQAAAAOcmVsYXktcmVwb3J0QDEAAAAAAAAABnNoYTUxMgAAAFMAAAAL
c3NoLWVkMjU1MTkAAABAm9T6CuUKswNgpXHXj/5EPpsyF7tdEYiuhlkOwUR8RxHHlCbqDL
KaYlLkVViAB7tsA2N0+DOh/EmYLb2icnF6CA==
-----END SSH SIGNATURE-----
"""
"""What `ssh-keygen -Y sign -n relay-report@1` of OpenSSH 9.2 wrote for FILE."""
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDmjIMWWk67mhedgCYahX2ZwTiHdswmAa1fF0k78abG0"
PRIVATE = """-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACA5oyDFlpOu5oXnYAmGoV9mcE4h3bMJgGtXxdJO/GmxtAAAAJDRHIlh0RyJ
YQAAAAtzc2gtZWQyNTUxOQAAACA5oyDFlpOu5oXnYAmGoV9mcE4h3bMJgGtXxdJO/GmxtA
AAAEAYtZIfopxVx+57zPNxjc6twzZdnHXMp0i/61PUX3lSRDmjIMWWk67mhedgCYahX2Zw
TiHdswmAa1fF0k78abG0AAAADWF1ZGl0QGV4YW1wbGU=
-----END OPENSSH PRIVATE KEY-----
"""
"""The key of that signature: a test's, which signs nothing else."""
LOCKED = """-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAK3nijyp
3NFb03aJLLAKhNAAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIA73p2o++aXZL4+t
/uxVRrY4y4tzMa+A6ZyCM4c71nPbAAAAkEnYWFXmqrWMC22g3mP48kih0InfjQ85HWhtTD
9XteyEj33WzaKZkRnEviuUA5J2t4QL4MSyyTKgYdWiG3DmDMpK+bDWE1+VuSzLqcmzY0ID
A+RiEM3PWGSc/Pr5U9Ia1kRnkSPfR4urSnZQl5ed6A5S25tW758YtdezZoGnPC+S+Ws1vA
wZbgYKz/qZxscE1Q==
-----END OPENSSH PRIVATE KEY-----
"""
"""A key with a passphrase, by ssh-keygen."""
DIGEST = hashlib.sha512(FILE).digest()
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQ=="


@pytest.fixture
def key(tmp_path: Path) -> Iterator[SigningKey]:
    """Return the key of SIGNED."""
    path = tmp_path / "key"
    path.write_text(PRIVATE)
    path.chmod(0o600)
    yield load_key(path)


def test_a_signature_is_that_of_openssh(key: SigningKey) -> None:
    """Ed25519 has one signature for each key and text, so every byte is the same."""
    assert key.sign(DIGEST) == SIGNED
    assert key.public_line == PUBLIC
    found = SshSignature.from_text(SIGNED)
    assert (found.key, found.namespace) == (key.blob, FORMAT)
    assert found.is_valid(DIGEST)
    assert found.to_text() == SIGNED
    assert not found.is_valid(hashlib.sha512(b"another\n").digest())
    assert SshSignature.from_text(SIGNED.removesuffix("\n")) == found


def test_a_signature_for_another_use_is_not_valid(key: SigningKey) -> None:
    """The namespace is signed too."""
    found = SshSignature.from_text(SIGNED)
    other = SshSignature(key=found.key, namespace="git", value=found.value)
    assert not other.is_valid(DIGEST)


def test_no_flipped_bit_of_a_signature_passes() -> None:
    """Every single one, also in its base64 and its lines."""
    good, refused = SIGNED.encode(), 0
    for at in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[at // 8] ^= 1 << at % 8
        try:
            found = SshSignature.from_text(flipped.decode())
            is_good = found.is_valid(DIGEST) and found.key == SshSignature.from_text(SIGNED).key
        except ValueError:
            is_good = False
        refused += not is_good
    assert refused == len(good) * 8 > 2000


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an SSH signature"),
        ("-----BEGIN SSH SIGNATURE-----\n", "not an SSH signature"),
        ("-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n", "damaged"),
        (SIGNED.replace("U1NI", "U1N!"), "base64"),
        (SIGNED.replace("CA==", "CB=="), "base64"),
        (SIGNED + "\n", "not an SSH signature"),
        (SIGNED.replace("U1NIU0lHAAAAAQ", "U1NIU0lHAAAAAg"), "version"),
        (SIGNED.replace("U1NIU0lH", "U1NIU0lI"), "not an SSH signature"),
    ],
)
def test_a_damaged_signature_has_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SshSignature.from_text(text)


def test_a_blob_that_ends_early_is_refused() -> None:
    blob = base64.b64decode("".join(SIGNED.splitlines()[1:-1]))
    for length in range(len(blob)):
        text = base64.b64encode(blob[:length]).decode()
        with pytest.raises(ValueError):
            SshSignature.from_text(
                f"-----BEGIN SSH SIGNATURE-----\n{text}\n-----END SSH SIGNATURE-----\n"
            )


# -- keys


def test_a_key_is_made_once_and_for_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = key_path()
    assert path == tmp_path / "data/relay/report-key"
    made = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        make_key(path)
    assert path.read_bytes() == before
    assert load_key(path).public_line == made.public_line
    assert load_key(path).sign(DIGEST) == made.sign(DIGEST)


def test_a_new_key_survives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is on the disk, and so are those of the folders that were made for it."""
    synced, path = [], tmp_path / "data/relay/report-key"
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    make_key(path)
    assert synced == [one.stat().st_ino for one in (path, *path.parents[:3])]


def test_a_key_whose_name_is_not_on_the_disk_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(ConfigError, match="Input/output error"):
        make_key(tmp_path / "report-key")
    assert list(tmp_path.iterdir()) == []


def damaged_keys() -> dict[str, tuple[str, int, str]]:
    """Return texts of key files, with their modes, and what the error says."""
    private = Ed25519PrivateKey.generate()
    other = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "open to a group": (PRIVATE, 0o640, "open to others"),
        "open to all": (PRIVATE, 0o604, "open to others"),
        "empty": ("", 0o600, "damaged"),
        "cut": (PRIVATE[:200], 0o600, "damaged"),
        "another letter": (PRIVATE.replace("=\n", "\u0609=\n"), 0o600, "damaged"),
        "a public key": (PUBLIC, 0o600, "damaged"),
        "another form": (other.decode(), 0o600, "damaged"),
        "a passphrase": (LOCKED, 0o600, "passphrase"),
        "large": ("x" * (1 << 21), 0o600, "more than"),
    }


@pytest.mark.parametrize("case", damaged_keys())
def test_a_key_that_can_not_sign_is_one_clear_error(case: str, tmp_path: Path) -> None:
    text, mode, says = damaged_keys()[case]
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=says) as caught:
        load_key(path)
    assert str(path) in caught.value.message and "PRIVATE" not in str(caught.value)


def test_a_key_with_a_flipped_letter_does_not_sign(tmp_path: Path) -> None:
    """Or it is the same key: the comment and the padding are not a part of it."""
    path = tmp_path / "key"
    for at in range(40, len(PRIVATE) - 40, 7):
        letter = "A" if PRIVATE[at] != "A" else "B"
        path.write_text(PRIVATE[:at] + letter + PRIVATE[at + 1 :])
        path.chmod(0o600)
        try:
            assert load_key(path).sign(DIGEST) == SIGNED
        except ConfigError as error:
            assert "damaged" in error.message


def test_no_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the signing key .* does not exist") as caught:
        load_key(tmp_path / "none")
    assert "relay keys new" in caught.value.hint


@pytest.mark.parametrize("is_below", [False, True])
def test_a_key_that_can_not_be_written(is_below: bool, tmp_path: Path) -> None:
    """Since a file is in the way of its folder."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file/relay" if is_below else tmp_path / "file"
    with pytest.raises(ConfigError, match="can't be written"):
        make_key(folder / "report-key")


# -- allowed signers


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"audit@example {PUBLIC}", "audit@example"),
        (f"audit@example {PUBLIC} a comment", "audit@example"),
        (f"  audit@example\t{PUBLIC}  ", "audit@example"),
        (f"a@example,b@example {PUBLIC}", "a@example,b@example"),
        (f'"*@example" {PUBLIC}', "*@example"),
        (f'a namespaces="{FORMAT}" {PUBLIC}', "a"),
        (f'a namespaces="git,relay-*" {PUBLIC}', "a"),
        (f'a namespaces="relay-report@?" {PUBLIC}', "a"),
        (f'a namespaces="git" {PUBLIC}', None),
        (f'a namespaces="relay-*,!{FORMAT}" {PUBLIC}', None),
        (f'a NAMESPACES="file" {PUBLIC}', None),
        (f"a cert-authority {PUBLIC}", None),
        (f"# a {PUBLIC}", None),
        (f"a {RSA}", None),
        ("a sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t", None),
        (f"a {PUBLIC[:-8]}AAAAAAAA", None),
        (f"\n# first\na {RSA}\nb {PUBLIC}\nc {PUBLIC}", "b"),
        ("", None),
    ],
)
def test_a_line_allows_a_key(line: str, found: str | None, key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "allowed"
    path.write_text(line)
    assert principals_of(path, key.blob, FORMAT) == found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f'a valid-before="20200101" {PUBLIC}', "valid-before, which relay does not check"),
        (f'a namespaces="{FORMAT}",valid-after="2020" {PUBLIC}', "valid-after"),
        (f'a namespaces="{FORMAT} {PUBLIC}', ":1 is not a line"),
        (f'a namespaces="git",namespaces="{FORMAT}" {PUBLIC}', ":1 is not a line"),
        (f'a namespaces="{FORMAT}",NameSpaces="{FORMAT}" {PUBLIC}', ":1 is not a line"),
        ("a", ":1 is not a line"),
        ("a ssh-ed25519", ":1 is not a line"),
        ("a ssh-ed25519 ====", ":1 is not a line"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", ":1 is not a line"),
        (PUBLIC, ":1 is not a line"),
    ],
)
def test_a_line_that_relay_does_not_understand(
    line: str, says: str, key: SigningKey, tmp_path: Path
) -> None:
    """An option that is passed over would accept a key that the file does not allow."""
    path = tmp_path / "allowed"
    path.write_text(line)
    with pytest.raises(ConfigError, match=says):
        principals_of(path, key.blob, FORMAT)
