"""Hosts: names that are valid in the DNS, literal addresses in every spelling, and AWS's domains.

Decided here: what a host is, which address a literal one means, and which domains AWS has. Never
here: whether relay may connect to it (`egress.py`)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

from relay.parsing import UNSAFE_CHARACTERS

# RFC 952 / 1123 labels, plus the underscore that S3 buckets and compose services have.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NAME_BYTES: Final = 253  # RFC 1035 §2.3.4, written with dots and without the last one

AWS_DOMAINS: Final = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "us-isof-": "csp.hci.ic.gov",
}
"""The domain of each partition of AWS, by the beginning of its regions' names (botocore's
`partitions.json`). That of all other regions is AWS_DOMAIN."""
AWS_DOMAIN: Final = "amazonaws.com"
ANY_AWS_DOMAIN: Final = "|".join(map(re.escape, (AWS_DOMAIN, *AWS_DOMAINS.values())))
"""Expression for the domain of any partition of AWS."""


def aws_domain(region: str) -> str:
    """Return the domain of the hosts of an AWS region."""
    found = (one for start, one in AWS_DOMAINS.items() if region.startswith(start))
    return next(found, AWS_DOMAIN)


def is_host_name(host: str) -> bool:
    """Return whether this is a lower-case ASCII name that is valid in the DNS, its punycode labels
    included."""
    if not _NAME.fullmatch(host) or len(host.removesuffix(".")) > _NAME_BYTES:
        return False
    return all(_is_punycode(label[4:]) for label in host.split(".") if label.startswith("xn--"))


@lru_cache(maxsize=4096)
def literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of a literal host, in any spelling that getaddrinfo accepts; None for a
    name.

    `inet_aton` (POSIX) has one to four parts, each decimal, octal or hexadecimal, the last one
    filling the rest: 2130706433, 0x7f.1 and 0177.0.0.1 are all 127.0.0.1, while `ipaddress` takes
    none of them."""
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return None
    parts = [_number(part) for part in host.removesuffix(".").split(".")]
    numbers = [part for part in parts if part is not None]
    if len(numbers) != len(parts) or len(numbers) > 4:
        return None
    *heads, last = numbers
    if any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        return None
    return ipaddress.IPv4Address(
        sum(head << (24 - 8 * place) for place, head in enumerate(heads)) + last
    )


def _is_punycode(encoded: str) -> bool:
    # RFC 3492: it must decode, to a text that needs punycode, and encode to the same text again.
    try:
        label = encoded.encode("ascii").decode("punycode")
        safe = not label.isascii() and not UNSAFE_CHARACTERS.search(label)
        return safe and label.encode("punycode") == encoded.encode("ascii")
    except (ValueError, OverflowError):
        return False


def _number(part: str) -> int | None:
    for pattern, base in ((r"0x[0-9a-f]+", 16), (r"0[0-7]*", 8), (r"[1-9][0-9]*", 10)):
        if len(part) <= 63 and re.fullmatch(pattern, part, re.I | re.A):
            return int(part, base)
    return None


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, IPv4-mapped ones included. An empty host, which
    means all addresses, is not."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
