"""The system writes no image of this process's memory to a disk: it contains credentials, and
pieces of objects. Decided here: core dumps. Never here: what else is secret.
"""

from __future__ import annotations

import resource


def forbid_dumps() -> None:
    """Let the system write no core file of this process, and of those that it starts (core(5)). An
    operator may raise the limit again (`prlimit --core`)."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
