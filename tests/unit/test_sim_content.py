"""Generated content: every way to request it gives the same bytes."""

from __future__ import annotations

import hashlib

import pytest
from awscrt import checksums
from hypothesis import given
from hypothesis import strategies as st

from simulators.content import POOL_BYTES, Content
from simulators.quantities import parse_bytes, parse_rate, parse_seconds

CONTENT = Content("unit")


@given(
    st.text(max_size=20), st.integers(0, 5 * POOL_BYTES), st.integers(0, 5000), st.integers(0, 5000)
)
def test_a_range_is_the_same_however_it_is_cut(
    name: str, offset: int, first: int, second: int
) -> None:
    whole = CONTENT.read(name, offset, first + second)
    assert len(whole) == first + second
    assert CONTENT.read(name, offset, first) + CONTENT.read(name, offset + first, second) == whole


@pytest.mark.parametrize(
    "size", [0, 1, 9, 65536, POOL_BYTES - 1, POOL_BYTES, POOL_BYTES + 1, 2 * POOL_BYTES + 77]
)
def test_digests_are_those_of_the_bytes(size: int) -> None:
    whole = CONTENT.read("/a", 0, size)
    assert CONTENT.crc32c("/a", size) == checksums.crc32c(whole)
    assert CONTENT.crc64nvme("/a", size) == checksums.crc64nvme(whole)
    assert CONTENT.digest("crc32c", "/a", size) == f"{checksums.crc32c(whole):08x}"
    assert CONTENT.digest("sha256", "/a", size) == hashlib.sha256(whole).hexdigest()


def test_digests_of_huge_objects_extend_by_combination() -> None:
    size, more = 3 * 2**40 + 5, 12345
    tail = CONTENT.read("/a", size, more)
    assert checksums.crc64nvme(tail, CONTENT.crc64nvme("/a", size)) == CONTENT.crc64nvme(
        "/a", size + more
    )
    assert checksums.crc32c(tail, CONTENT.crc32c("/a", size)) == CONTENT.crc32c("/a", size + more)


def test_no_two_parts_names_or_seeds_are_alike() -> None:
    parts = {CONTENT.read("/a", index * 8 * 2**20, 64) for index in range(64)}
    assert len(parts) == 64
    with Content("other") as other:
        assert (
            len({other.read("/a", 0, 64), CONTENT.read("/a", 0, 64), CONTENT.read("/b", 0, 64)})
            == 3
        )


def test_sizes_are_within_bounds_and_the_same_each_time() -> None:
    sizes = [CONTENT.size_of(f"/{index}", 10, 1000) for index in range(500)]
    assert min(sizes) >= 10 and max(sizes) <= 1000 and len(set(sizes)) > 200
    assert sizes[7] == Content("unit").size_of("/7", 10, 1000)
    assert CONTENT.size_of("/x", 5, 5) == 5


def test_quantities_are_read_as_they_are_written() -> None:
    texts = ["1000", "64K", "10MB", "2GiB", "1.5k", "-10", "+7", "3TB"]
    assert [parse_bytes(text) for text in texts] == [
        1000,
        65536,
        10**7,
        2**31,
        1536,
        -10,
        7,
        3 * 10**12,
    ]
    assert [parse_seconds(text) for text in ("40ms", "5", "1.5s", "2m")] == [0.04, 5.0, 1.5, 120.0]
    assert parse_rate("50MB/s") == 50e6 and parse_rate("0.05") == 0.05
    for reject, text in (
        (parse_bytes, "ten"),
        (parse_seconds, "5 days"),
        (parse_rate, "0"),
        (parse_bytes, ""),
    ):
        with pytest.raises(ValueError):
            reject(text)
