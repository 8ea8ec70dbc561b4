"""Turn what a user writes into a Location: URLs, `s3://bucket/key`, and `remote:path`.

Theory of operation. A remote is a name for a store with its endpoint and credentials. It is looked
up in relay's own settings (`[remotes.NAME]` of relay.toml), then in an existing rclone.conf, then
among AWS's profiles: nobody has to configure a store twice. The options have rclone's names and
meanings, so that a section can be copied.

Decided here: which store a text means, and what a remote's options mean. Never here: which URLs are
valid (`relay/location.py`), how the files are parsed."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from relay.config import home as own_folder
from relay.errors import (
    ConfigError,
    CredentialsInURL,
    InvalidType,
    InvalidURL,
    RequestError,
    UnsafeKey,
    Unsupported,
)
from relay.location import FRAGMENT_HINT, Location, has_fragment, is_base, parse_location
from relay.stores import rclone_conf
from relay.stores.kinds import Given, LocateOptions, Options, Remote, StoreType
from relay.stores.local_areas import area_of_path
from relay.stores.local_folders import AllowedFolders
from relay.stores.local_locations import local_location
from relay.stores.remote_options import YES, check, upload_fields, uses_virtual_hosts
from relay.stores.remote_options import headers as options_headers
from relay.stores.remote_options import request_fields as asked_always
from relay.stores.s3.aws_settings import (
    S3Config,
    aws_config,
    aws_profiles,
    prepare,
    s3_location,
    split_key,
)
from relay.stores.s3.sigv4 import AwsCredentials, Signer, canonical_path
from relay.stores.table import KINDS
from relay.stores.url_lists import SCHEME as LIST
from relay.stores.url_lists import list_location
from relay.stores.webdav.account import (
    NextcloudAccount,
    http_url,
    is_nextcloud,
    webdav_location,
)

_REMOTE = re.compile(r"(?P<name>[\w][\w .+@-]*):(?!//)(?P<path>.*)", re.S)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
DEEPEST_ALIAS = 8


class Remotes:
    """Resolves texts to Locations.

    `own` are the remotes of relay's settings. The files are read when a remote is first used, and
    AWS's settings when a bucket is first used, both once. `apart` runs a blocking call, for example
    in a native thread; its second argument is the area of a local path (`local_areas.py`)."""

    def __init__(
        self,
        own: Mapping[str, Options] | None = None,
        environment: Mapping[str, str] | None = None,
        home: Path | None = None,
        *,
        aws: Callable[[str | None], S3Config] = aws_config,
        profiles: Callable[[], list[str]] = aws_profiles,
        apart: Callable[..., Any] = lambda do, area="": do(),
        folders: tuple[Path, ...] | None = (),
        kinds: Iterable[StoreType] = KINDS,
    ) -> None:
        """`folders` are the local folders that are allowed, with everything below them. None allows
        all, and paths without a scheme, as in the terminal. `kinds` add schemes and types."""
        self._own = own or {}
        self._environment = os.environ if environment is None else environment
        self._home = home or own_folder()
        self._aws, self._profiles, self._apart = aws, profiles, apart
        self._buckets: dict[str, S3Config] = {}
        self._folders = folders
        self._schemes = {scheme: make for kind in kinds for scheme, make in kind.schemes.items()}
        self._types = {type: make for kind in kinds for type, make in kind.types.items()}
        self._found: dict[str, Remote] | None = None

    @property
    def in_terminal(self) -> bool:
        """Whether they are those of a command, which may name every local folder."""
        return self._folders is None

    def __iter__(self) -> Iterator[Remote]:
        """Yield every remote. Raises ConfigError for a file that can't be read."""
        if self._found is None:
            every: list[Remote] = self._apart(lambda: list(self._all()))
            self._found = {}
            for remote in every:
                self._found.setdefault(remote.name, remote)  # the first source with a name wins
        yield from self._found.values()

    def speaks(self, remote: Remote) -> bool:
        """Return whether relay supports the type of a remote."""
        return remote.type == "alias" or remote.type in TYPES or remote.type in self._types

    def find(self, name: str) -> Remote | None:
        """Return a remote, or None. A remote of relay's own settings is found even if another file
        can't be read."""
        if name in self._own:
            return self._mine(name)
        return next((remote for remote in self if remote.name == name), None)

    def _mine(self, name: str) -> Remote:
        options = self._own[name]
        return Remote(name, options.get("type", ""), "relay.toml", options)

    def _all(self) -> Iterator[Remote]:
        yield from map(self._mine, self._own)
        path = rclone_conf.find_config(self._environment, self._home)
        if path is not None:
            for name, options in rclone_conf.read(path).items():
                yield Remote(name, options.get("type", ""), str(path), options)
        for profile in self._profiles():
            yield Remote(profile, "s3", "AWS profile", {"env_auth": "true", "profile": profile})

    # -- the meaning of a text

    def locate(
        self,
        text: str,
        *,
        method: str | None = None,
        headers: Given = (),
        pointer: str | None = None,
        destination: bool = False,
        folder: bool = False,
    ) -> Location:
        """Return the Location of a URL, as `parse_location` does, or of `s3://bucket/key`, or of
        `remote:path`.

        `folder` allows folders: a bucket alone, or a name that ends in '/'.

        Raises a RequestError with `pointer`; ConfigError if a store's own settings are wrong."""
        asked = LocateOptions(method, headers, destination, folder)
        try:
            _refuse_text(text)
            if text[: len(LIST)].lower() == LIST:
                return self._list(text[len(LIST) :], asked)
            if (make := self._schemes.get(text.partition("://")[0].lower())) and "://" in text:
                return make(text, asked)
            if text[:5].lower() == "s3://":
                return self._s3(Remote("", "s3", "AWS", {"env_auth": "true"}), text[5:], asked)
            if (url := http_url(text)) is not None:
                return self._dav(url, asked)
            if (path := self._path(text)) is not None:
                return self._file(path, text, asked)
            found = _REMOTE.fullmatch(text)
            if found and found["name"].lower() not in ("http", "https"):
                return self._remote(found["name"], found["path"], asked)
        except (RequestError, ConfigError) as error:
            error.pointer = error.pointer or pointer
            raise
        return parse_location(
            text, method=method, headers=headers, pointer=pointer, destination=destination
        )

    def refuse_like_remote(self, path: str) -> None:
        """Raise InvalidURL for a path that begins with the name of a remote, if the '/' in that
        name makes it a path: objects meant for a bucket would be written to a folder."""
        if ":" not in path.partition("/")[2] or path.startswith(("/", "./", "../")):
            return
        if _URL.match(path):  # its ':' is that of a port, mostly
            return
        with suppress(ConfigError):  # a path does not depend on the files of remotes
            name = next((one.name for one in self if path.startswith(f"{one.name}:")), "")
            if "/" in name:
                raise InvalidURL(
                    f"{name!a} is a remote whose name has a '/', which only a path may have",
                    hint="Give the remote another name; for a path, write './' before it.",
                )

    @staticmethod
    def uses_own_credentials(text: str) -> bool:
        """Return whether a text names a remote, a bucket or an SSH server, for which this machine
        has the credentials. Any other URL brings its own."""
        found = _REMOTE.fullmatch(text)
        if text[:5].lower() == "s3://" or text[:7].lower() == "sftp://":
            return True
        return found is not None and found["name"].lower() not in ("http", "https")

    @staticmethod
    def display(text: str, location: Location) -> str:
        """Return how a located text is printed and compared: `remote:path` unchanged, anything else
        redacted."""
        found = _REMOTE.fullmatch(text)
        plain = (
            found is not None
            and location.store != "local"
            and found["name"].lower() not in ("http", "https")
        )
        return text if plain else str(location)

    @staticmethod
    def name_of(text: str, location: Location) -> str:
        """Return the name of the remote that a located text names, or else the kind of its
        store. The objects of a list may be at any server."""
        found = None if text[: len(LIST)].lower() == LIST else _REMOTE.fullmatch(text)
        if found is None or found["name"].lower() in ("http", "https"):
            return location.store
        return found["name"]

    def _remote(self, name: str, path: str, asked: LocateOptions, depth: int = 0) -> Location:
        remote = self.find(name)
        if remote is None:
            raise InvalidURL(
                f"there is no remote {name!a}",
                hint="`relay remotes` lists the known ones; or give a URL.",
            )
        if not remote.type:
            raise ConfigError(
                f"the remote {name!a} of {remote.origin} has no type",
                hint='Write type = "s3", or another.',
            )
        if remote.type == "alias":
            return self._alias(remote, path, asked, depth)
        if (own := self._types.get(remote.type)) is not None:
            return own(remote, path, asked)
        make = TYPES.get(remote.type)
        if make is None:
            raise Unsupported(
                f"the remote {name!a} is of type {remote.type!a}, which relay does not support",
                hint=f"relay supports {', '.join(sorted({*TYPES, *self._types}))}.",
            )
        check(remote)
        return make(self, remote, path, asked)

    def _alias(self, remote: Remote, path: str, asked: LocateOptions, depth: int) -> Location:
        text = remote.options.get("remote", "")
        if text.startswith("/"):
            return self._file(Path(f"{text.rstrip('/')}/{path.lstrip('/')}"), path, asked)
        found = _REMOTE.fullmatch(text)
        if depth >= DEEPEST_ALIAS or found is None:
            raise ConfigError(f"the alias {remote.name!a} of {remote.origin} names no remote")
        inner = found["path"].rstrip("/")
        return self._remote(
            found["name"], f"{inner}/{path.lstrip('/')}" if inner else path, asked, depth + 1
        )

    def _list(self, text: str, asked: LocateOptions) -> Location:
        """Return the Location of a list of URLs; the list itself may be in any store."""
        if asked.destination:
            raise InvalidURL(
                "a list of URLs can't be a destination",
                hint="Name a folder, a bucket or a remote.",
            )
        if not asked.folder:
            raise InvalidURL(
                "a list of URLs can only be moved as a tree",
                hint="Use -r, or `recursive` in a request.",
            )
        if text[: len(LIST)].lower() == LIST:
            raise InvalidURL("a list of URLs can't contain another list")
        return list_location(self.locate(text, headers=asked.headers))

    # -- local folders

    def _path(self, text: str) -> Path | None:
        """Return the local path that a text means, or None. Raises InvalidURL for a file URL with
        another host."""
        if text[:7].lower() == "file://" and self._folders != ():
            host, slash, path = text[7:].partition("/")
            if not slash or host.lower() not in ("", "localhost"):
                raise InvalidURL(
                    "a file URL must not name a host", hint="Write file:///folder/file."
                )
            return Path("/" + os.fsdecode(unquote_to_bytes(path)))
        plain = self._folders is None and (text[:1] in "/." or ":" not in text.partition("/")[0])
        if plain:
            self.refuse_like_remote(text)
        return Path(text) if plain and text else None

    def _file(self, path: Path, text: str, asked: LocateOptions) -> Location:
        if asked.method == "POST":
            raise InvalidType("a local folder does not support POST", hint="Omit the method.")
        if "\0" in str(path):
            raise UnsafeKey("the path has a NUL in it")
        folders = AllowedFolders(self._folders)
        location: Location = self._apart(
            lambda: local_location(path, destination=asked.destination, folders=folders),
            area_of_path(path, folders),
        )
        if asked.destination:
            location = location.as_destination()
        if asked.destination and text.endswith("/") and not location.path.endswith("/"):
            location = replace(location, target=f"{location.path}/")
        return location

    def _local(self, remote: Remote, path: str, asked: LocateOptions) -> Location:
        return self._file(Path(path), path, asked)

    # -- the types

    def _s3(self, remote: Remote, path: str, asked: LocateOptions) -> Location:
        if asked.method == "POST":
            raise InvalidType("S3 uploads need PUT, not POST", hint="Omit the method.")
        bucket, key = split_key(
            # `remote:/bucket` is the same as `remote:bucket`, as in rclone; s3:///x has no bucket.
            path.lstrip("/") if remote.name else path,
            destination=asked.destination,
            folder=asked.folder,
        )
        config = self._buckets.get(remote.name)
        if config is None:
            config = self._buckets[remote.name] = self._s3_config(remote)
        return s3_location(config, bucket, key, asked.headers)

    def _s3_config(self, remote: Remote) -> S3Config:
        options = remote.options
        endpoint = options.get("endpoint") or None
        if endpoint and "://" not in endpoint:
            endpoint = f"https://{endpoint}"
        region = options.get("region") or ""
        key, secret = options.get("access_key_id"), options.get("secret_access_key")
        # As in rclone, `env_auth` counts only without keys in the section (rclone.org/s3).
        if not (key or secret) and (
            options.get("env_auth", "").lower() in YES or options.get("profile")
        ):
            self._apart(prepare)
            # Not with `apart`: only this thread's hub can wait for a helper process.
            found = self._aws(options.get("profile") or None)
            signer = found.signer.in_region(region) if region else found.signer
            endpoint = endpoint or found.endpoint
            return replace(
                found,
                signer=signer,
                endpoint=endpoint,
                virtual=uses_virtual_hosts(options, endpoint, found.virtual),
                uploaded=upload_fields(options),
                asked=asked_always(options),
            )
        if bool(key) != bool(secret):
            raise ConfigError(
                f"the remote {remote.name!a} has only one of access_key_id and secret_access_key"
            )
        token = options.get("session_token") or None
        credentials = AwsCredentials(key, secret, token) if key and secret else None
        owner = "" if token else key or ""
        return S3Config(
            Signer(lambda: credentials, region or "us-east-1"),
            endpoint,
            virtual=uses_virtual_hosts(options, endpoint),
            owner=owner,
            uploaded=upload_fields(options),
            asked=asked_always(options),
        )

    def _webdav(self, remote: Remote, path: str, asked: LocateOptions) -> Location:
        there = self._http(remote, path, asked)
        # ownCloud Infinite Scale has Nextcloud's paths of files, and not its chunked uploads.
        chunks = remote.options.get("vendor", "").lower() != "infinitescale"
        return self._dav(there.url, replace(asked, headers=there.headers), chunks)

    def _dav(self, url: str, asked: LocateOptions, chunks: bool = True) -> Location:
        if asked.method == "POST":
            raise InvalidType("WebDAV uploads need PUT, not POST", hint="Omit the method.")
        there = webdav_location(url, asked.headers, destination=asked.destination)
        # As a folder: the user's root may be written without its final '/'.
        if chunks and is_nextcloud(there.folder().path):
            return replace(there, account=NextcloudAccount(f"webdav+{there.origin}"))
        return there

    def _http(self, remote: Remote, path: str, asked: LocateOptions) -> Location:
        url = remote.options.get("url", "").rstrip("/")
        if not url:
            raise ConfigError(f"the remote {remote.name!a} of {remote.origin} has no url")
        if not is_base(url):
            raise ConfigError(
                f"the url of the remote {remote.name!a} of {remote.origin} has a '?' or a '#'"
                " in it",
                hint=(
                    "Paths are appended to it: write %3F and %23 for a '?' and a '#' in a folder's"
                    " name."
                ),
            )
        headers = options_headers(remote) | dict(asked.headers) | _authorization(remote)
        try:
            return parse_location(
                f"{url}/{canonical_path(path.lstrip('/'))}",
                method=asked.method,
                headers=headers,
                destination=asked.destination,
            )
        except CredentialsInURL:
            raise ConfigError(
                f"the url of the remote {remote.name!a} of {remote.origin} has a user name or a"
                " password in it",
                hint="Write them as `user` and as `pass`, with the output of `relay obscure`.",
            ) from None


