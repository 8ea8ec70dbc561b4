"""Every vector of the bad-input table about addresses, and the entries with which an operator opens
some."""

from __future__ import annotations

import ipaddress

import pytest

from relay.egress import (
    DENIED,
    LOCAL_NAMES,
    METADATA,
    METADATA_NAMES,
    EgressPolicy,
    is_public,
    parse_allow,
)
from relay.errors import ConfigError, EgressDenied, PortDenied
from relay.location import parse_location

CLOSED = EgressPolicy()


def is_open(policy: EgressPolicy, host: str, port: int, address: str | None = None) -> bool:
    """Return whether a policy permits a name, and with an `address` that one too."""
    try:
        policy.check_name(host, port)
        if address is not None:
            policy.check_address(host, address, port)
    except EgressDenied:
        return False
    return True


DENIED_HOSTS: list[tuple[str, str]] = [
    *(
        ("B27", host)
        for host in (
            "127.0.0.1",
            "127.255.255.254",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "a.b.localhost.",
            "localhost.localdomain",
            "0.0.0.0",
            "0",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "127.0.0.1.",
        )
    ),
    *(
        ("B28", host)
        for host in (
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "0X7F.0.1",
        )
    ),
    # Numbers that are not addresses: they must not reach a resolver.
    *(
        ("B28", host)
        for host in ("1.2.3.4.5", "256.1.1.1", "4294967296", "08.1.1.1", "0x", "a.0x1", "a.1")
    ),
    *(
        ("B29", host)
        for host in (
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.0.1",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        )
    ),
    *(
        ("B30", host)
        for host in (
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "metadata.google.internal",
            "METADATA.google.internal.",
            "metadata",
            "ip-10-0-0-1.ec2.internal",
            "[fd00:ec2::254]",
            "168.63.129.16",
        )
    ),
    *(
        ("B31", host)
        for host in (
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:a9fe:a9fe]",
            "[::ffff:8.8.8.8]",
        )
    ),
    *(
        ("B32", host)
        for host in (
            "[::127.0.0.1]",
            "[::8.8.8.8]",
            "[::ffff:0:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::808:808]",
            "[64:ff9b:1::1]",
            "[64:ff9b:1:ffff:ffff:ffff:ffff:ffff]",
            "[2002:7f00:1::]",
            "[2002:808:808::]",
            "[2001:0:1::]",
            "[fec0::1]",
        )
    ),
    *(
        ("B33", host)
        for host in (
            "[fc00::1]",
            "[fdff::1]",
            "[fe80::1]",
            "[2001:db8::1]",
            "[ff02::1]",
            "[ff00::]",
            "[5f00::1]",
            "[3fff::1]",
            "[100::1]",
            "[2001:2::1]",
            "[4000::1]",
            "[a000::1]",
        )
    ),
]


@pytest.mark.parametrize(
    ("row", "host"), DENIED_HOSTS, ids=[f"{row}-{host}" for row, host in DENIED_HOSTS]
)
def test_denies_before_anything_is_dialled(row: str, host: str) -> None:
    location = parse_location(f"http://{host}/")
    with pytest.raises(EgressDenied) as caught:
        CLOSED.check_name(location.host, location.port)
    assert (caught.value.code, caught.value.status) == ("egress-denied", 403)
    assert location.host in str(caught.value)


PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
]
PUBLIC += [
    "168.63.129.15",
    "192.0.1.0",
    "192.167.255.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2001:200::1",
]
PUBLIC += ["2a00:1450:4001::1", "2001:4860:4860::8888", "3ffe:ffff::1"]


@pytest.mark.parametrize("address", PUBLIC)
def test_lets_the_public_through(address: str) -> None:
    assert is_public(address)
    assert is_open(CLOSED, address, 443)
    assert is_open(CLOSED, "host.example", 443, address)


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "localhost.example.com",
        "notlocalhost",
        "nip.io",
        "10.0.0.1.nip.io",
        "a.local.dev",
    ],
)
def test_lets_names_through_to_the_lookup(name: str) -> None:
    assert is_open(CLOSED, name, 443)


def test_B36_the_address_decides_under_any_name() -> None:
    for address in ("10.0.0.1", "127.0.0.1", "::1", "fe80::1%eth0", "fe80::1%2", "::ffff:10.0.0.1"):
        with pytest.raises(EgressDenied) as caught:
            CLOSED.check_address("10.0.0.1.nip.io", address, 443)
        assert str(caught.value) == "request: connecting to '10.0.0.1.nip.io' is not allowed"


