"""Where relay may connect to.

It fetches URLs of strangers, so every address that is not public is closed, on each hop. Decided
here: which names, addresses and ports may be dialled. Never here: resolving, connecting.

Rule 1: a name proves nothing. `check_name` saves a lookup; `check_address` decides, right before
each connect(), on the sockaddr that is connected to. Otherwise DNS could give one answer to the
check and another to the connection. Rule 2: the table decides; `ipaddress.is_global` is not used.
Up to Python 3.11 it is true for 6to4, NAT64, site-local and multicast addresses, and its meaning
changed in patch releases (CVE-2024-4032). Rule 3: an error names the host as the caller wrote it,
never the address that it led to.

A NAT64 prefix out of the operator's own public space (RFC 6052 §2.2) can't be known here: close it
in the firewall."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import ConfigError, EgressDenied, PortDenied
from relay.hosts import is_host_name, literal_address

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS: Final = frozenset({80, 443, 8080, 8443})

# Sources: the IANA special-purpose address registries (RFC 6890 and what amends it), and vendors'
# own pages.
DENIED: Final[tuple[tuple[str, str], ...]] = (
    ("0.0.0.0/8", "this network, RFC 791 §3.2; Linux connects 0.0.0.0 to itself"),
    ("10.0.0.0/8", "private, RFC 1918"),
    ("100.64.0.0/10", "carrier-grade NAT, RFC 6598; 100.100.100.200 is Alibaba Cloud's metadata"),
    ("127.0.0.0/8", "loopback, RFC 1122 §3.2.1.3"),
    (
        "168.63.129.16/32",
        "Azure's wire server; a public address by registry, the host's agent in fact",
    ),
    (
        "169.254.0.0/16",
        "link-local, RFC 3927; 169.254.169.254 is the metadata of AWS, GCP, Azure and others",
    ),
    ("172.16.0.0/12", "private, RFC 1918"),
    ("192.0.0.0/24", "IETF protocol assignments, RFC 6890; 192.0.0.192 is Oracle Cloud's metadata"),
    ("192.0.2.0/24", "documentation, RFC 5737"),
    ("192.88.99.0/24", "6to4 relays, RFC 7526"),
    ("192.168.0.0/16", "private, RFC 1918"),
    ("198.18.0.0/15", "benchmarks, RFC 2544"),
    ("198.51.100.0/24", "documentation, RFC 5737"),
    ("203.0.113.0/24", "documentation, RFC 5737"),
    ("224.0.0.0/4", "multicast, RFC 5771"),
    ("240.0.0.0/4", "reserved and broadcast, RFC 1112 §4, RFC 919 §7"),
    ("::/128", "unspecified, RFC 4291 §2.5.2"),
    ("::1/128", "loopback, RFC 4291 §2.5.3"),
    ("::/96", "IPv4-compatible, RFC 4291 §2.5.5.1"),
    ("::ffff:0:0/96", "IPv4-mapped, RFC 4291 §2.5.5.2"),
    ("::ffff:0:0:0/96", "IPv4-translated, RFC 2765 §2.1"),
    ("64:ff9b::/96", "NAT64, RFC 6052"),
    ("64:ff9b:1::/48", "NAT64 for local use, RFC 8215"),
    ("100::/64", "discard-only, RFC 6666"),
    ("2001::/23", "IETF protocol assignments, RFC 2928: Teredo (RFC 4380), benchmarks, ORCHID"),
    ("2001:db8::/32", "documentation, RFC 3849"),
    ("2002::/16", "6to4, RFC 3056"),
    ("3fff::/20", "documentation, RFC 9637"),
    ("5f00::/16", "segment routing, RFC 9602"),
    ("fc00::/7", "unique local, RFC 4193; fd00:ec2::254 is AWS's metadata, fd20:ce::254 Google's"),
    ("fe80::/10", "link-local, RFC 4291 §2.5.6"),
    ("fec0::/10", "site-local, RFC 3879"),
    ("ff00::/8", "multicast, RFC 4291 §2.7"),
    # Three rows leave only 2000::/3, which IANA assigns (RFC 4291 §2.4): an unassigned address is
    # not public.
    ("::/3", "not global unicast"),
    ("4000::/2", "not global unicast"),
    ("8000::/1", "not global unicast"),
)

# These give credentials to any client: an allowed *name* does not open them, only an allowed
# address does.
METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, GCP, Azure, Oracle, DigitalOcean, OpenStack, Hetzner
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS Pod Identity
        "169.254.0.23",  # Tencent Cloud
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure wire server
        "192.0.0.192",  # Oracle Cloud, classic
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS Pod Identity
        "fd20:ce::254",  # GCP
        "fd00:c1::a9fe:a9fe",  # Oracle Cloud
    )
)
METADATA_NAMES: Final = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
LOCAL_NAMES: Final = frozenset(
    {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "broadcasthost"}
)
# RFC 6761 §6.3, RFC 6762 §3, RFC 8375, ICANN's resolution 2024.07.29.06 (.internal), and /etc/hosts
# of old.
LOCAL_SUFFIXES: Final = (".localhost", ".local", ".home.arpa", ".internal", ".localdomain")


def _spans() -> dict[int, tuple[tuple[int, int], ...]]:
    networks = [ipaddress.ip_network(text) for text, _ in DENIED]
    return {
        version: tuple((int(net[0]), int(net[-1])) for net in networks if net.version == version)
        for version in (4, 6)
    }


_SPANS: Final = _spans()
_LOOPBACK: Final = tuple(ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128"))
_WILDCARDS: Final = frozenset({"0.0.0.0", "::", "", "localhost"})


def is_public(address: str) -> bool:
    """Return whether a text is an address on the public internet: in no row of DENIED."""
    parsed = _parse_address(address)
    return parsed is not None and _is_public(parsed)


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry that the operator allowed: a name (its subdomains with '*.'), or a network; on one
    port or on all."""

    name: str | None = None
    network: Network | None = None
    port: int | None = None

    def has_port(self, port: int) -> bool:
        """Return whether this entry includes a port."""
        return self.port in (None, port)

    def has_name(self, name: str) -> bool:
        """Return whether this entry includes a host; `name` is lower-case, without a trailing
        dot."""
        if self.name is None:
            return False
        return name.endswith(self.name[1:]) if self.name.startswith("*.") else name == self.name

    def has_address(self, address: Address) -> bool:
        """Return whether this entry's network includes an address, or the IPv4 address that it
        maps."""
        return self.network is not None and any(
            form in self.network for form in (address, _unmap(address))
        )


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """The policy of the operator. By default it allows only public addresses, on the usual four
    ports.

    `allow` opens hosts and networks, on any port unless the entry names one. A name permits every
    address that it resolves to, except metadata services. `own` are our listening sockets as (host,
    port), which are never dialled, even if allowed; '0.0.0.0' and '::' among them stand for every
    loopback address, and in `check_connected` for every local one."""

    allow: tuple[Allowed, ...] = ()
    ports: frozenset[int] = DEFAULT_PORTS
    own: frozenset[tuple[str, int]] = frozenset()

    def check_name(self, host: str, port: int) -> None:
        """Raise EgressDenied or PortDenied for a host of a Location that is refused before any
        lookup.

        Literal addresses in every spelling are decided here. A name that passes may still resolve
        to any address."""
        address = literal_address(host)
        if address is not None:
            self._check(host, address, port)
            return
        name = host.lower().removesuffix(".")
        if any(own_port == port and own_host.lower() == name for own_host, own_port in self.own):
            raise _denial(host)
        if self._names(name, port):
            return
        # With a network open on this port the address decides; that check is at least as strict.
        undecided = any(entry.network is not None and entry.has_port(port) for entry in self.allow)
        if not is_host_name(host.lower()) or _looks_numeric(name) or name in METADATA_NAMES:
            raise _denial(host)
        if _is_local_name(name) and not undecided:
            raise _denial(host)
        if port not in self.ports and not undecided:
            raise _port_denied(host, port)

    def check_address(self, host: str, address: str, port: int) -> None:
        """Raise EgressDenied or PortDenied unless `host`, which is at `address`, may be connected
        to.

        Call it for each address right before its connect(). `address` is numeric, as getaddrinfo
        returns it, maybe with a zone; an unreadable one is refused."""
        parsed = _parse_address(address)
        if parsed is None:
            raise _denial(host)
        self._check(host, parsed, port)

    def check_connected(self, host: str, local: str, remote: str, port: int) -> None:
        """Check a connected socket again: `local` is its getsockname(), `remote` its getpeername().

        Raises as `check_address` does, and EgressDenied if both ends are this machine and the port
        is one of `own`: a kernel answers for its own address with that same address, which is the
        only way to know all of them."""
        self.check_address(host, remote, port)
        here, there = _parse_address(local), _parse_address(remote)
        wild = any(own_port == port and own_host in _WILDCARDS for own_host, own_port in self.own)
        if wild and (here is None or there is None or _unmap(here) == _unmap(there)):
            raise _denial(host)

    def allowing(self, *hosts: str) -> EgressPolicy:
        """Return a copy that also allows these hosts, as a Location has them; the CLI allows the
        hosts that its user named."""
        return replace(self, allow=self.allow + tuple(_of_host(host) for host in hosts))

    def has_allowed(self, host: str, port: int) -> bool:
        """Return whether the operator allowed this very host: by its name, or a literal address by
        a network."""
        address = literal_address(host)
        if address is not None:
            return self._opens(address, port)
        return self._names(host.lower().removesuffix("."), port)

    def _check(self, host: str, address: Address, port: int) -> None:
        if self._is_own(address, port):
            raise _denial(host)
        named = self._names(host.lower().removesuffix("."), port)
        # An IPv6 address that embeds an IPv4 one is judged by both: a gateway may translate it.
        forms = (address, *_embedded_addresses(address))
        closed = [form for form in forms if not self._opens(form, port)]
        if any(form in METADATA for form in closed):
            raise _denial(host)
        if named:
            return
        if not all(_is_public(form) for form in closed):
            raise _denial(host)
        if closed and port not in self.ports:
            raise _port_denied(host, port)

    def _names(self, name: str, port: int) -> bool:
        return any(entry.has_name(name) and entry.has_port(port) for entry in self.allow)

    def _opens(self, address: Address, port: int) -> bool:
        return any(entry.has_address(address) and entry.has_port(port) for entry in self.allow)

    def _is_own(self, address: Address, port: int) -> bool:
        dialled = _unmap(address)
        local = dialled.is_unspecified or any(dialled in network for network in _LOOPBACK)
        for host, own_port in self.own:
            if own_port != port:
                continue
            if host in _WILDCARDS and local:
                return True
            own = _parse_address(host)
            if own is None:
                continue
            # Dialling 0.0.0.0 or :: connects to loopback.
            if _unmap(own) == dialled or (dialled.is_unspecified and own.is_loopback):
                return True
        return False


