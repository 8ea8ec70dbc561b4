"""Which operation of the API needs which scope: one row for each rule and method of the URL map.
The page has a table of its own (`relay/ui/routes.py`).

A test fails for a rule without a row; such a rule needs `admin`.

Decided here: the table. Never here: how a caller's scopes are found (`auth.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.ledger.states import MigrationVerb
from relay.ledger.token_values import Scope


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use one operation."""

    scope: Scope | None
    """The scope that a caller needs; None where it needs no token."""
    is_page: bool = False
    """Whether it answers with HTML for a browser's window, and takes forms. All others answer with
    data and take JSON."""
    refusal: str = ""
    """The detail of the refusal of a smaller scope, if it has its own."""
    is_probe: bool = False
    """Whether it answers any address under any name: it is asked by machines, and changes
    nothing."""


HEALTH_PATH: Final = "/healthz"
METRICS_PATH: Final = "/metrics"
_READ: Final = Access(scope=Scope.READ)
_SUBMIT: Final = Access(scope=Scope.SUBMIT)
_ADMIN: Final = Access(scope=Scope.ADMIN)
_PROBE: Final = Access(scope=None, is_probe=True)

ACCESS: Final[Mapping[tuple[str, str], Access]] = {
    # It leads browsers to the page, where they sign in; the view checks the scope of all others.
    ("GET", "/"): Access(scope=None, is_page=True),
    ("GET", HEALTH_PATH): _PROBE,
    ("GET", "/readyz"): _PROBE,
    ("GET", "/openapi.json"): _READ,
    ("GET", METRICS_PATH): Access(scope=Scope.ADMIN, refusal="the metrics are of all tenants"),
    ("POST", "/migrate"): _SUBMIT,
    ("GET", "/migrations"): _READ,
    ("GET", "/migrations/<id>"): _READ,
    ("PATCH", "/migrations/<id>"): _SUBMIT,
    ("GET", "/migrations/<id>/transfers"): _READ,
    ("GET", "/migrations/<id>/reasons"): _READ,
    ("GET", "/migrations/<id>/events"): _READ,
    ("GET", "/migrations/<id>/passes"): _READ,
    ("GET", "/migrations/<id>/feed"): _READ,
    ("GET", "/migrations/<id>/forecast"): _READ,
    ("POST", "/migrations/<id>/acknowledge"): _SUBMIT,
    ("POST", "/migrations/<id>/abort"): _SUBMIT,
    ("POST", "/migrations/<id>/reopen"): _SUBMIT,
    ("POST", "/migrations/<id>/finish"): _SUBMIT,
    ("POST", "/plans"): _SUBMIT,
    ("GET", "/plans"): _READ,
    ("GET", "/plans/<plan>"): _READ,
    ("DELETE", "/plans/<plan>"): _SUBMIT,
    ("POST", "/plans/<plan>/cancel"): _SUBMIT,
    ("POST", "/plans/<plan>/again"): _SUBMIT,
    ("POST", "/plans/<plan>/start"): _SUBMIT,
    **{
        ("POST", f"/migrations/<id>/{verb}"): _SUBMIT
        for verb in (
            MigrationVerb.PAUSE,
            MigrationVerb.RESUME,
            MigrationVerb.CANCEL,
            MigrationVerb.RETRY,
        )
    },
}


def access_of(
    method: str, rule: str | None, table: Mapping[tuple[str, str], Access] = ACCESS
) -> Access:
    """Return who may use the operation of a rule of the URL map; None is a path without one. A
    caller needs some token for that too: a stranger learns nothing from a 404."""
    if rule is None:
        return _READ
    # Flask's view of GET answers HEAD too.
    return table.get(("GET" if method == "HEAD" else method, rule), _ADMIN)
