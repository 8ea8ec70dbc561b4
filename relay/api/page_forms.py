"""Read the form of a page's request, within the limits of every request body.

werkzeug alone would wait for a slow body as long as bytes arrive. The bytes are read here first,
for the CSRF token in them; the page then reads them again from memory."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any, Final
from urllib.parse import parse_qsl

from relay.api.strict_json import announced_length, read_body
from relay.errors import MalformedRequest, UnsupportedMediaType

FIELDS: Final = 1000
"""Fields of one form."""
OPEN_BYTES: Final = 8 << 10
"""Maximum length of a form that needs no token, in bytes: the sign-in. Strangers could fill the
memory with longer ones, many at a time."""
_MEDIA_TYPE = re.compile(r"application/x-www-form-urlencoded\s*(?:;.*)?", re.I)


def buffer_form(environ: dict[str, Any], limit_bytes: int, seconds: float) -> bytes:
    """Read the form of a request into memory, and return it. Raises a RequestError:
    UnsupportedMediaType for a body of another type, RequestTooLarge, RequestTimeout."""
    if announced_length(environ) == 0:
        return b""
    if not _MEDIA_TYPE.fullmatch(environ.get("CONTENT_TYPE", "").strip()):
        raise UnsupportedMediaType(
            "the Content-Type is not application/x-www-form-urlencoded",
            hint="Send the fields of a form, as a browser does.",
        )
    raw = read_body(environ, limit_bytes, seconds)
    environ["wsgi.input"] = BytesIO(raw)
    environ["CONTENT_LENGTH"] = str(len(raw))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return raw


def field_of(form: bytes, name: str) -> str:
    """Return the first field of a form with this name, '' without one. Raises MalformedRequest for
    too many fields."""
    try:
        pairs = parse_qsl(form.decode("ascii", "replace"), max_num_fields=FIELDS)
    except ValueError:
        raise MalformedRequest(f"the form has more than {FIELDS} fields") from None
    return next((value for other, value in pairs if other == name), "")