def parse_allow(text: str) -> tuple[Allowed, ...]:
    """Read 'localhost, 10.0.0.0/8, *.corp.example, nas.lan:9000, [::1]:8000'; commas or spaces
    between.

    Raises ConfigError naming the entry that is neither a host name, an address nor a network.
    """
    return tuple(_entry(word) for word in text.replace(",", " ").split())


def _entry(word: str) -> Allowed:
    try:
        host, port = _split_port(word)
        if "%" in host:
            raise ValueError("a zone can't be allowed")
        if ":" in host or "/" in host or host.replace(".", "").isdigit():
            return Allowed(network=ipaddress.ip_network(host), port=port)
    except ValueError as error:
        raise _bad_entry(word, str(error)) from None
    name = host.lower().removesuffix(".")
    if (
        not is_host_name(name.removeprefix("*."))
        or _looks_numeric(name)
        or literal_address(name) is not None
    ):
        raise _bad_entry(word, "not a host name, an address or a network")
    return Allowed(name=name, port=port)


def _split_port(word: str) -> tuple[str, int | None]:
    if word.startswith("["):
        host, bracket, tail = word[1:].partition("]")
        if not bracket or ":" not in host:
            raise ValueError("the brackets are for an IPv6 address")
        return host, _port(tail) if tail else None
    if word.count(":") == 1:
        host, _, digits = word.partition(":")
        return host, _port(":" + digits)
    return word, None


