"""A program for tests: runs a command of relay, and writes the number of objects that only the
garbage collector could free.

Usage: python -m tests.garbage_program FILE COMMAND [WORD…]"""

import gc
import os
import sys
from pathlib import Path
from typing import Any

from relay.cli.__main__ import main  # first, since it patches the standard library

collected: list[int] = []


def note(phase: str, info: dict[str, Any]) -> None:
    """Keep the number of objects that a collection has freed."""
    if phase == "stop":
        collected.append(info["collected"])


if __name__ == "__main__":
    gc.callbacks.append(note)
    code = main(sys.argv[2:])
    gc.collect()
    Path(sys.argv[1]).write_text(str(sum(collected)))
    sys.stdout.flush()
    os._exit(code)
