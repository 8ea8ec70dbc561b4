"""The system writes no image of this process's memory to a disk: it contains credentials, and
pieces of objects.

Decided here: core dumps. Never here: other secrets."""

from __future__ import annotations

import resource


def forbid_dumps() -> None:
    """Disable core files of this process and its children (core(5)). An operator may raise the
    limit again (`prlimit --core`).

    A limit of 0 does not hold where the system pipes the image to a program, such as Ubuntu's
    apport, which writes it to /var/crash. With a limit of 1 byte the kernel starts no such program
    (`do_coredump` in fs/coredump.c), and a file would be too short."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if most else 0, most))