def test_B35_the_text_never_has_the_resolved_address() -> None:
    for port in (443, 22):
        with pytest.raises(EgressDenied) as caught:
            CLOSED.check_address("evil.example", "10.11.12.13", port)
        assert "10.11" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize(
    "address", ["", "localhost", "10.1", "0x7f.1", "1.2.3", "::x", "%eth0", "127.0.0.1\n"]
)
def test_an_unreadable_address_is_refused(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(EgressDenied):
        CLOSED.check_address("host.example", address, 443)


@pytest.mark.parametrize(
    "host", ["", ":::", "a b", "é.example", "fe80::1%eth0", "a" * 64, "*", "127.0.0.1.."]
)
def test_an_invalid_host_is_refused(host: str) -> None:
    with pytest.raises(EgressDenied):
        CLOSED.check_name(host, 443)


@pytest.mark.parametrize(
    "port", [1, 21, 22, 25, 445, 3306, 5432, 6379, 9000, 11211], ids=lambda port: f"B42-{port}"
)
def test_B42_ports(port: int) -> None:
    for host in ("example.com", "8.8.8.8"):
        with pytest.raises(PortDenied) as caught:
            CLOSED.check_name(host, port)
        assert (caught.value.code, caught.value.status) == ("port-denied", 403)
    with pytest.raises(PortDenied):
        CLOSED.check_address("example.com", "8.8.8.8", port)
    EgressPolicy(ports=frozenset({port})).check_name("example.com", port)
    EgressPolicy(ports=frozenset({port})).check_address("example.com", "8.8.8.8", port)


@pytest.mark.parametrize("port", [80, 443, 8080, 8443])
def test_B42_open_ports(port: int) -> None:
    assert is_open(CLOSED, "example.com", port, "8.8.8.8")


# -- opened by the operator
# ------------------------------------------------------------------------------

Dial = tuple[str, str, int]  # host, address, port


@pytest.mark.parametrize(
    ("allow", "opened", "closed"),
    [
        (
            "localhost",
            [("localhost", "127.0.0.1", 9000), ("LOCALHOST.", "::1", 80)],
            [("a.localhost", "127.0.0.1", 80)],
        ),
        (
            "nas.lan:9000",
            [("nas.lan", "10.0.0.5", 9000)],
            [("nas.lan", "10.0.0.5", 80), ("b.lan", "10.0.0.5", 9000)],
        ),
        (
            "*.corp.example",
            [("a.corp.example", "10.0.0.1", 9000)],
            [("corp.example", "10.0.0.1", 443)],
        ),
        (
            "10.0.0.0/8",
            [("a.b", "10.1.2.3", 9000), ("10.1.2.3", "10.1.2.3", 22)],
            [("a.b", "11.0.0.1", 22)],
        ),
        (
            "10.0.0.0/8",
            [("a.b", "::ffff:10.1.2.3", 80)],
            [("a.b", "::ffff:8.8.8.8", 80), ("a.b", "::10.0.0.1", 80)],
        ),
        ("10.0.0.0/8", [("nas.local", "10.1.2.3", 80)], [("localhost", "127.0.0.1", 80)]),
        (
            "127.0.0.0/8:9000",
            [("localhost", "127.0.0.1", 9000)],
            [("localhost", "127.0.0.1", 8080)],
        ),
        (
            "[::1]:8000",
            [("::1", "::1", 8000)],
            [("::1", "::1", 80), ("127.0.0.1", "127.0.0.1", 8000)],
        ),
        ("::1", [("::1", "::1", 1)], []),
        ("fd00::/8", [("fd00::1", "fd00::1", 80)], [("fd00:ec2::253", "fe80::1", 80)]),
        ("[fd00::/8]:81", [("fd00::1", "fd00::1", 81)], [("fd00::1", "fd00::1", 80)]),
        # NAT64 on a host without IPv4: the prefix opens the route, and the IPv4 address behind it
        # decides.
        (
            "64:ff9b::/96",
            [("a.b", "64:ff9b::808:808", 443)],
            [("a.b", "64:ff9b::7f00:1", 443), ("a.b", "64:ff9b::a9fe:a9fe", 443)],
        ),
        (
            "2001::/32",
            [],
            [("a.b", "2001:0:7f00:1::f7f7:f7f7", 443), ("a.b", "2001:0:808:808::80ff:fffe", 443)],
        ),
        (
            "0.0.0.0/0",
            [("10.0.0.1", "10.0.0.1", 22), ("a.b", "8.8.8.8", 22)],
            [("a.b", "fd00::1", 80)],
        ),
        ("8.8.8.8", [("8.8.8.8", "8.8.8.8", 53)], [("8.8.4.4", "8.8.4.4", 53)]),
    ],
)
def test_an_entry_opens_its_own_addresses_only(
    allow: str, opened: list[Dial], closed: list[Dial]
) -> None:
    policy = EgressPolicy(allow=parse_allow(allow))
    for host, address, port in opened:
        policy.check_name(host, port)
        policy.check_address(host, address, port)
    for host, address, port in closed:
        with pytest.raises(EgressDenied):
            policy.check_name(host, port)
            policy.check_address(host, address, port)


@pytest.mark.parametrize(
    "address", sorted(map(str, METADATA)), ids=lambda address: f"B30-{address}"
)
def test_B30_a_name_never_opens_a_metadata_service(address: str) -> None:
    named = EgressPolicy(allow=parse_allow("nas.lan")).allowing("nas.lan")
    with pytest.raises(EgressDenied):
        named.check_address("nas.lan", address, 80)
    wide = EgressPolicy(
        allow=parse_allow(f"nas.lan, [{address}]" if ":" in address else f"nas.lan {address}")
    )
    wide.check_address("nas.lan", address, 80)
    CLOSED.allowing(address).check_name(address, 80)


def test_B30_a_name_never_opens_an_embedded_metadata_service() -> None:
    named = EgressPolicy(allow=parse_allow("nas.lan"))
    for address in (
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::a9fe:a9fe",
    ):
        with pytest.raises(EgressDenied):
            named.check_address("nas.lan", address, 80)


@pytest.mark.parametrize("name", sorted(METADATA_NAMES | LOCAL_NAMES))
def test_B30_local_names(name: str) -> None:
    with pytest.raises(EgressDenied):
        CLOSED.check_name(name.upper() + ".", 80)
    CLOSED.allowing(name).check_name(name, 80)


def test_B30_a_network_does_not_open_a_metadata_name() -> None:
    with pytest.raises(EgressDenied):
        EgressPolicy(allow=parse_allow("10.0.0.0/8")).check_name("metadata.google.internal", 80)


def test_allowing_accepts_the_fields_of_a_location() -> None:
    for url in (
        "http://127.0.0.1:9/",
        "http://127.1:9/",
        "http://[::1]:9/",
        "http://LOCALHOST.:9/",
        "http://nas:9/",
    ):
        location = parse_location(url)
        policy = CLOSED.allowing(location.host)
        policy.check_name(location.host, location.port)
        assert (policy.ports, policy.own) == (CLOSED.ports, CLOSED.own)
    assert CLOSED.allow == ()
    policy = CLOSED.allowing("127.0.0.1", "nas")
    policy.check_address("nas", "10.0.0.1", 9)
    with pytest.raises(EgressDenied):
        policy.check_address("other", "10.0.0.1", 9)


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_an_empty_list_opens_nothing(text: str) -> None:
    assert parse_allow(text) == ()


@pytest.mark.parametrize(
    "entry",
    [
        "http://nas/",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "nas:0",
        "nas:65536",
        "nas:080",
        "nas:",
        "nas:http",
        "[::1",
        "[::1]x",
        "[nas]",
        "*",
        "a.*.b",
        "**.a",
        "é.example",
        "127.1",
        "2130706433",
        "0x7f.1",
        "a.0x1",
        "fe80::1%eth0",
        "-a",
        "u@nas",
        "a/b",
        "xn--",
    ],
)
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_allow(f"nas, {entry} 10.0.0.0/8")
    assert repr(entry) in str(caught.value)


# -- relay's own port
# ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "denied", "allowed"),
    [
        (
            "127.0.0.1",
            ["127.0.0.1", "127.1", "::ffff:127.0.0.1", "0.0.0.0", "0", "::"],
            ["127.0.0.2", "::1"],
        ),
        (
            "0.0.0.0",
            ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"],
            ["10.0.0.1"],
        ),
        ("::", ["127.0.0.1", "::1", "::"], ["10.0.0.1"]),
        ("localhost", ["localhost", "127.0.0.1", "::1"], ["10.0.0.1"]),
        ("::1", ["::1", "::"], ["127.0.0.1"]),
        ("10.0.0.1", ["10.0.0.1", "::ffff:10.0.0.1"], ["10.0.0.2", "127.0.0.1"]),
        ("relay.lan", ["relay.lan", "RELAY.lan."], ["10.0.0.2"]),
    ],
    ids=lambda value: f"B42-{value}" if isinstance(value, str) else None,
)
def test_B42_never_dials_itself(own: str, denied: list[str], allowed: list[str]) -> None:
    everything = parse_allow("localhost relay.lan 0.0.0.0/0 ::/0")
    policy = EgressPolicy(allow=everything, own=frozenset({(own, 8080)}))
    for host in denied:
        with pytest.raises(EgressDenied):
            policy.check_name(host, 8080)
        policy.check_name(host, 8081)
    for host in allowed:
        policy.check_name(host, 8080)
        policy.check_address("host.example", host, 8080)


def test_B42_knows_itself_by_the_connected_socket() -> None:
    policy = EgressPolicy(allow=parse_allow("10.0.0.0/8"), own=frozenset({("0.0.0.0", 8080)}))
    policy.check_connected("nas.lan", "10.0.0.1", "10.0.0.2", 8080)
    policy.check_connected("nas.lan", "10.0.0.1", "10.0.0.1", 8081)
    for local in ("10.0.0.2", "::ffff:10.0.0.2", "?"):
        with pytest.raises(EgressDenied):
            policy.check_connected("nas.lan", local, "10.0.0.2", 8080)


def test_B35_looks_at_the_peer_again() -> None:
    with pytest.raises(EgressDenied):
        CLOSED.check_connected("host.example", "192.168.1.2", "192.168.1.3", 443)
    CLOSED.check_connected("host.example", "192.168.1.2", "8.8.8.8", 443)


def test_every_row_names_its_source() -> None:
    for text, source in DENIED:
        assert ipaddress.ip_network(text, strict=True)
        assert source
