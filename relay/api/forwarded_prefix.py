"""The path prefix under which a proxy publishes this server."""

from __future__ import annotations

import re

from flask import request

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+){1,20}")


def path_prefix() -> str:
    """Return the path prefix that a proxy removed and names in X-Forwarded-Prefix; '' without a
    valid one.

    A client that sends the header itself misleads only itself: answers are not cached.
    """
    reported = request.headers.get("X-Forwarded-Prefix", "").strip().rstrip("/")
    return reported if len(reported) <= 500 and _PREFIX.fullmatch(reported) else ""
