"""The MD5 in the ETag of a bucket's object, where it may be one.

Decided here: which ETags may be an MD5. Never here: what two of them prove."""

from __future__ import annotations

import re
from typing import Final

_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_EMPTY: Final = "d41d8cd98f00b204e9800998ecf8427e"
"""The MD5 of no bytes, which some servers show for every object."""


def md5_of_etag(etag: str | None) -> bytes | None:
    """Return the value of an ETag that looks like an MD5, or None.

    Two objects that show one value are the same. Two values prove nothing: under SSE-KMS and SSE-C
    an ETag is not an MD5, and of an object in parts it depends on their size (docs.aws.amazon.com,
    "Object", ETag)."""
    found = _MD5.fullmatch(etag or "")
    if found is None or found[1] == _EMPTY or len(set(found[1])) == 1:
        return None
    return bytes.fromhex(found[1])
