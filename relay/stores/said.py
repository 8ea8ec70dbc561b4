"""What a store says of a refusal, in its own words, where relay knows no better ones.

Decided here: where in an answer's text the words are, and that they are short, printable, and without a query, which
may be a signature. Never here: what a refusal means.
"""

from __future__ import annotations

import json
import re
from typing import Final
from xml.etree.ElementTree import Element, ParseError, fromstring

from relay.wire.http1 import Head

TOLD_CHARACTERS: Final = 200
"""How much of a store's message is shown."""
_TEXTUAL: Final = ("xml", "json", "text/plain")
_QUERY: Final = re.compile(r"[?&;][^\s?]*=[^\s]*")


def speaks(head: Head) -> bool:
    """Say if an answer may have words of its own; pages for people have none that are short."""
    kind = (head.get("content-type") or "").lower()
    return any(one in kind for one in _TEXTUAL) or (not kind and head.get("content-length") != "0")


def words(text: str) -> str:
    """Return the code and the message of an answer's text; empty where there are none.

    Understood are the errors of S3 and of all that is like it, of Azure and Google (`Code`, `Message`), of WebDAV
    (RFC 4918 section 16, and sabre's `message`), and problems in JSON (RFC 9457, and `error` with its `message`).
    """
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        return _shown(*_of_xml(text))
    if text.startswith("{"):
        return _shown(*_of_json(text))
    return _shown(text.partition("\n")[0]) if text and len(text) <= TOLD_CHARACTERS else ""


def _shown(*parts: str) -> str:
    """Return what is there of these, fit for a message."""
    plain = ("".join(c for c in " ".join(part.split()) if c.isprintable()) for part in parts)
    told = ": ".join(dict.fromkeys(_QUERY.sub("?…", part) for part in plain if part))
    return told if len(told) <= TOLD_CHARACTERS else f"{told[:TOLD_CHARACTERS]}…"


def _of_xml(text: str) -> tuple[str, ...]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return ()
    try:
        root: Element = fromstring(text)
    except (ParseError, ValueError):
        return ()
    if not any(root.tag.rpartition("}")[2].lower() == one for one in ("error", "errorresponse")):
        return ()
    texts = [next((found.text or "" for found in root.iterfind(f".//{{*}}{name}")), "") for name in ("Code", "Message")]
    sabre = root.findtext("{*}message") or ""
    if any((*texts, sabre)):
        return (*texts, sabre)
    return tuple(child.tag.rpartition("}")[2] for child in list(root)[:1])


def _of_json(text: str) -> tuple[str, ...]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    inner = told.get("error") if isinstance(told, dict) else None
    every = {**told, **inner} if isinstance(inner, dict) else told
    if not isinstance(every, dict):
        return ()
    return tuple(
        value for name in ("title", "code", "error", "detail", "message") if isinstance(value := every.get(name), str)
    )
