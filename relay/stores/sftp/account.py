"""One SFTP server as an account, and its locations.

Theory of operation. `sftp://user@host:port/path` is an absolute path, `sftp://user@host/~/path` one
below the folder in which the server begins (curl's forms). `remote:path` is below that folder, and
`remote:/path` absolute, as in rclone. A Location's path begins with `/~user/` for a path below the
folder of a user: other users have other such folders.

Decided here: which texts are locations, and what a remote's options mean. Never here: `ssh`'s own
arguments (`ssh_command.py`)."""

from __future__ import annotations

import re
import shlex
from dataclasses import KW_ONLY, dataclass, field
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from relay.errors import (
    ConfigError,
    CredentialsInURL,
    ForbiddenHeader,
    InvalidType,
    InvalidURL,
    UnsafeKey,
    Unsupported,
)
from relay.hosts import is_host_name, literal_address
from relay.location import Location, check_path
from relay.stores import rclone_conf
from relay.stores.interfaces import check_segments
from relay.stores.kinds import LocateOptions, Remote
from relay.stores.remote_options import YES

PORT: Final = 22
SCHEME: Final = "sftp"
DEEPEST: Final = 400
"""Maximum number of folders that are made for one object."""
HOME: Final = "/~"
"""Begins the path of a Location below the folder in which the server begins."""
_URL: Final = re.compile(
    r"sftp://(?:(?P<user>[^@/?#]*)@)?(?P<host>\[[^\]]*\]|[^:/@?#\[\]]*)(?::(?P<port>[0-9]*))?"
    r"(?P<path>/.*)?",
    re.I | re.S,
)
_USER: Final = re.compile(r"[A-Za-z0-9_\u00a1-\ufffd][A-Za-z0-9_.@+=~\\\u00a1-\ufffd-]*")
"""A user's name. OpenSSH refuses quotes and other characters of a shell too, since its settings may
pass the name on to commands (`valid_ruser` in ssh.c)."""
_VISIBLE: Final = re.compile(r"[!-\[\]-~]*")
_REFUSED: Final = (
    "skip_links",
    "subsystem",
    "server_command",
    "socks_proxy",
    "http_proxy",
    "ask_password",
    "encoding",
)
"""Options of rclone that are refused: ignored, they would lead to other files, or past a proxy."""
_OFF: Final = frozenset({"", "false", "0", "no", "off", "none", "raw", "sftp"})
_MISNAMED: Final = {"username": "user", "password": "pass", "hostname": "host"}


@dataclass(frozen=True)
class SshOptions:
    """Options of a remote that become arguments of `ssh`. Its own settings complete them."""

    key_file: str = ""
    key_pem: str = field(default="", repr=False)
    _: KW_ONLY
    certificate_file: str = ""
    key_password: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    known_hosts_file: str = ""
    program: tuple[str, ...] = ()
    """The program to run in place of `ssh`, and its first arguments."""
    ciphers: str = ""
    key_exchange: str = ""
    macs: str = ""
    reads_ahead: bool = True
    writes_ahead: bool = True
    """Whether several READs, or WRITEs, of one file may be outstanding."""

    @property
    def has_secret(self) -> bool:
        """Whether `ssh` will ask for something that relay knows."""
        return bool(self.password or self.key_password)


