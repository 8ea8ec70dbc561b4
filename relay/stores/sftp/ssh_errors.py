"""What `ssh` says on its standard error when no session opens, or when one ends.

Theory of operation. Every failure of `ssh` is exit code 255 and some lines for people. With
`LogLevel=DEBUG1` its lines also have the fingerprint of the server's key, which a person needs to
compare. The table below turns a line into an error; a line that it does not know is quoted.

Decided here: which error a line means. Never here: what a reply of the server means
(`status_errors.py`)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.errors import (
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    HostKeyRefused,
    Rejected,
    RelayError,
    Side,
    StoreTimeout,
    Unauthenticated,
)
from relay.parsing import UNSAFE_CHARACTERS
from relay.stores.sftp.account import SftpAccount

LINES: Final = 40
"""Number of lines that are kept."""
LINE_CHARACTERS: Final = 300
_DEBUG: Final = re.compile(r"debug[0-9]: ?")
_KEY: Final = re.compile(r"debug1: Server host key: (?P<type>\S+) (?P<print>\S+)")
_FOLDERS: Final = re.compile(r"""(?<![^\s"'(])~?/(?:[^\s"':()/]+/)+""")
"""The folders of a path. An error may reach a user of the API; the files are the operator's."""
_NO_METHOD: Final = re.compile(r"Permission denied(?: \((?P<methods>[^)]*)\))?")


class SshMessages:
    """The lines of one `ssh`, as they come."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = ""
        self.host_key = ""
        """The kind and the fingerprint of the key that the server showed."""
        self.is_authenticated = False

    def feed(self, data: bytes) -> None:
        """Take some bytes of standard error."""
        text = self._rest + data.decode("utf-8", "replace")
        *lines, rest = text.replace("\r", "\n").split("\n")
        self._rest = rest[:LINE_CHARACTERS]
        for line in lines:
            self._note(line[:LINE_CHARACTERS])

    def _note(self, line: str) -> None:
        key = _KEY.match(line)
        if key is not None:
            self.host_key = f"{key['type']} {key['print']}"
        if line.startswith(("debug1: Authenticated to", "Authenticated to")):
            self.is_authenticated = True
        elif line.strip() and not _DEBUG.match(line):
            self._lines.append(_plain(line))

    @property
    def lines(self) -> list[str]:
        """The lines without those for debugging."""
        last = _plain(self._rest)
        return [*self._lines, *([last] if last and not _DEBUG.match(last) else [])]


def _plain(line: str) -> str:
    return _FOLDERS.sub("", UNSAFE_CHARACTERS.sub("?", line.strip()))


def login_error(messages: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    """Return the error of a session that did not open."""
    lines = messages.lines
    for line in reversed(lines):
        for pattern, make in _TABLE:
            if pattern in line:
                return make(line, messages, account, side)
    # ssh's own last words say most; a banner of the server comes earlier.
    words = f" ({lines[-1]})" if lines else ""
    if messages.is_authenticated:
        # Retryable: a connection that breaks at this moment looks the same.
        return ConnectionLost(
            f"{account.server} accepted the login, and ended before an SFTP session began{words}",
            side=side,
            hint="Try again; if it keeps happening, the account has no SFTP, or its login ends.",
        )
    return ConnectFailed(f"ssh opened no session at {account.server}{words}", side=side)


def lost_error(messages: SshMessages, account: SftpAccount, side: Side) -> ConnectionLost:
    """Return the error of an open session that ended."""
    lines = messages.lines
    words = f" ({lines[-1]})" if lines else ""
    return ConnectionLost(f"the ssh session at {account.server} ended{words}", side=side)


Make = Callable[[str, SshMessages, SftpAccount, Side], RelayError]


def _unknown_key(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return HostKeyRefused(
        f"the host key of {account.server} is not known: {said.host_key or 'of another kind'}",
        side=side,
        hint=(
            "Compare the fingerprint with the one that the server's operator names. Then run `ssh"
            f" {_target(account)}` once and confirm it, or add the key to the known_hosts file."
        ),
    )


def _changed_key(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return HostKeyRefused(
        f"the host key of {account.server} is another one than the known one:"
        f" {said.host_key or 'its kind is not known'}",
        side=side,
        hint=(
            "Somebody may be between you and the server, or the server was installed again. Ask its"
            f" operator for the fingerprint before you run `ssh-keygen -R` for {account.host}."
        ),
    )


def _refused_key(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    text = " ".join(said.lines)
    if "has changed" in text or "HAS CHANGED" in text:
        return _changed_key(line, said, account, side)
    return _unknown_key(line, said, account, side)


def _denial(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    found = _NO_METHOD.search(line)
    methods = found["methods"] if found is not None and found["methods"] else "none named"
    options = account.options
    bad_key = next((one for one in said.lines if "Load key" in one or "passphrase" in one), "")
    if options.password:
        what, hint = "the password", "Check `user` and `pass` of the remote (`relay obscure`)."
    elif options.key_file or options.key_pem:
        what = "the key"
        hint = "Check `user`, `key_file` and `key_file_pass`, and the server's authorized_keys."
    else:
        what = "every key"
        hint = (
            f"Try `ssh {_target(account)}`. `ssh-add -l` shows the keys of your agent: relay runs"
            " ssh without a terminal, so a key with a passphrase must be there. Or use a remote of"
            " type sftp with `key_file` or `pass`."
        )
    because = f"; {bad_key}" if bad_key else ""
    return Unauthenticated(
        f"{account.server} refused {what} (it offers: {methods}){because}", side=side, hint=hint
    )


def _too_many(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return Unauthenticated(
        f"{account.server} refused the login after too many keys",
        side=side,
        hint="Name the right key: `IdentityFile` and `IdentitiesOnly yes` in ~/.ssh/config.",
    )


def _no_connection(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return ConnectFailed(f"no connection to {account.server} ({line})", side=side)


def _late(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return StoreTimeout(f"{account.server} did not answer in time ({line})", side=side)


def _early_end(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return ConnectionLost(
        f"{account.server} closed the connection before the login was done ({line})",
        side=side,
        hint="It may limit the connections of one address or user; wait a moment, and try again.",
    )


def _no_subsystem(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return Rejected(
        f"{account.server} accepted the login, and offers no SFTP",
        side=side,
        hint="Its operator enables it: `Subsystem sftp internal-sftp` in sshd_config.",
    )


def _no_agreement(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return Rejected(
        f"ssh and {account.server} have no algorithm in common ({line})",
        side=side,
        hint="The server is very old. ssh_config(5) says how to allow its algorithms for a host.",
    )


def _settings(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return ConfigError(
        f"ssh refuses its settings: {line}", hint="Correct ~/.ssh/config, or the remote's options."
    )


def _no_askpass(line: str, said: SshMessages, account: SftpAccount, side: Side) -> RelayError:
    return ConfigError(
        f"ssh can't run the program that passes a password on: {line}",
        hint="Set TMPDIR to a folder in which programs may run (not mounted noexec).",
    )


_TABLE: Final[tuple[tuple[str, Make], ...]] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", _changed_key),
    ("host key is known for", _unknown_key),
    ("Host key verification failed", _refused_key),
    ("Too many authentication failures", _too_many),
    ("Permission denied", _denial),
    ("ssh_askpass: exec", _no_askpass),
    ("Bad configuration option", _settings),
    ("Bad owner or permissions", _settings),
    ("terminating, ", _settings),
    ("Unknown cipher type", _settings),
    ("Bad SSH2 ", _settings),
    ("Unsupported option", _settings),
    ("subsystem request failed", _no_subsystem),
    ("Unable to negotiate", _no_agreement),
    ("no matching", _no_agreement),
    ("Could not resolve hostname", _no_connection),
    ("Connection refused", _no_connection),
    ("No route to host", _no_connection),
    ("Network is unreachable", _no_connection),
    ("timed out", _late),
    ("Timeout, server", _late),
    ("Connection closed by", _early_end),
    ("Connection reset by", _early_end),
    ("Connection to", _early_end),
    ("kex_exchange_identification", _early_end),
    ("banner exchange", _early_end),
)
"""Texts in a line (OpenSSH 8.4 to 10), and the error of each. The last line that has one counts."""


def _target(account: SftpAccount) -> str:
    user = f"{account.user}@" if account.user else ""
    port = f"-p {account.port} " if account.port else ""
    return f"{port}{user}{account.host}"
