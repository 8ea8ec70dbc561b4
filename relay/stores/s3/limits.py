"""The limits of uploads to S3 (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""

from __future__ import annotations

from typing import Final

from relay.stores.interfaces import PartLimits

SINGLE_BYTES: Final = 5 << 30
"""Maximum size of one PUT, and of one part, in bytes."""
PARTS: Final = PartLimits(
    smallest=5 << 20, largest=SINGLE_BYTES, most=10_000, object_bytes=10_000 * SINGLE_BYTES
)