@dataclass(frozen=True)
class SftpAccount:
    """One user's access to one SFTP server. `port` is None for the one that the settings of `ssh`
    name."""

    host: str
    port: int | None = None
    user: str = ""
    options: SshOptions = field(default=SshOptions(), repr=False)
    _: KW_ONLY
    store: str = SCHEME

    @property
    def owner(self) -> str:
        """As Account.owner."""
        return self.user

    @property
    def server(self) -> str:
        """The printed form without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{quote(self.user)}@" if self.user else ""
        port = f":{self.port}" if self.port not in (None, PORT) else ""
        return f"{SCHEME}://{user}{host}{port}"

    def printed_form(self, path: str) -> str:
        """Return `sftp://user@host/path`."""
        if path.startswith(HOME):
            path = f"{HOME}/{path.partition('/')[2].partition('/')[2]}"
        return f"{self.server}{path}"

    def check(self, path: str) -> None:
        """As Account.check."""
        check_segments(path, DEEPEST)


def path_of_file(location: Location) -> bytes:
    """Return the path that a Location names, as the server gets it."""
    path = location.path
    if path.startswith(HOME):
        below = unquote_to_bytes(path.partition("/")[2].partition("/")[2]).rstrip(b"/")
        return below or b"."
    return unquote_to_bytes(path).rstrip(b"/") or b"/"


def sftp_location(given: str, asked: LocateOptions) -> Location:
    """Return the Location of an `sftp://` URL. Raises a RequestError."""
    found = _URL.fullmatch(given)
    if found is None or not _VISIBLE.fullmatch(given):
        raise InvalidURL(
            "the URL is not of the form sftp://user@host:port/path",
            hint="Percent-encode blanks, letters that are not ASCII, and a '?' or '#' in a name.",
        )
    user, colon, _ = (found["user"] or "").partition(":")
    if colon:
        raise CredentialsInURL(
            "the URL has a password in it",
            hint="Use a key of your ssh agent, or a remote of type sftp with `pass`.",
        )
    port = _port(found["port"]) if found["port"] else None
    path = found["path"] or "/"
    if "?" in path or "#" in path:
        raise InvalidURL("the path has a '?' or a '#' in it", hint="Write them as %3F and %23.")
    user = unquote_to_bytes(user).decode("utf-8", "replace")
    account = SftpAccount(_host(found["host"]), port, _require_user(user))
    return _location(account, path, asked)


def sftp_remote(remote: Remote, path: str, asked: LocateOptions) -> Location:
    """Return the Location of a path of a remote of type sftp. Raises a RequestError, and
    ConfigError for an option that is wrong."""
    options = remote.options
    for name, right in _MISNAMED.items():
        if name in options:
            raise ConfigError(
                f"the remote {remote.name!a} has {name}, which is not an option of this type",
                hint=f"Name it {right}.",
            )
    for name in _REFUSED:
        if options.get(name, "").lower() not in _OFF:
            raise Unsupported(
                f"the remote {remote.name!a} has {name}, which relay does not support",
                hint="Write a section for this host into ~/.ssh/config: relay runs `ssh` itself.",
            )
    try:
        account = SftpAccount(
            _host(options.get("host", "")),
            _port(options["port"]) if options.get("port") else None,
            _require_user(options.get("user", "")),
            _ssh_options(remote),
        )
    except (InvalidURL, UnsafeKey) as error:
        raise ConfigError(
            f"the remote {remote.name!a} of {remote.origin}: {error.message}", hint=error.hint
        ) from None
    encoded = quote(path, safe="/")
    return _location(account, encoded if path.startswith("/") else f"{HOME}/{encoded}", asked)


def _ssh_options(remote: Remote) -> SshOptions:
    options = remote.options
    return SshOptions(
        options.get("key_file", ""),
        options.get("key_pem", "").replace("\\n", "\n"),
        certificate_file=options.get("pubkey_file", ""),
        key_password=_reveal_option(remote, "key_file_pass"),
        password=_reveal_option(remote, "pass"),
        known_hosts_file=options.get("known_hosts_file", ""),
        program=_program(remote),
        ciphers=",".join(options.get("ciphers", "").split()),
        key_exchange=",".join(options.get("key_exchange", "").split()),
        macs=",".join(options.get("macs", "").split()),
        reads_ahead=options.get("disable_concurrent_reads", "").lower() not in YES,
        writes_ahead=options.get("disable_concurrent_writes", "").lower() not in YES,
    )


def _program(remote: Remote) -> tuple[str, ...]:
    """Return the words of the option `ssh`. Its last word may be the host, as rclone wants it; the
    host of a Location is that of the remote."""
    try:
        words = shlex.split(remote.options.get("ssh", ""))
    except ValueError:
        raise ConfigError(f"the ssh of the remote {remote.name!a} has an open quote") from None
    if len(words) > 1 and words[-1].rpartition("@")[2] == remote.options.get("host"):
        words.pop()
    return tuple(words)


def _reveal_option(remote: Remote, name: str) -> str:
    hidden = remote.options.get(name, "")
    try:
        secret = rclone_conf.reveal(hidden) if hidden else ""
    except (ValueError, UnicodeDecodeError):
        raise ConfigError(
            f"the {name} of the remote {remote.name!a} is not what `rclone obscure` writes",
            hint="Set it to the output of `relay obscure` (or of `rclone obscure -`).",
        ) from None
    if "\n" in secret or "\0" in secret:
        raise ConfigError(f"the {name} of the remote {remote.name!a} has a line end in it")
    return secret


def _location(account: SftpAccount, path: str, asked: LocateOptions) -> Location:
    """Return the Location of a percent-encoded path, which begins with `/`, or with `/~/`."""
    if asked.method == "POST":
        raise InvalidType("SFTP does not support POST", hint="Omit the method.")
    if tuple(asked.headers):
        raise ForbiddenHeader("SFTP has no header fields", hint="Omit the headers.")
    if path == HOME or path.startswith(f"{HOME}/"):
        path = f"{HOME}{quote(account.user, safe='')}/{path[3:]}"
    elif path.startswith(HOME):
        raise InvalidURL(
            "the path begins with '~', and the folder of another user can't be named so",
            hint="Write the whole path, with a '~' in the name of a folder as %7E.",
        )
    if "\0" in unquote_to_bytes(path).decode("latin-1"):
        raise UnsafeKey("the path has a NUL in it")
    check_path(path, destination=asked.destination)
    location = Location(SCHEME, account.host, account.port or PORT, path, account=account)
    return location.as_destination() if asked.destination else location


def _host(text: str) -> str:
    """Return a host, lower-case, IPv6 without brackets. Raises InvalidURL."""
    host = text.lower().removeprefix("[").removesuffix("]")
    if not (is_host_name(host) or (":" in host and literal_address(host) is not None)):
        raise InvalidURL(
            "the host is missing, or is not a name or an address", hint="Write sftp://host/path."
        )
    return host


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise InvalidURL("the port is not a number from 1 to 65535", hint="Correct the port.")
    return int(text)


def _require_user(user: str) -> str:
    if user and not _USER.fullmatch(user):
        raise InvalidURL(
            "the user's name has a character that ssh does not allow there",
            hint="Set `User` in your ~/.ssh/config for this host.",
        )
    return user
