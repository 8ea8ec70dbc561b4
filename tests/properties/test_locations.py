"""Properties of every string, every address and every secret."""

from __future__ import annotations

import ipaddress
import socket
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from relay.egress import DENIED, EgressPolicy, is_public
from relay.errors import EgressDenied, RedirectRefused, RequestError, UnsafeKey
from relay.file_names import NAME_BYTES, safe_name
from relay.hosts import literal_address
from relay.identity import same_object
from relay.location import Location, parse_location
from relay.parsing import UNSAFE_CHARACTERS
from relay.redirects import redirect_target

labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True).filter(
    lambda label: not label.startswith("xn--")
)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
hosts = st.one_of(names, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
ports = st.integers(1, 65535)
segment_characters = "".join(
    sorted(set(string.printable) - set(string.whitespace) - set("\\/?#%."))
)
segments = st.text(segment_characters + "%", min_size=1, max_size=8).filter(
    lambda text: not text.startswith(";") and "%" not in text or text.startswith("x%zz")
)
paths = st.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts))
queries = st.one_of(
    st.just(""), st.text(segment_characters + "/?%.", max_size=20).map("?{}".format)
)
locations = st.builds(
    lambda scheme, host, port, path, query: Location(scheme, host, port, path + query),
    st.sampled_from(["http", "https"]),
    hosts,
    ports,
    paths,
    queries,
)
# Strings that look like URLs, made of parts that confused parsers.
odd = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "http",
                "https",
                ":",
                "//",
                "/",
                "\\",
                "@",
                "#",
                "?",
                "[",
                "]",
                "::1",
                "127.1",
                "%2e",
                "..",
                "%",
                "xn--",
            ]
        ),
        st.characters(),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)
likely = st.one_of(odd, odd.map("http://{}".format), odd.map("https://host{}".format), st.text())


@given(locations)
def test_a_location_survives_its_url(location: Location) -> None:
    assert parse_location(location.url) == location
    assert parse_location(location.url, destination=True) == location
    assert same_object(location, parse_location(location.url))


@given(likely, st.booleans())
@example("http://[::1%", False)
@example("http://xn--\x80/", False)
def test_any_string_parses_or_is_refused(text: str, destination: bool) -> None:
    try:
        location = parse_location(text, destination=destination)
    except RequestError as error:
        assert error.status == 422
        return
    assert parse_location(location.url) == location
    assert location.url.isascii()
    assert not set(location.url) & set("\\ \r\n\t\0")
    assert location.target.startswith("/")
    (
        str(location),
        repr(location),
        location.name,
        safe_name(None, location),
        same_object(location, location),
    )


@given(st.from_regex(r"[a-z0-9-]{0,59}", fullmatch=True))
def test_any_punycode_parses_or_is_refused(encoded: str) -> None:
    try:
        location = parse_location(f"http://xn--{encoded}/")
    except RequestError as error:
        assert error.status == 422
        return
    assert parse_location(location.url) == location


@given(locations, likely)
def test_any_reference_leads_somewhere_or_is_refused(location: Location, reference: str) -> None:
    location = parse_location(location.url, headers={"Authorization": "secret"}, method="PUT")
    try:
        there = redirect_target(location, reference)
    except RedirectRefused:
        return
    assert there.scheme == "https" or location.scheme == "http"
    assert (there.headers == location.headers) is (there.origin == location.origin)
    assert parse_location(there.url) == parse_location(there.url)


@given(locations, st.text("abcdefghij", min_size=12, max_size=20))
def test_printing_shows_no_secret(location: Location, secret: str) -> None:
    assume(secret not in location.path + location.host)
    planted = parse_location(
        str(location).removesuffix("?…") + f"?sig={secret}",
        headers={"Authorization": f"Bearer {secret}"},
    )
    for shown in (
        str(planted),
        repr(planted),
        f"{planted}",
        f"{planted!r}",
        str([planted]),
        ascii(planted),
    ):
        assert secret not in shown


@given(st.text(max_size=40))
def test_a_name_is_kept_or_refused(name: str) -> None:
    folder = parse_location("https://host/a/?q=1", destination=True)
    try:
        there = folder.object_named(name)
    except UnsafeKey:
        return
    assert there.name == name
    assert parse_location(there.url, destination=True) == there


@given(
    st.one_of(
        st.text(),
        st.text().map("attachment; filename={}".format),
        st.text().map('x; filename="{}"'.format),
    )
)
def test_a_safe_name_is_safe(header: str) -> None:
    folder = parse_location("https://host/a/", destination=True)
    name = safe_name(header, folder)
    if name is not None:
        assert "/" not in name and "\\" not in name and name.strip(". ")
        assert not UNSAFE_CHARACTERS.search(name)
        assert len(name.encode()) <= NAME_BYTES


# -- addresses
# --------------------------------------------------------------------------------------------


def _embeddings(address: ipaddress.IPv4Address) -> list[str]:
    number = int(address)
    forms = [
        ipaddress.IPv6Address(number),
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(0xFFFF << 48 | number),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b:1::")) | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1),
        ipaddress.IPv6Address(0x20010000 << 96 | number << 64),
        ipaddress.IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF),
    ]
    return [str(form) for form in forms]


def _assert_not_public(address: str) -> None:
    assert not is_public(address)
    policy = EgressPolicy()
    for check in (
        lambda: policy.check_name(address, 443),
        lambda: policy.check_address("h.example", address, 443),
    ):
        with pytest.raises(EgressDenied):
            check()


@pytest.mark.parametrize("network", [text for text, _ in DENIED])
@given(data=st.data())
def test_no_member_of_a_denied_network_is_public(network: str, data: st.DataObject) -> None:
    parsed = ipaddress.ip_network(network)
    drawn = parsed[data.draw(st.integers(0, parsed.num_addresses - 1))]
    for address in (parsed[0], parsed[-1], drawn):
        _assert_not_public(str(address))
        if isinstance(address, ipaddress.IPv4Address):
            for form in _embeddings(address):
                _assert_not_public(form)


@given(st.ip_addresses(v=4))
def test_no_embedded_address_is_public(address: ipaddress.IPv4Address) -> None:
    for form in _embeddings(address):
        _assert_not_public(form)


@given(st.ip_addresses())
def test_public_addresses_are_global_in_ipaddress(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    # `is_global` permits too much, and every address that is public here is global there.
    if is_public(str(address)):
        assert address.is_global
    assert is_public(str(address)) is is_public(address.exploded)


@given(
    st.ip_addresses(v=4),
    st.integers(1, 4),
    st.lists(st.sampled_from(["{}", "0{:o}", "0x{:x}", "0X{:X}"]), min_size=4),
)
def test_every_spelling_of_an_address_is_that_address(
    address: ipaddress.IPv4Address, count: int, spellings: list[str]
) -> None:
    packed = address.packed
    numbers = [*packed[: count - 1], int.from_bytes(packed[count - 1 :])]
    text = ".".join(
        spelling.format(number) for spelling, number in zip(spellings, numbers, strict=False)
    )
    assert socket.inet_aton(text) == packed
    assert literal_address(text) == address
    assert parse_location(f"http://{text}/").host == text.lower()


@given(st.from_regex(r"[0-9a-fx.]{1,20}", fullmatch=True))
@example("0x.1")
@example("08")
def test_reads_no_fewer_addresses_than_the_system(text: str) -> None:
    try:
        packed = socket.inet_aton(text)
    except OSError:
        return
    found = literal_address(text)
    assert found is not None and found.packed == packed
