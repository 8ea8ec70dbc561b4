"""What the ticker of a worker has written (`ticking.conf.py`): how late it woke, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import sleep

WRITE_SECONDS = 0.5
"""How often the ticker writes."""


@dataclass(frozen=True, order=True, kw_only=True)
class Ticks:
    """The latest wake of a ticker, in seconds; of several the latest is the greatest."""

    late: float
    """Beyond what the worker waited for a core."""
    coreless: float
    """How long it waited for a core then."""
    busy: float
    """The CPU of the hub's thread since the wake before: that of all greenlets."""
    collecting: float
    """The longest collection of garbage since then, in any wake."""
    wakes: int
    """The number of all wakes."""

    @property
    def figure(self) -> str:
        """The text of a table."""
        return (
            f"{self.late * 1e3:.0f} ms ({self.busy * 1e3:.0f} ms of CPU since the wake before;"
            f" {self.coreless * 1e3:.0f} ms without a core; the longest collection"
            f" {self.collecting * 1e3:.0f} ms; {self.wakes:,} wakes)"
        )


def read_ticks(file: Path) -> Ticks:
    """Return what the ticker has seen since `forget_ticks`. Raises OSError, ValueError."""
    late, coreless, busy, collecting, wakes = map(float, file.read_text().split())
    return Ticks(late=late, coreless=coreless, busy=busy, collecting=collecting, wakes=int(wakes))


def forget_ticks(file: Path) -> None:
    """Let the ticker begin afresh."""
    file.unlink(missing_ok=True)
    sleep(2.2 * WRITE_SECONDS)
