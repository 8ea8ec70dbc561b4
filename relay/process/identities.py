"""Identities of processes, of this machine, of its start and of a container's volumes, as far as
the system shows them.

Never here: what follows if a process has ended (`ledger/leases.py`)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from relay.process.mounts import Mount, read_mounts

INITIAL_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The pid namespace of the machine itself (include/linux/proc_ns.h, PROC_PID_INIT_INO)."""
_MACHINE_ID: Final = "/etc/machine-id"


def boot_id() -> str:
    """Return the id of this start of the machine, or "unknown" (random(4), boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def machine_id() -> str:
    """Return an id of this machine (machine-id(5)). Without one it is the id of its start; so it is
    in a container, whose file comes from its image, unless the machine's file is mounted there.

    Machines that were cloned with their file have names of their own, so the name counts as well;
    except in a container, whose name changes each time it is made."""
    in_container = is_container()
    if in_container and not _is_mounted(_MACHINE_ID):
        return boot_id()
    try:
        found = Path(_MACHINE_ID).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return boot_id()
    if found in ("", "uninitialized"):
        return boot_id()
    return found if in_container else f"{found} {os.uname().nodename}"


def is_container() -> bool:
    """Return whether this process runs in a container, with process ids of its own."""
    return pid_namespace() not in (INITIAL_PID_NAMESPACE, "unknown")


def volume_of(path: Path) -> list[str]:
    """Return the identity of the file system that holds a path, which need not exist: the mounted
    folder, the type and the source (proc(5), mountinfo). A volume keeps it in each container. A
    disk may have another name at the next start (/dev/nvme2n1), so its file system's id counts. A
    source without a name, as "overlay" or "tmpfs", has many file systems: these have the number
    of their device too, which lasts as long as they do."""
    mount = _mount_of(os.path.realpath(path))
    if mount is None:  # a chroot shows only the mounts below it
        return []
    source = mount.source
    if source.startswith("/dev/"):
        with suppress(OSError):
            source = f"/{os.statvfs(mount.point).f_fsid:x}"
    return [mount.root, mount.kind, source, *([] if "/" in source else [mount.device])]


def _is_mounted(path: str) -> bool:
    mount = _mount_of(path)
    return mount is not None and mount.point == path


def _mount_of(path: str) -> Mount | None:
    """Return the mount that holds a path, the last one of the longest mount point; None if none is
    shown."""
    found: Mount | None = None
    for mount in read_mounts():
        # A later mount at the same place hides an earlier one, hence `>=`.
        is_above = os.path.commonpath((path, mount.point)) == mount.point
        if is_above and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def network_namespace() -> str:
    """Return the id of this process's network namespace, or "unknown"."""
    return _namespace("net")


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
    # The name before the ')' may hold blanks. Then follow the state, and as twentieth field the
    # start time (proc(5)). A zombie has ended.
    return None if fields[0] in ("Z", "X") else f"{pid}.{fields[19]}@{pid_namespace()}"


def _is_there(pid: int) -> bool:
    """Return whether a process exists that /proc does not show: it may hide the processes of other
    users (proc(5), hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # EPERM: the process exists, and belongs to another user
    return True


def pid_namespace() -> str:
    """Return the id of this process's pid namespace, or "unknown". Two containers may have the same
    host name."""
    return _namespace("pid")


def _namespace(kind: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return "unknown"
