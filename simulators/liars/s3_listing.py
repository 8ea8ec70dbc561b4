"""The listings of a lying S3: ListObjectsV2, ListParts and ListMultipartUploads, three names a
page.

Decided here: pages, and their defects. Never here: which objects exist (`stored_objects.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from simulators.answer import Answer, End, Text
from simulators.liars.stored_objects import Held, Upload
from simulators.liars.unsafe import note

if TYPE_CHECKING:
    from simulators.liars.operations import Op
    from simulators.liars.s3 import S3Liar

PAGE: Final = 3
OPEN: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
SPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
ERROR: Final = (
    "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
)


def answer_listing(liar: S3Liar, op: Op, query: Mapping[str, str]) -> Answer:
    """Answer ListObjectsV2."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    # A token has the number of its page and the last name of the page before.
    after = query.get("continuation-token", "").partition(":")[2] or query.get("start-after", "")
    old = liar.store_habits.does("list-v1")
    after = query.get("marker", "") if old else after
    rows = [row for row in _rows(liar, prefix, delimiter) if row > after]
    size = min(PAGE, int(query.get("max-keys") or PAGE))
    shown, more = rows[:size], len(rows) > size
    end = rows[size - 1] if more else ""
    if len(shown) > 1 and liar.store_habits.does("list-unsorted"):
        shown = shown[::-1]
    if (op.number > 0 or not more) and liar.store_habits.does("list-error"):
        return _xml(OPEN + ERROR)
    if liar.store_habits.does("list-repeats"):
        shown = [name for row in shown for name in (row, row)]
    text = (
        f"{OPEN}<ListBucketResult"
        f' xmlns="{SPACE}"><Name>bucket</Name><Prefix>{quote(prefix)}</Prefix>'
    )
    text += f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{size}</MaxKeys><EncodingType>url</EncodingType>"
    text += f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
    if more and not old and not liar.store_habits.does("list-endless"):
        text += f"<NextContinuationToken>{op.number + 1}:{escape(end)}</NextContinuationToken>"
    if liar.role == "source":
        note(liar.store_habits, liar.kind)
    code: Callable[[str], str] = quote
    if shown and not more and liar.store_habits.does("list-odd-key"):
        code = _escape_name
        text = text.replace("<EncodingType>url</EncodingType>", "")
        text += "<Contents><Key>odd&#1;.txt</Key><Size>3</Size></Contents>"
    text += "".join(_row(liar, row, delimiter, code) for row in shown)
    answer = _xml(text + "</ListBucketResult>")
    if shown and liar.store_habits.does("list-cut"):
        answer.framing, answer.body, answer.after = (
            "close",
            [Text(text[:-20].encode())],
            [End("finish")],
        )
    return answer


def _rows(liar: S3Liar, prefix: str, delimiter: str) -> list[str]:
    names: set[str] = set()
    every = [*liar.shelf.names(), *(["ghost.bin"] if liar.store_habits.does("list-ghost") else [])]
    for name in every:
        if name.startswith(prefix) and (
            name == "ghost.bin" or liar.visible_object(name) is not None
        ):
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            names.add(name if end < 0 else name[: end + 1])
    return sorted(names, key=str.encode)


def _row(liar: S3Liar, name: str, delimiter: str, code: Callable[[str], str]) -> str:
    if delimiter and name.endswith(delimiter):
        return f"<CommonPrefixes><Prefix>{code(name)}</Prefix></CommonPrefixes>"
    held = liar.visible_object(name) or Held(
        data=b"123456789", by="source", serial=0, modified=0.0, at=0.0
    )
    size = str(len(held.data))
    if liar.store_habits.picks("list-bad-size", name):
        size = ("²", "9" * 23, "")[int(liar.store_habits.roll("size", name) * 3)]
    when = datetime.fromtimestamp(held.modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{code(name)}</Key><LastModified>{when}</LastModified>"
        f"<ETag>{escape(liar.tag(held) or '')}</ETag><Size>{size}</Size></Contents>"
    )


def _escape_name(name: str) -> str:
    return "".join(f"&#{ord(char)};" if char < " " else escape(char) for char in name)


def answer_list_parts(upload: Upload) -> Answer:
    """Answer ListParts."""
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag>"
        f"<Size>{len(data)}</Size></Part>"
        for number, data in sorted(upload.parts.items())
    )
    return _xml(
        f"{OPEN}<ListPartsResult><UploadId>{upload.id}</UploadId><IsTruncated>false</IsTruncated>{rows}</ListPartsResult>"
    )


def answer_list_uploads(liar: S3Liar, query: Mapping[str, str]) -> Answer:
    """Answer ListMultipartUploads."""
    prefix = query.get("prefix", "")
    rows = "".join(
        _upload(one) for one in _open(liar.shelf.uploads.values()) if one.name.startswith(prefix)
    )
    return _xml(
        f"{OPEN}<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{rows}</ListMultipartUploadsResult>"
    )


def _open(uploads: Iterable[Upload]) -> list[Upload]:
    return [one for one in uploads if one.state == "open"]


def _upload(one: Upload) -> str:
    when = datetime.fromtimestamp(one.begun, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return f"<Upload><Key>{escape(one.name)}</Key><UploadId>{one.id}</UploadId><Initiated>{when}</Initiated></Upload>"


def _xml(text: str) -> Answer:
    return Answer(200, [("Content-Type", "application/xml")], [Text(text.encode())])
