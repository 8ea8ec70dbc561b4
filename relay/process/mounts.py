"""The mounts that this process sees (proc(5), "mountinfo").

Decided here: how their list is read. Never here: what follows from a mount."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One mount. `point` is decoded; the other fields are as the kernel writes them, with blanks,
    tabs, line feeds and backslashes as octal escapes."""

    device: str
    """The number of the device, `major:minor`."""
    root: str
    """The folder of the file system that is mounted."""
    point: str
    """Where it is mounted, an absolute path."""
    kind: str
    """The type of the file system."""
    source: str
    """The disk, the server's folder, or a name without meaning."""
    options: tuple[str, ...]
    """The options of the file system, not those of this mount."""


def read_mounts() -> tuple[Mount, ...]:
    """Return the mounts of this process, of which a later one hides an earlier one at the same
    place; () if they are not known."""
    try:
        text = MOUNTINFO.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ()
    return parse_mounts(text)


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Parse the text of a `mountinfo`. Other lines are skipped."""
    # A name may contain any other character at which `splitlines` splits too.
    found = (_parse_line(line) for line in text.split("\n"))
    return tuple(mount for mount in found if mount is not None)


def _parse_line(line: str) -> Mount | None:
    # 36 35 98:0 /root /mount/point options [optional fields] - type source options
    fields, separator, more = line.partition(" - ")
    first, last = fields.split(" ", 5), more.split(" ", 2)
    if not separator or len(first) < 5:
        return None
    kind, source, options = (*last, "", "")[:3]
    return Mount(
        device=first[2],
        root=first[3],
        point=_ESCAPED.sub(lambda escape: chr(int(escape[1], 8)), first[4]),
        kind=kind,
        source=source,
        options=tuple(options.split(",")),
    )
