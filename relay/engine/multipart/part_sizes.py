"""The size of parts: which objects are moved in parts, and how an object is split.

Decided here: ranges, within the limits of a store. Never here: how parts move."""

from __future__ import annotations

from relay.errors import Rejected
from relay.stores.interfaces import ByteRange, ObjectInfo, PartLimits
from relay.transfer_limits import Limits

MIB = 1 << 20
COPY_BYTES = 512 * MIB
"""Maximum bytes that a store is asked to copy in one request, which takes it some seconds."""


def is_multipart(found: ObjectInfo | None, parts: PartLimits | None, limits: Limits) -> bool:
    """Return whether an object goes as a multipart upload: it is large, its version is pinned by a
    strong ETag, the source has ranges, and the destination has multipart uploads, with limits of
    `parts`."""
    if found is None or found.version.size is None or parts is None:
        return False
    return (
        found.version.size >= limits.parted_bytes
        and found.ranges
        and found.version.strong_etag is not None
    )


def split_into_ranges(size: int, wished: int, limits: PartLimits) -> list[ByteRange]:
    """Split `size` bytes into ranges of about `wished` bytes, or larger ones if the store permits
    fewer parts.

    Raises Rejected if the object is larger than the store permits.
    """
    if size > limits.object_bytes:
        raise Rejected(
            f"{size} bytes exceed the store's limit for one object ({limits.object_bytes})",
            side="destination",
            hint="The destination can't hold this object; choose another, or split the object.",
        )
    # With smaller parts the object would have more of them than the store permits.
    least = -(-size // limits.most)
    return ranges_of(
        size, min(max(wished, limits.smallest, -(-least // MIB) * MIB), limits.largest)
    )


def ranges_of(size: int, step: int) -> list[ByteRange]:
    """Split `size` bytes into ranges of `step` bytes; the last one may be shorter."""
    return [ByteRange(first, min(first + step, size) - 1) for first in range(0, size, step)]
