"""The limits of uploads to S3, and of the endpoints whose documents name smaller ones.

Decided here: how many parts an upload may have, and how large one request may be. Never here: the
size of the parts (`engine/multipart/part_sizes.py`)."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Final

from relay.stores.interfaces import PartLimits

_GIB: Final = 1 << 30
PARTS: Final = PartLimits(
    smallest=5 << 20, largest=5 * _GIB, most=10_000, object_bytes=10_000 * 5 * _GIB
)
"""AWS (docs.aws.amazon.com, "Amazon S3 multipart upload limits"). `largest` is the limit of an
upload in one request too."""
_ENDPOINTS: Final = (
    # www.scaleway.com, "Managing multipart uploads"
    (
        re.compile(r"(.+\.)?s3\.[a-z0-9-]+\.scw\.cloud"),
        replace(PARTS, largest=5 * 10**9, most=1000, object_bytes=5 * 10**12),
    ),
    # developers.cloudflare.com, "R2 limits": 5 MiB less than 5 GiB, and 5 GiB less than 5 TiB
    (
        re.compile(r"(.+\.)?r2\.cloudflarestorage\.com"),
        replace(PARTS, largest=5 * _GIB - (5 << 20), object_bytes=(5 << 40) - 5 * _GIB),
    ),
)
"""The hosts of endpoints, with the bucket's name before them or without, and their limits."""


FEW_PARTS: Final = 1000
"""The number of parts that OpenStack Swift allows unless its operator sets another one
(docs.openstack.org, "s3api", `max_upload_part_num`)."""


@lru_cache(maxsize=256)
def limits_of(host: str) -> PartLimits:
    """Return the limits of the endpoint at a host: AWS's for an unknown one."""
    return next((limits for name, limits in _ENDPOINTS if name.fullmatch(host)), PARTS)
