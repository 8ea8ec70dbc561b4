"""The memory that this process may still take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return the bytes that the machine can still give, or the control group of a container if
    those are fewer. None where the system does not say."""
    found = [_of_machine(meminfo), _of_group(cgroup)]
    return min((count for count in found if count is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    """As MemAvailable of proc_meminfo(5), which is in KiB."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        return None


def _of_group(cgroup: Path) -> int | None:
    """The limit without the memory in use, whose page cache the kernel gives up (Linux, "Control
    Group v2", memory interface files). A group without a limit has the text `max`."""
    try:
        most = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        lines = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(lines["inactive_file"]))
    except (OSError, ValueError, LookupError):
        return None