def _authorization(remote: Remote) -> dict[str, str]:
    """Return the Authorization field of a remote: a bearer token, or a name and a password (RFC
    7617)."""
    options = remote.options
    token = options.get("bearer_token")
    if token:
        return {"Authorization": f"Bearer {token}"}
    user, hidden = options.get("user", ""), options.get("pass", "")
    if not user and not hidden:
        return {}
    try:
        password = rclone_conf.reveal(hidden) if hidden else ""
    except (ValueError, UnicodeDecodeError):
        raise ConfigError(
            f"the pass of the remote {remote.name!a} is not what `rclone obscure` writes",
            hint="Set it to the output of `relay obscure` (or of `rclone obscure -`).",
        ) from None
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


TYPES: Mapping[str, Callable[[Remotes, Remote, str, LocateOptions], Location]] = {
    "s3": Remotes._s3,
    "local": Remotes._local,
    "http": Remotes._http,
    "webdav": Remotes._webdav,
}
"""The Location of a remote, by its rclone type; further types of stores add their own."""


def _refuse_text(text: str) -> None:
    """Raise a RequestError for a text that can't be a location of any kind."""
    if not text:
        raise InvalidURL("it is empty", hint="Give a URL, or a path. Was a variable not set?")
    if "\0" in text:
        raise UnsafeKey("the location has a NUL in it")
    if has_fragment(text):  # the URL without it may name another object
        raise InvalidURL(
            "the URL has a '#', and the part after it would not be sent", hint=FRAGMENT_HINT
        )
