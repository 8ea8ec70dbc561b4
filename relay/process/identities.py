"""Identities of processes, of this machine and of its start, as far as the system shows them.

Never here: what follows if a process has ended (`ledger/leases.py`)."""

from __future__ import annotations

import os
from pathlib import Path


def boot_id() -> str:
    """Return the id of this start of the machine, or "unknown" (random(4), boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def machine_id() -> str:
    """Return the id of this machine, or "" if it has none (machine-id(5))."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def process_identity(pid: int) -> str | None:
    """Return an identity that distinguishes a process from every other of this machine, as far as
    /proc shows it: process id, start time, and the id's namespace (pid_namespaces(7)). None means
    that the process has certainly ended."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return str(pid) if _is_there(pid) else None
    return None if fields[0] in ("Z", "X") else f"{pid}.{fields[19]}@{pid_namespace()}"


def _is_there(pid: int) -> bool:
    """Return whether a process exists that /proc does not show: it may hide the processes of other
    users (proc(5), hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def pid_namespace() -> str:
    """Return the id of this process's pid namespace, or "unknown". Two containers may have the same
    host name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
