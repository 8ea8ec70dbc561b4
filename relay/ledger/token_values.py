"""What a token permits: its scopes and its limits, as plain values.

Never here: how tokens are stored (`tokens.py`), and which operation needs which scope
(`relay/api/`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final


class Scope(StrEnum):
    """What a token may do; each contains the one before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    @property
    def with_smaller(self) -> frozenset[Scope]:
        """This scope and every smaller one."""
        return frozenset(_ASCENDING[: _ASCENDING.index(self) + 1])


_ASCENDING: Final = (Scope.READ, Scope.SUBMIT, Scope.ADMIN)
EVERY_SCOPE: Final = Scope.ADMIN.with_smaller


@dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """The limits of one token; None is unlimited, except where a member says otherwise."""

    slots: int | None = None
    """Concurrent transfers of all its migrations."""
    bytes_per_second: int | None = None
    bytes_per_day: int | None = None
    migrations: int | None = None
    """Migrations that have not ended."""
    requests_per_second: int | None = None
    """Requests to this server; twice as many may come at once. None is the default rate."""
    remotes: tuple[str, ...] | None = None
    """Patterns of `remote:path` that it may name, `*` for any text; None is every remote."""
    hosts: tuple[str, ...] | None = None
    """Patterns of hosts that it may name, in addition to the server's own policy of addresses."""
    local: bool = False
    """Whether it may name folders of the server's machine."""

    def to_json(self) -> dict[str, Any]:
        """Return the limits that differ from the defaults, as members of JSON."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        lists = {name: list(value) for name, value in known.items() if isinstance(value, tuple)}
        return {name: value for name, value in known.items() if value not in (None, False)} | lists

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> TokenLimits:
        """Return the limits that `to_json` gave; members of a newer relay are left out."""
        names = {one.name for one in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in members.items()
            if name in names
        }
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TokenHolder:
    """The token whose request begins a migration."""

    token_id: str
    migrations: int | None = None
    """As in TokenLimits."""
    bytes_per_day: int | None = None


NO_LIMITS: Final = TokenLimits(local=True)
"""The limits of a caller without a token of the ledger: whoever starts the server decides."""
