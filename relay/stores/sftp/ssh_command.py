"""The command line and the environment of `ssh`, and what its own settings say about a host.

Theory of operation. The user's settings (~/.ssh/config, agent, known hosts) apply. relay adds only
what a copy without a terminal needs, and what its promises need: the host's key must be known, no
connection is shared, and nothing is forwarded. `ssh -G` prints the settings of a host: relay then
connects by itself, so that its policy applies, and hands the connection over. Only where the
settings name a jump host or a command (`ProxyJump`, `ProxyCommand`), `ssh` connects, and only to
hosts that were allowed by name.

Decided here: arguments. Never here: processes."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.errors import ConfigError
from relay.stores.sftp import socket_handover
from relay.stores.sftp.account import SftpAccount

FASTEST: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""The ciphers that cost least where the processor has AES instructions: half of chacha20-poly1305,
which OpenSSH prefers."""
_ALWAYS: Final = (
    "StrictHostKeyChecking=yes",
    "NoHostAuthenticationForLocalhost=no",
    "UpdateHostKeys=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ControlPersist=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "EscapeChar=none",
    "NumberOfPasswordPrompts=1",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "LogLevel=DEBUG1",
)
_SECRETS: Final = re.compile(
    r"RELAY_.*|RCLONE_.*|AWS_.*|AZURE_.*|GOOGLE_.*|PG.*|.*(SECRET|PASSW|TOKEN|CREDENTIAL|API_?KEY).*",
    re.I,
)
"""Variables of relay's environment that a child process does not need."""


@dataclass(frozen=True, kw_only=True)
class SshSettings:
    """What the settings of `ssh` say about a host: where to connect, and whether by another host or
    by a command."""

    host: str
    port: int
    proxied: bool
    ciphers: tuple[str, ...]


def query_command(account: SftpAccount) -> list[str]:
    """Return the command that prints the settings of an account's host."""
    return [*_program(account), "-G", *_of_account(account), "--", account.host]


def settings_of_output(output: str, account: SftpAccount) -> SshSettings:
    """Return the settings that `ssh -G` printed. Raises ConfigError for an output of another
    program."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), value.strip())
    port = found.get("port", "")
    if not found.get("hostname") or not port.isdigit():
        raise ConfigError(
            f"`{_program(account)[0]} -G` does not print the settings of a host",
            hint="Install OpenSSH's client; SFTP needs version 8.4 or a later one.",
        )
    through = (found.get(name, "none").lower() for name in ("proxycommand", "proxyjump"))
    return SshSettings(
        host=found["hostname"].lower(),
        port=int(port),
        proxied=any(one not in ("", "none") for one in through),
        ciphers=tuple(found.get("ciphers", "").split(",")),
    )


def session_command(
    account: SftpAccount, settings: SshSettings, seconds: float, handover: str = "", key: str = ""
) -> list[str]:
    """Return the command that opens a session of SFTP within `seconds`. `handover` is the name of
    the socket at which relay hands its own connection over, `key` a file with the key of the
    remote's options."""
    options = [*_ALWAYS, f"ConnectTimeout={max(1, round(seconds))}"]
    options.append(f"BatchMode={'no' if account.options.has_secret else 'yes'}")
    if handover:
        options += ["ProxyUseFdpass=yes", f"ProxyCommand={_handover_command(handover)}"]
    first = [one for one in FASTEST if one in settings.ciphers]
    if first and not account.options.ciphers:
        rest = [one for one in settings.ciphers if one not in first]
        options.append(f"Ciphers={','.join([*first, *rest])}")
    words = [f"-o{option}" for option in options]
    program, own = _divided_program(account)
    return [
        *program,
        *words,
        *own,
        *_of_account(account, key),
        "-s",
        "--",
        account.host,
        "sftp",
    ]


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of `ssh`: relay's own, without its secrets. The shell runs the command
    that hands the connection over, and a service may have none (nologin)."""
    kept = {name: value for name, value in environment.items() if not _SECRETS.fullmatch(name)}
    return {**kept, "SHELL": "/bin/sh"}


def _program(account: SftpAccount) -> tuple[str, ...]:
    return account.options.program or ("ssh",)


def _divided_program(account: SftpAccount) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words up to `ssh`, and its arguments in the remote's options. relay's own options
    go between them: `ssh` takes the first value of each. Raises ConfigError for arguments of a
    program of another name that would leave the host's key unchecked."""
    words = _program(account)
    for count, word in enumerate(words, 1):
        if os.path.basename(word) == "ssh":
            return words[:count], words[count:]
    if any("stricthostkeychecking" in word.lower() for word in words):
        raise ConfigError(
            "the option ssh of the remote sets StrictHostKeyChecking",
            hint="Remove it: relay always compares the host's key.",
        )
    return words, ()


def _of_account(account: SftpAccount, key: str = "") -> list[str]:
    given, words = account.options, []
    if account.port is not None:
        words += ["-p", str(account.port)]
    if account.user:
        words += ["-l", account.user]
    file = key or (os.path.expanduser(given.key_file) if given.key_file else "")
    if file:
        words += ["-i", file, "-oIdentitiesOnly=yes"]
    elif given.password:
        words += ["-oPubkeyAuthentication=no"]
        words += ["-oPreferredAuthentications=password,keyboard-interactive"]
    if given.certificate_file:
        words.append(f"-oCertificateFile={_quote(given.certificate_file)}")
    if given.known_hosts_file:
        words.append(f"-oUserKnownHostsFile={_quote(given.known_hosts_file)}")
    for name, value in (
        ("Ciphers", given.ciphers),
        ("KexAlgorithms", given.key_exchange),
        ("MACs", given.macs),
    ):
        if value:
            words.append(f"-o{name}={value}")
    return words


def _quote(path: str) -> str:
    """Return a path as a value of an option (ssh_config(5)): with quotes, and no expansions."""
    path = os.path.expanduser(path).replace("%", "%%")
    if '"' in path or "\n" in path or "$" in path:
        raise ConfigError("the path of a file for ssh has a quote, a '$' or a line end in it")
    return f'"{path}"'


def _handover_command(name: str) -> str:
    words = [sys.executable, "-I", "-S", socket_handover.__file__, name]
    return " ".join(map(shlex.quote, words)).replace("%", "%%")