def _port(text: str) -> int:
    if not re.fullmatch(r":[1-9][0-9]{0,4}", text) or int(text[1:]) > 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    return int(text[1:])


def _bad_entry(word: str, why: str) -> ConfigError:
    hint = (
        "Write host names, *.suffixes, addresses or CIDRs, each with ':port' if only that one is"
        " meant."
    )
    return ConfigError(f"{word!r} in the egress allow list: {why}", hint=hint)


def _of_host(host: str) -> Allowed:
    address = literal_address(host)
    if address is None:
        return Allowed(name=host.lower().removesuffix("."))
    return Allowed(network=ipaddress.ip_network(address))


# -- addresses
# -----------------------------------------------------------------------------------------------


def _parse_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    number = int(address)
    return not any(first <= number <= last for first, last in _SPANS[address.version])


def _unmap(address: Address) -> Address:
    # The only embedding that a kernel resolves: connecting to ::ffff:10.0.0.1 is connecting to
    # 10.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


# Where an IPv4 address sits in an IPv6 one: the network, and how far to shift right. Teredo has
# two: the server's as it is, the client's with each bit turned over (RFC 4380 §4).
_EMBEDDINGS: Final = tuple(
    (int(net[0]), int(net[-1]), shift, mask)
    for net, shift, mask in (
        (ipaddress.IPv6Network("::/96"), 0, 0),
        (ipaddress.IPv6Network("::ffff:0:0/96"), 0, 0),
        (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0, 0),
        (ipaddress.IPv6Network("64:ff9b::/96"), 0, 0),
        (ipaddress.IPv6Network("64:ff9b:1::/48"), 0, 0),
        (ipaddress.IPv6Network("2002::/16"), 80, 0),
        (ipaddress.IPv6Network("2001::/32"), 64, 0),
        (ipaddress.IPv6Network("2001::/32"), 0, 0xFFFFFFFF),
    )
)


def _embedded_addresses(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses that this IPv6 address may lead to; none for '::' and '::1'."""
    number = int(address)
    if address.version == 4 or number <= 1:
        return ()
    return tuple(
        ipaddress.IPv4Address((number >> shift & 0xFFFFFFFF) ^ mask)
        for first, last, shift, mask in _EMBEDDINGS
        if first <= number <= last
    )


def _is_local_name(name: str) -> bool:
    return name in LOCAL_NAMES or name.endswith(LOCAL_SUFFIXES)


def _looks_numeric(name: str) -> bool:
    # '1.2.3.4.5', '999.1.1.1', '0x': no public top-level domain is a number, so a resolver may read
    # it as an address.
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2]) is not None


def _denial(host: str) -> EgressDenied:
    return EgressDenied(f"connecting to {host!r} is not allowed")


def _port_denied(host: str, port: int) -> PortDenied:
    return PortDenied(f"port {port} of {host!r} is not open")
