"""Translate a hint that names members of a request (the API) to one that names flags of a command.

Decided here: which words of a hint are replaced when it is printed. Never here: the texts of
errors. Output for programs (`--json`) keeps the API's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_VALUES: Final = re.compile(r"'(\w+)': '(\w+)'((?:(?:,| or) '\w+')*)")
"""A member with suggested values, as in `'if_exists': 'overwrite' or 'skip'`."""
_SAID: Final[Sequence[tuple[re.Pattern[str], str]]] = tuple(
    (re.compile(api), terminal)
    for api, terminal in (
        (r"in '(?:source|destination)/headers'|in 'headers'", "in --{side}-headers-file"),
        (r"as a header: \{.*?\}\}", "in --{side}-headers-file, as 'Name: value'"),
        (r"GET /migrations, or (`relay status`),", r"\1"),
        (r", or GET /migrations,", ""),
        (r", or POST …/\w+", ""),
        (r"GET …/reasons lists", "`relay status ID` lists"),
        (r"\(-r, `recursive`\)", "(-r)"),
        (r", or GET \S+/transfers", ""),
        (r"POST /migrate something new", "begin a new migration"),
        (r" with POST /migrate", " with `relay migrate`"),
        (r" in the terminal, or without `recursive` in a request", ""),
        (r", or `recursive` in a request|, `recursive` in a request", ""),
        (r"; /openapi\.json describes its members", "; `relay migrate --help` lists the options"),
        (r"; its /openapi\.json describes its requests", "; `relay --version` shows this one's"),
        (r"/openapi\.json lists the paths", "`relay --help` lists the commands"),
        (r"after the seconds that Retry-After names", "in a moment"),
        (r"Send the (?:same )?request again", "Give the same command again"),
        (r"send the request again", "give the same command again"),
        (r"a new key for a new request", "a new --key for a new migration"),
        (
            (
                r"Send it from a program \(curl, a script\), or from a page that this server itself"
                r" gave"
            ),
            "Set RELAY_URL",
        ),
    )
)
"""Phrases of the API's hints, and the terminal's phrases. `{side}` is the side of the error."""


def in_flags(hint: str, side: str | None = None) -> str:
    """Return a hint in which flags replace the members of a request."""
    for said, terminal in _SAID:
        hint = said.sub(terminal, hint)
    hint = hint.replace("{side}", side if side in ("source", "destination") else "source")
    return _VALUES.sub(_flag, hint)


def _flag(found: re.Match[str]) -> str:
    more = found[3].replace("'", "")
    return f"--{found[1].replace('_', '-')} {found[2]}{more}"
