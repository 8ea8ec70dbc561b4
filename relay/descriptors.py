"""The limit of open files of this process: raised if the system permits it, and an error if it is
too low.

Decided here: the limit, before any other module is imported, since an import opens a file. Never
here: how many files a transfer opens."""

from __future__ import annotations

import os
import resource

MIN_DESCRIPTORS = 32
"""With a lower limit a command fails half-way: at the import of a module, at its ledger, or in the
middle of a transfer."""
MAX_DESCRIPTORS = 1 << 20
"""With a higher limit a program that a command starts (credential_process) may take long to close
all possible descriptors."""
CODE = 2


def require_descriptors() -> None:
    """Raise the soft limit to the hard one, or to MAX_DESCRIPTORS: a transfer holds five files, and
    the usual limit is 1,024 for all. If the hard limit is too low, the process ends with one
    line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < MIN_DESCRIPTORS:
        text = (
            f"relay: at most {hard} files may be open here, and relay needs {MIN_DESCRIPTORS}\n"
            "hint: Raise `ulimit -n`.\n"
        )
        os.write(2, text.encode())
        os._exit(CODE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
