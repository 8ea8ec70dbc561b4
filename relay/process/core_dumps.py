"""The system writes no image of this process's memory to a disk: it contains credentials, and
pieces of objects. Decided here: core dumps. Never here: other secrets."""

from __future__ import annotations

import resource


def forbid_dumps() -> None:
    """Disable core files of this process and its children (core(5)). An operator may raise the
    limit again (`prlimit --core`)."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
