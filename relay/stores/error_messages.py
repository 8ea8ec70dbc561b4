"""Extract a store's own error message from a refusal.

Decided here: where the message is in an answer's text, and that it is short, printable, and free of
queries, which may be signatures, and of the request's secrets. Never here: what a refusal means."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from contextlib import suppress
from typing import Final
from urllib.parse import unquote, unquote_plus
from xml.etree.ElementTree import Element, ParseError, fromstring

from relay.wire.http1 import Fields, Head

SECRET_CHARACTERS: Final = 4
"""Minimum length of a value that is hidden: a shorter secret looks like an ordinary word."""
MESSAGE_CHARACTERS: Final = 200
"""Maximum length of a store's message, in characters."""
_TEXTUAL: Final = ("xml", "json", "text/plain")
_SCHEMES: Final = frozenset({"basic", "bearer", "token", "digest", "session"})
_WORDS: Final = re.compile(r"[\s,;=]+")
_QUERY: Final = re.compile(r"([?&;][^\s?=]*+)(=\S*)?")
"""A possible query, to its first '='. A text without '=' matches too, so that each character is
scanned once."""


def secrets_of(headers: Fields, query: str) -> tuple[str, ...]:
    """Return the secrets of a request, which must not be printed if a store repeats them: the
    values of its fields, the words after a scheme's name (and the decoded password of Basic, RFC
    7617), and the values of its query."""
    found = [
        one
        for _, value in headers
        for one in (value, *_WORDS.split(value))
        if one.lower() not in _SCHEMES
    ]
    for scheme, encoded in (value.split() for _, value in headers if len(value.split()) == 2):
        if scheme.lower() == "basic":
            with suppress(ValueError):
                found.append(b64decode(encoded).decode("latin-1").partition(":")[2])
    for pair in re.split("[&;]", query):
        value = pair.partition("=")[2]
        found += (value, unquote(value), unquote_plus(value))
    return tuple(
        sorted({one for one in found if len(one) >= SECRET_CHARACTERS}, key=len, reverse=True)
    )


def hide_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """Return a store's text with each secret replaced by `…`, the longest first."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


def may_have_message(head: Head) -> bool:
    """Return whether an answer may contain an error message; web pages don't contain a short
    one."""
    kind = (head.get("content-type") or "").lower()
    return any(one in kind for one in _TEXTUAL) or (not kind and head.get("content-length") != "0")


def message_of(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return the code and the message in an answer's text, without `secrets`; empty if there are
    none.

    Supported formats: errors of S3 and compatible stores, of Azure and Google (`Code`, `Message`),
    of WebDAV (RFC 4918 section 16, and sabre's `message`), and problems in JSON (RFC 9457, and
    `error` with its `message`)."""
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        return _format(secrets, *_of_xml(text))
    if text.startswith("{"):
        return _format(secrets, *_of_json(text))
    is_message = 0 < len(text) <= MESSAGE_CHARACTERS
    return _format(secrets, text.partition("\n")[0]) if is_message else ""


def without_query(text: str) -> str:
    """Return a text without the queries of its URLs, each of which may be a signature."""
    return _QUERY.sub(lambda found: "?…" if found[2] else found[1], text)


def _format(secrets: tuple[str, ...], *parts: str) -> str:
    """Join the parts that are not empty, printable and shortened, for a message."""
    plain = ("".join(c for c in " ".join(part.split()) if c.isprintable()) for part in parts)
    text = ": ".join(
        dict.fromkeys(without_query(hide_secrets(part, secrets)) for part in plain if part)
    )
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}…"


def _of_xml(text: str) -> tuple[str, ...]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return ()
    try:
        root: Element = fromstring(text)
    except (ParseError, ValueError):
        return ()
    if not any(root.tag.rpartition("}")[2].lower() == one for one in ("error", "errorresponse")):
        return ()
    texts = [
        next((found.text or "" for found in root.iterfind(f".//{{*}}{name}")), "")
        for name in ("Code", "Message")
    ]
    sabre = root.findtext("{*}message") or ""
    if any((*texts, sabre)):
        return (*texts, sabre)
    # The name of the first child is the precondition that failed (RFC 4918 section 16).
    return tuple(child.tag.rpartition("}")[2] for child in list(root)[:1])


def _of_json(text: str) -> tuple[str, ...]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    inner = document.get("error") if isinstance(document, dict) else None
    every = {**document, **inner} if isinstance(inner, dict) else document
    if not isinstance(every, dict):
        return ()
    values = (every.get(name) for name in ("title", "code", "error", "detail", "message"))
    return tuple(value for value in values if isinstance(value, str))
