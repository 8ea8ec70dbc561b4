"""The operation of a request, in terms that all three protocols share, and its record for the
judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

WRITES: Final = frozenset({"put", "part", "begin", "complete", "move", "delete", "abort", "mkcol"})


@dataclass(frozen=True, kw_only=True)
class Op:
    """A verb, and the name that it concerns; `number` is that of a part or of a page."""

    kind: str
    name: str = ""
    upload: str = ""
    number: int = 0
    version: str = ""
    """The id of the requested version, if the store keeps several."""


@dataclass(kw_only=True)
class Sent:
    """One request as received: the `bytes` of its body, whether that was whole, and the status of
    the answer (0: none)."""

    op: Op
    status: int = 0
    bytes: int = 0
    whole: bool = True
    headers: list[tuple[str, str]] = field(default_factory=list)
