"""Read the form of a POST: each field once, no unknown field, within the limits of a request body.

Decided here: what a well-formed form is. Never here: the meaning of fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl

from flask import request

from relay.api.strict_json import read_body
from relay.config import Settings
from relay.errors import InvalidType, MalformedRequest, UnknownMember, UnsupportedMediaType

FORM: Final = "application/x-www-form-urlencoded"
CSRF: Final = "csrf"
"""The hidden field of every form, with the token of the session."""
FIELDS: Final = 100
"""Maximum number of fields of a form."""


def read_form(settings: Settings, known: Collection[str]) -> Mapping[str, str]:
    """Return the fields of the request's form. Raises a RequestError."""
    if request.mimetype and request.mimetype != FORM:
        raise UnsupportedMediaType(f"the Content-Type is not {FORM}", hint="Send the form itself.")
    raw = read_body(request.environ, settings.request_bytes, settings.request_seconds)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS
        )
    except ValueError:
        raise MalformedRequest("the form is not URL-encoded UTF-8", hint="Send it again.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in known and name != CSRF:
            raise UnknownMember(
                f"{name[:100]!a} is not a field of this form", hint="Load it again."
            )
        if name in fields:
            raise InvalidType(f"the field {name!a} is repeated", hint="Send it once.")
        if "\0" in value:
            raise InvalidType(f"the field {name!a} has a NUL", hint="Leave it out.")
        fields[name] = value
    return fields


def require_choice(fields: Mapping[str, str], name: str, choices: Collection[str]) -> str:
    """Return a field that must be one of some values. Raises InvalidType."""
    value = fields.get(name, "")
    if value not in choices:
        raise InvalidType(
            f"{name!a} is not one of {', '.join(sorted(choices))}",
            hint="Choose one.",
            pointer=f"/{name}",
        )
    return value
