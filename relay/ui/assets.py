"""The files that pages load: styles, scripts, the icon, licences. Each name has the hash of its
content, so that a browser may keep a file for ever and still gets a changed one at once.

Never here: their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).with_name("static")
TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""The media types, by the end of a name."""
APPENDED: Final[Mapping[str, str]] = {"relay.css": "uplot.css"}
"""Files that are served as the end of another one: each request costs a page a round trip."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file: the name under which it is served, its bytes and its media type."""

    name: str
    content: bytes
    kind: str


@cache
def assets() -> Mapping[str, Asset]:
    """Return every asset by the name of its file."""
    parts = APPENDED.values()
    return {
        path.name: _asset(path)
        for path in sorted(FOLDER.iterdir())
        if path.suffix in TYPES and path.name not in parts
    }


@cache
def served_assets() -> Mapping[str, Asset]:
    """Return every asset by the name under which it is served."""
    return {asset.name: asset for asset in assets().values()}


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    if path.name in APPENDED:
        content += path.with_name(APPENDED[path.name]).read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Asset(
        name=f"{path.stem}.{digest}{path.suffix}", content=content, kind=TYPES[path.suffix]
    )
