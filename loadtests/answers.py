"""Check an answer of relay: takes its text, returns a complaint or None."""

from __future__ import annotations

import base64
import json
from typing import Any


def defect_of(status: int, text: str, size: int, there: dict[str, str] | None) -> str | None:
    """Return the defect of the answer to a migration of `size` bytes, or None.

    `there` are the fields of the destination's answer about the object, None if it does not have
    it."""
    answer = parse_object(text)
    if status != 200:
        return f"{status} {answer.get('side', '?')}: {answer.get('detail', text[:200])}"
    receipt = answer.get("receipt") or {}
    if answer.get("state") != "verified":
        return f"state {answer.get('state')}"
    if answer.get("bytes") != size or there is None or there.get("content-length") != str(size):
        return (
            f"{answer.get('bytes')} of {size} bytes, and the destination has"
            f" {(there or {}).get('content-length')}"
        )
    theirs = digest_of(there.get("repr-digest", ""))
    if not theirs or receipt.get("digests", {}).get("crc32c") != theirs:
        return (
            f"receipt says crc32c {receipt.get('digests', {}).get('crc32c')}, the destination"
            f" {theirs}"
        )
    return None


def wrong_refusal(status: int, kind: str, text: str, side: str, there: bool) -> str | None:
    """Return the defect of the refusal of an impossible migration, or None for a right one."""
    answer = parse_object(text)
    if status < 400:
        return f"answered {status} {answer.get('state')} where it must refuse"
    if not kind.startswith("application/problem+json") or not answer.get("detail"):
        return f"{status} is not a problem document: {text[:200]}"
    if answer.get("side") != side:
        return f"blames {answer.get('side')} where {side} failed: {answer.get('detail')}"
    return (
        f"refused ({answer.get('detail')}), and left an object at the destination"
        if there
        else None
    )


def parse_object(text: str) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def digest_of(field: str) -> str | None:
    """Return the hex crc32c of a Repr-Digest field (RFC 9530 section 3)."""
    for member in field.split(","):
        name, _, value = member.strip().partition("=:")
        if name == "crc32c":
            return base64.b64decode(value.rstrip(":")).hex()
    return None
