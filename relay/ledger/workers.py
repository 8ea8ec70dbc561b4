"""The identity of a worker: a process that claims transfers in the ledger."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Final

from relay.process.identities import boot_id, process_identity

TERMINAL: Final = "terminal"
SERVER: Final = "server"
"""The kinds of workers. Each kind has its own remotes, folders and egress policy, and works only on
the migrations that were accepted for it."""
LEASE_SECONDS: Final = 30.0
"""How long claims hold after a renewal of the lease."""


@dataclass(frozen=True, kw_only=True)
class WorkerId:
    """A worker's identity, as it registers in the ledger."""

    id: str
    host: str
    boot: str
    process: str
    kind: str = TERMINAL
    """The kind of migrations that it works on."""

    @classmethod
    def of_this_process(cls, id: str, kind: str = TERMINAL) -> WorkerId:
        """Return the identity of this process."""
        return cls(
            id=id,
            host=platform.node(),
            boot=boot_id(),
            process=process_identity(os.getpid()) or str(os.getpid()),
            kind=kind,
        )
