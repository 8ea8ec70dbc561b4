"""Proxies in front of this server: the address, host, scheme and prefix that its clients see.

A client can send any `X-Forwarded-*` field by itself, so these fields count only if the connection
comes from an address of RELAY_TRUSTED_PROXIES. Where several proxies have added to a field, the
last value is that of the nearest one, and so is the only one that is trusted.

Decided here: the facts about a client. Never here: whether it is answered (`auth.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from relay.errors import ConfigError
from relay.hosts import is_loopback

CLIENT: Final = "relay.client"
"""Key of the environ at which the ClientView of a request is found."""
_UNIX: Final = "unix"
"""The word in RELAY_TRUSTED_PROXIES for every peer of a unix socket."""
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+){1,20}")
_HOST = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.I)
_WITH_PORT = re.compile(r"(?:\[([0-9a-f:.%]+)\]|([0-9.]+))(?::[0-9]{1,5})?", re.I)

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
_Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address


@dataclass(frozen=True, kw_only=True)
class PublicUrl:
    """The address at which browsers reach this server: RELAY_PUBLIC_URL."""

    scheme: str
    host: str
    """With the port, if it is not the scheme's own."""
    prefix: str
    """The beginning of every path, without a slash at its end; often empty."""

    @property
    def origin(self) -> str:
        """The origin of its pages (RFC 6454)."""
        return f"{self.scheme}://{self.host}"


@dataclass(frozen=True, kw_only=True)
class ClientView:
    """What is known about the client of one request."""

    address: str
    """Its IP address; empty for a program at a unix socket."""
    host: str
    """The host that it asked for, in lower case, with a port if it named one."""
    prefix: str
    """The beginning of the path, which a proxy may have removed."""


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """The trusted proxies of one server, and its public address if it has one."""

    networks: tuple[_Network, ...] = ()
    unix: bool = False
    public: PublicUrl | None = None

    def client_of(self, environ: Mapping[str, Any]) -> ClientView:
        """Return what is known about the client of a request."""
        peer = str(environ.get("REMOTE_ADDR", ""))
        address, host = peer, _last(environ, "HTTP_HOST")
        prefix = self.public.prefix if self.public else ""
        if self._trusts(peer):
            address = self._first_untrusted(environ, peer)
            host = _last(environ, "HTTP_X_FORWARDED_HOST") or host
            prefix = _prefix_in(environ) or prefix
        host = host.lower() if _HOST.fullmatch(host) else ""
        if self.public is not None:
            # A browser leaves out the port of its scheme, and some proxies add it.
            host = host.removesuffix(f":{_PORTS[self.public.scheme]}")
        return ClientView(address=address, host=host, prefix=prefix)

    def _trusts(self, text: str) -> bool:
        if not text:
            return self.unix
        if not self.networks:
            return False
        address = _address(text)
        return address is not None and any(address in network for network in self.networks)

    def _first_untrusted(self, environ: Mapping[str, Any], peer: str) -> str:
        """Return the last address in X-Forwarded-For that is not a trusted proxy's: each proxy
        appends the address of its own peer."""
        found = peer
        for text in reversed(str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
            address = _address(_without_port(text.strip()))
            if address is None:
                break
            found = str(address)
            if not self._trusts(found):
                break
        return found


DIRECT: Final = Proxies()
"""No proxy is trusted, and no public address is known."""


def proxies_of(trusted: str, public_url: str) -> Proxies:
    """Return the proxies of RELAY_TRUSTED_PROXIES and RELAY_PUBLIC_URL. Raises ConfigError."""
    words = [word.strip() for word in trusted.split(",") if word.strip()]
    networks = []
    for word in words:
        if word == _UNIX:
            continue
        try:
            networks.append(ip_network(word))
        except ValueError:
            raise ConfigError(
                f"RELAY_TRUSTED_PROXIES: {word[:80]!a} is neither an address nor a network",
                hint="Write addresses and CIDRs, separated by commas: 127.0.0.1,10.0.0.0/8.",
            ) from None
    public = _public_url(public_url) if public_url else None
    return Proxies(networks=tuple(networks), unix=_UNIX in words, public=public)


def with_client(app: Wsgi, proxies: Proxies) -> Wsgi:
    """Return an application that notes each request's ClientView in its environ, and knows the
    prefix at which it is mounted: a proxy may have removed that from the path or not."""

    def mounted_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        client = proxies.client_of(environ)
        path, prefix = environ.get("PATH_INFO", ""), client.prefix
        environ[CLIENT] = client
        environ["SCRIPT_NAME"] = prefix
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"
        return app(environ, start_response)

    return mounted_app


@lru_cache(maxsize=1024)
def address_group(address: str) -> str:
    """Return what counts as one address: a household has 64 bits of IPv6 addresses. A socket of
    both families shows the IPv4 ones as ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)."""
    try:
        found = ip_address(address)
    except ValueError:
        return "unix"
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ip_network((found, 64), strict=False))
    return str(found)


def _public_url(text: str) -> PublicUrl:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    prefix = parts.path.rstrip("/")
    valid = parts.scheme in ("http", "https") and parts.hostname and _HOST.fullmatch(parts.netloc)
    if not valid or parts.query or parts.fragment or (prefix and not _PREFIX.fullmatch(prefix)):
        raise ConfigError(
            "RELAY_PUBLIC_URL is not the address of a server",
            hint="Write https://relay.example, with the path prefix if a proxy adds one.",
        )
    # A browser leaves out the port of its scheme.
    default = port == _PORTS[parts.scheme]
    host = parts.netloc.rpartition(":")[0] if default else parts.netloc
    if parts.scheme == "http" and not is_loopback(str(parts.hostname)):
        raise ConfigError(
            "RELAY_PUBLIC_URL is not an https URL",
            hint="Put a proxy with TLS in front, and write its address: https://relay.example.",
        )
    return PublicUrl(scheme=parts.scheme, host=host.lower(), prefix=prefix)


def _last(environ: Mapping[str, Any], name: str) -> str:
    return str(environ.get(name, "")).rpartition(",")[2].strip()


def _prefix_in(environ: Mapping[str, Any]) -> str:
    """Return the path that a trusted proxy removed, or '' without a valid one."""
    text = str(environ.get("HTTP_X_FORWARDED_PREFIX", "")).strip().rstrip("/")
    return text if len(text) <= 500 and _PREFIX.fullmatch(text) else ""


def _without_port(text: str) -> str:
    """Return an address without brackets and port: Azure's Application Gateway, IIS and AWS's load
    balancers may add the port of their peer."""
    found = _WITH_PORT.fullmatch(text)
    return (found[1] or found[2]) if found else text


def _address(text: str) -> _Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
