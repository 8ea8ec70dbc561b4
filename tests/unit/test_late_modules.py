"""Modules that SQLAlchemy asks for and relay does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from relay.process.late_modules import late_modules
with late_modules():
    from relay.ledger.ledger import Ledger
Ledger.connect("sqlite:///" + sys.argv[1]).close()
late = [name for name in ("asyncio", "importlib.metadata") if name in sys.modules]
assert not late, late
from sqlalchemy.util import compat
from sqlalchemy.util.concurrency import is_cancellation_exception, iscoroutine
import asyncio, importlib.metadata
assert is_cancellation_exception(asyncio.CancelledError()) and not iscoroutine(1)
assert compat.importlib_metadata_get("console_scripts")
assert importlib.metadata.version("sqlalchemy") and asyncio.Lock()
"""


def test_a_ledger_needs_no_asyncio(tmp_path: Path) -> None:
    """SQLAlchemy and others get the modules once they use them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "l.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
