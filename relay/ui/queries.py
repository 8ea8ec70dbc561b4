"""Read the query of a page's URL, and write that of a link."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlencode

from flask import request

from relay.errors import InvalidType, UnknownMember


def check_query(known: Collection[str]) -> None:
    """Raise UnknownMember for a query parameter that a page does not have, and InvalidType for a
    repeated one: both would be ignored otherwise. Raise InvalidType for a NUL, which PostgreSQL
    refuses."""
    for name, values in request.args.lists():
        if name not in known:
            raise UnknownMember(
                f"{name[:100]!a} is not a query parameter here", hint="Follow a link of the page."
            )
        if len(values) > 1:
            raise InvalidType(f"the query parameter {name!a} is repeated", hint="Send it once.")
        if "\0" in values[0]:
            raise InvalidType(f"the query parameter {name!a} has a NUL", hint="Leave it out.")


def link_query(members: Mapping[str, Any]) -> str:
    """Return the query of a link with these members, '' if there are none."""
    return f"?{urlencode(members)}" if members else ""


def number_in_query(name: str) -> int | None:
    """Return a query parameter as a number from 1, or None if it is absent. Raises InvalidType."""
    text = request.args.get(name)
    return None if text is None else number_of(text, name)


def name_of(text: str, name: str) -> str:
    """Return a text as the name of a migration: `7`, or `acme:7`. Raises InvalidType, which calls
    it `name`."""
    tenant, colon, number = text.rpartition(":")
    number_of(number, name)
    if colon and not (0 < len(tenant) <= 64 and tenant.isascii() and tenant.isprintable()):
        raise InvalidType(f"{name} does not name a migration", hint="Follow a link of the page.")
    return text


def number_of(text: str, name: str) -> int:
    """Return a text as a number from 1. Raises InvalidType, which calls it `name`."""
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) >= 1):
        raise InvalidType(f"{name} is not a number from 1 on", hint="Follow a link of the page.")
    return int(text)
