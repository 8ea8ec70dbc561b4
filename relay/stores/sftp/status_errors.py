"""Turn the status of an SFTP reply into an error of relay.

Theory of operation. Version 3 has nine codes, and most failures of a file system are one of them,
FAILURE, without a reason: the name exists, the disk is full, it is a folder. So the caller of a
request that can fail for a reason that matters looks for it (`remote_files.py`). Some servers send
codes of later versions (draft-ietf-secsh-filexfer-13 section 9.1) to a client of version 3; they
say more.

Decided here: which error a code means. Never here: what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from relay.errors import (
    ConnectionLost,
    Locked,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    Side,
    StoreError,
    StoreFull,
    Unavailable,
)
from relay.parsing import UNSAFE_CHARACTERS
from relay.stores.sftp.packets import StatusCode, StatusReply

WORDS: Final = 200
"""Number of characters of the server's own words that an error has."""
_PATH: Final = "Check the path; `relay ls` lists the folder above it."
_RIGHTS: Final = "Check the permissions of the file and of its folder on the server."
_NAME: Final = "Rename the object: the server does not allow this name."

ERRORS: Final[Mapping[int, tuple[type[StoreError], str | None]]] = {
    StatusCode.NO_SUCH_FILE: (NotFound, _PATH),
    StatusCode.PERMISSION_DENIED: (PermissionDenied, _RIGHTS),
    StatusCode.FAILURE: (
        Unavailable,
        (
            "The server gives no reason: a quota, a full disk, or a name that it does not allow are"
            " the usual ones."
        ),
    ),
    StatusCode.BAD_MESSAGE: (ProtocolViolation, None),
    StatusCode.NO_CONNECTION: (ConnectionLost, None),
    StatusCode.CONNECTION_LOST: (ConnectionLost, None),
    StatusCode.OP_UNSUPPORTED: (Rejected, "The server does not support this operation."),
    9: (Rejected, None),
    10: (NotFound, _PATH),
    11: (PreconditionFailed, None),
    12: (PermissionDenied, _RIGHTS),
    14: (StoreFull, None),
    15: (StoreFull, None),
    17: (Locked, None),
    20: (Rejected, _NAME),
    24: (Rejected, "It is a folder; name one object, or move all of it (-r, `recursive`)."),
}
"""The error and the hint of each code. Any other one is Rejected."""


def status_error(status: StatusReply, what: str, side: Side) -> StoreError:
    """Return the error of a status other than OK; `what` names the operation and its object."""
    kind, hint = ERRORS.get(status.code, (Rejected, None))
    words = UNSAFE_CHARACTERS.sub("?", status.words.strip())[:WORDS]
    text = words or f"status {status.code}"
    return kind(f"{what}: {text}", side=side, hint=hint)
