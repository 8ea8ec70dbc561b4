"""The number of files that this process may have open: raised where it may be, else an error where it is too small.

Decided here: that, before any other module is imported, which takes an open file itself. Never here: how many files a
transfer opens.
"""

from __future__ import annotations

import os
import resource

LEAST = 32
"""Below it a command fails half-way: at the import of a module, at its ledger, or in the middle of a transfer."""
CODE = 2


def require_descriptors() -> None:
    """Raise the soft limit to LEAST. Ends the process with one line where the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < LEAST:
        text = f"relay: at most {hard} files may be open here, and relay needs {LEAST}\nhint: Raise `ulimit -n`.\n"
        os.write(2, text.encode())
        os._exit(CODE)
    if resource.RLIM_INFINITY != soft < LEAST:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST, hard))
