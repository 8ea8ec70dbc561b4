"""Requests that a page of another site makes a browser send: none of them changes anything, and
none of them reads data.

A browser names the origin of a request (`Origin`, RFC 6454 section 7; `Sec-Fetch-Site`, W3C Fetch
Metadata). CORS alone does not help: a form is sent without a preflight. A cookie's SameSite does
not help either, because all ports of one host are one site.

The checks of a change, in this order:

1. The Host is that of RELAY_PUBLIC_URL for a session, and names loopback without tokens (which
   prevents DNS rebinding). A bearer token may come under any Host: no browser adds one by itself.
2. `Sec-Fetch-Site`, if it is sent, is `same-origin`.
3. `Origin`, if it is sent, is ours; `null` is not, except beside that. Browsers send no
   Sec-Fetch-Site to plain HTTP beyond loopback.
4. Neither is sent: programs do that, browsers with a session do not.
5. A session's request has the session's CSRF token, in its form or in X-Relay-CSRF.
6. The body of a change is JSON, except where a page takes a form.

A GET that another site causes is answered only if it opens a page in a window of its own.

Decided here: these checks. Never here: who the caller is (`auth.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from relay.api.access import Access
from relay.api.proxies import ClientView, PublicUrl
from relay.api.strict_json import check_media_type
from relay.errors import Forbidden
from relay.hosts import is_loopback

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]+)?", re.I)
_ORIGIN = re.compile(r"(https?)://([^/@?#,\s]+)", re.I)
_HINT: Final = (
    "Send it from a program (curl, a script), or from a page that this server itself gave."
)


class Credential(StrEnum):
    """How a request shows who sent it."""

    BEARER = "bearer"
    COOKIE = "cookie"
    NONE = "none"


def check_origin(
    environ: Mapping[str, Any],
    client: ClientView,
    public: PublicUrl | None,
    credential: Credential,
    access: Access,
) -> None:
    """Raise Forbidden for a request that a page of another site may have caused: checks 1 to 4, and
    the rule for reads."""
    if credential is Credential.COOKIE:
        _check_session_host(client, public)
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if environ.get("REQUEST_METHOD", "GET") in SAFE_METHODS:
        _check_read(environ, site, access)
        return
    if site is not None and site.strip().lower() != "same-origin":
        raise Forbidden.cross_site("a page of another site sent this request", hint=_HINT)
    origin = environ.get("HTTP_ORIGIN")
    # A form of a page without referrers, as relay's own are, names no origin (Fetch, "append a
    # request `Origin` header"). The browser has said that it is ours; a sandboxed frame is not.
    if site is not None and origin == "null":
        return
    if origin is not None and not _is_ours(origin, client, public, credential):
        raise Forbidden.cross_site("a page of another origin sent this request", hint=_HINT)
    if site is None and origin is None and credential is Credential.COOKIE:
        raise Forbidden.cross_site("a request with a session names no origin", hint=_HINT)


def check_body(environ: Mapping[str, Any], access: Access) -> None:
    """Raise UnsupportedMediaType for a change of the API whose body is not JSON: check 6."""
    if environ.get("REQUEST_METHOD", "GET") not in SAFE_METHODS and not access.is_page:
        check_media_type(environ)


def names_loopback(host: str) -> bool:
    """Return whether a Host names this machine's loopback, with or without a port."""
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1])


def _check_session_host(client: ClientView, public: PublicUrl | None) -> None:
    if client.host == public.host if public else names_loopback(client.host):
        return
    hint = "Open the page at the address that RELAY_PUBLIC_URL names."
    raise Forbidden.cross_site("a session came under another Host", hint=hint)


def _check_read(environ: Mapping[str, Any], site: str | None, access: Access) -> None:
    """Raise Forbidden for a GET that another site caused, unless a browser opens a page with it:
    not in a frame, and not to use the answer as a script, a picture or data."""
    if site is None or site.strip().lower() in ("same-origin", "none"):
        return
    opens = (
        access.is_page
        and environ.get("HTTP_SEC_FETCH_MODE", "").strip().lower() == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST", "").strip().lower() == "document"
    )
    if not (opens or access.is_probe):
        raise Forbidden.cross_site("a page of another site sent this request", hint=_HINT)


def _is_ours(
    origin: str, client: ClientView, public: PublicUrl | None, credential: Credential
) -> bool:
    """Return whether an Origin is that of our own pages: of RELAY_PUBLIC_URL, else of the Host. A
    proxy may add TLS, so the scheme of the Host is not known."""
    named = _ORIGIN.fullmatch(origin.strip())
    if named is None:
        return False
    if public is not None and origin.strip().lower() == public.origin:
        return True
    if public is not None and credential is Credential.COOKIE:
        return False
    return bool(client.host) and named[2].lower() == client.host
