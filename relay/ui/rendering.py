"""Pages as answers: the templates, and the headers that every answer of the page has.

The policy allows scripts, styles and requests of this origin only, and no script may turn text
into HTML (W3C, "Content Security Policy Level 3"; "Trusted Types"). Templates escape everything,
and what they print has its control and bidi characters as escapes; the values of forms are exact.

A page is rendered in pieces, between which other greenlets run (`relay/api/hub_pauses.py`).
Templates import their macros without their own values: a module of macros with values would be made
for each page, in a cycle with all that the page shows, which only the garbage collector frees.
Never here: which page answers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import Response, request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from relay import __version__
from relay.api.hub_pauses import HubPauses
from relay.ui import figures, words
from relay.ui.assets import assets
from relay.ui.printable import bdi_of, exact, visible
from relay.wire.yielding import yield_to_hub

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""The headers of every answer of the page."""
UNCACHED: Final[Mapping[str, str]] = {"Cache-Control": "no-store"}
SHARED: Final = ("_parts.html", "base.html")
"""The templates that the others use."""


@cache
def environment() -> Environment:
    """Return the templates."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        bdi=bdi_of,
        exact=exact,
        count=figures.count,
        size=figures.size,
        duration=figures.duration,
        plural=figures.plural,
        moment=_moment,
    )
    made.globals.update(words=words, version=__version__, assets=assets())
    return made


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Return a page that no cache keeps. `values` are the template's."""
    for shared in SHARED:
        _template(shared)
    pieces = _template(template).generate(root=root(), **values)
    text = "".join(HubPauses().between(pieces))
    return Response(text, status=status, headers=UNCACHED, mimetype="text/html")


@cache
def _template(name: str) -> Template:
    """Return a template. The first call compiles it, which may take ten milliseconds; other
    greenlets run before that."""
    yield_to_hub()
    return environment().get_template(name)


def redirect(path: str) -> Response:
    """Return the answer after a form: the browser gets another page by GET (RFC 9110 section
    15.4.4). `path` begins below the root of the page."""
    return Response(status=303, headers={"Location": f"{root()}/{path}", **UNCACHED})


def root() -> str:
    """Return the path of the page itself, with the prefix of a proxy."""
    return f"{request.script_root}/ui"


def _finalize(value: Any) -> Any:
    """Show control and bidi characters in everything that a template prints."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _moment(seconds: float) -> Markup:
    """Return a time as HTML: in UTC, and for the script as a time that it shows in the viewer's
    zone."""
    return Markup('<time datetime="{}">{}</time>').format(
        figures.machine_stamp(seconds), figures.stamp(seconds)
    )
