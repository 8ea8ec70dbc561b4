"""The sections that compare movers: sizes, numbers of objects, schemes."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20
LARGE, SMALL, WARM = "one/large.bin", "one/small.bin", "one/warm.bin"
MANY = 100
"""From this number of objects on, the report has the cost of an object instead of that of a GiB."""


@dataclass(frozen=True)
class Section:
    """`count` objects of `size` bytes each, `at_once` concurrently if a mover has that option.

    They are the files of `folder` at the source.
    """

    name: str
    title: str
    scheme: str
    folder: str
    count: int
    size: int
    at_once: int

    @property
    def bytes(self) -> int:
        """Number of bytes of all of them."""
        return self.count * self.size

    @property
    def names(self) -> tuple[str, ...]:
        """The objects' names within the folder."""
        if self.count == 1:
            return (LARGE.partition("/")[2],)
        return tuple(f"{index:05}.bin" for index in range(self.count))


def all_sections(size: int, small: int) -> dict[str, Section]:
    """Return the sections by name: one object of `size` bytes, eight of a sixteenth, `small` of 64
    KiB."""
    piece = max(size // 16, 1)
    return {
        section.name: section
        for section in (
            Section("plain", "Plain HTTP on both sides, one object", "http", "one", 1, size, 1),
            Section("tls", "TLS on both sides, one object", "https", "one", 1, size, 1),
            Section("eight", "Plain HTTP, eight objects at once", "http", "eight", 8, piece, 8),
            Section("eight-tls", "TLS, eight objects at once", "https", "eight", 8, piece, 8),
            Section(
                "small",
                "Plain HTTP, small objects by the thousand",
                "http",
                "small",
                small,
                64 * KIB,
                10,
            ),
            Section(
                "small-tls",
                "TLS, small objects by the thousand",
                "https",
                "small",
                small,
                64 * KIB,
                10,
            ),
        )
    }


@dataclass(frozen=True)
class Job:
    """The task of a mover: the objects `names` from the folder at `read` into the folder at
    `write`."""

    section: Section
    read: str
    write: str
    names: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each object's address at the source and at the destination."""
        return [(f"{self.read}/{name}", f"{self.write}/{name}") for name in self.names]
