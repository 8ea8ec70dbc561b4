"""The habits: what a store does that others don't, and where that was seen.

Decided here: their names, which stores and which role have them, and which exclude one another. Never here: how a
habit shows (`serving.py`, `plain.py`, `dav.py`, `s3.py`), and what may be asked of relay under one (the judge).

`seen` names a public report, a rule of a protocol, a number F… of `simulators/faults.py`, or the server that does so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

EVERY: Final = ("http", "webdav", "s3")
BOTH: Final = ("source", "destination")
SOURCE: Final = ("source",)
DESTINATION: Final = ("destination",)


@dataclass(frozen=True, kw_only=True)
class Habit:
    """One habit. Two of one `group` are never drawn together for one store."""

    name: str
    seen: str
    stores: tuple[str, ...] = EVERY
    roles: tuple[str, ...] = BOTH
    group: str = ""


def _rows(group: str, stores: tuple[str, ...], roles: tuple[str, ...], rows: Mapping[str, str]) -> tuple[Habit, ...]:
    return tuple(Habit(name=name, seen=seen, stores=stores, roles=roles, group=group) for name, seen in rows.items())


HABITS: Final[tuple[Habit, ...]] = (
    # -- any request
    *_rows(
        "trouble",
        EVERY,
        BOTH,
        {
            "busy-503": "F24, F40: the first request of a kind for an object is answered 503 with Retry-After: 0",
            "busy-429": "F24: the same with 429, and no Retry-After",
            "error-500": "F40: the same with 500",
            "drops": "F34, F56: the connection is closed before the request is done",
            "hangs": "F23: the first request of a kind for an object is never answered",
        },
    ),
    *_rows("lost", EVERY, BOTH, {"answer-lost": "F38: a request is done, and its answer lost"}),
    *_rows(
        "idle", EVERY, BOTH, {"closes-each": "F56: each connection is closed after one answer, without a word of it"}
    ),
    # -- HEAD
    *_rows(
        "head",
        ("http", "webdav"),
        BOTH,
        {
            "head-403": "presigned URLs: HEAD is refused with 403, GET is not",
            "head-405": "RFC 9110 section 15.5.6: a server that has no HEAD",
            "head-500": "small servers that only know GET",
            "head-404": "duckdb/duckdb-httpfs#48, NuGet/NuGetGallery#393: HEAD 404, GET 200",
            "head-drops": "Homebrew/legacy-homebrew#40897: the connection is closed at a HEAD",
            "head-hangs": "rbsec/headerget#1: HEAD is never answered",
            "head-zero": "servers that tell Content-Length: 0 to each HEAD",
            "head-no-length": "RFC 9110 section 8.6: a HEAD may leave the length out",
        },
    ),
    *_rows(
        "size", ("http", "webdav", "s3"), SOURCE, {"head-short": "F10: HEAD tells fewer bytes than GET sends, chunked"}
    ),
    # -- what is told of an object
    *_rows(
        "tag",
        ("http", "webdav"),
        BOTH,
        {
            "tag-none": "F14: no entity tag",
            "tag-weak": "F14, nginx with gzip: weak entity tags",
            "tag-unquoted": "servers that leave the quotes out (RFC 9110 section 8.8.3 wants them)",
            "tag-long": "version ids of 1,024 bytes: a tag of 300 characters",
            "tag-changing": "load balancers over servers that count inodes: each answer has another tag",
        },
    ),
    *_rows(
        "date",
        ("http", "webdav"),
        BOTH,
        {
            "date-none": "no Last-Modified",
            "date-odd": "RFC 5322 '-0000', hours of 99: dates that Python's parser raises TypeError or ValueError for",
        },
    ),
    # -- preconditions
    *_rows(
        "conditions",
        EVERY,
        BOTH,
        {"conditions-ignored": "nginx, http.server, older MinIO: If-Match and If-None-Match are passed over"},
    ),
    *_rows(
        "conditions",
        ("s3",),
        DESTINATION,
        {"conditions-501": "Ceph, R2 of old: If-None-Match is answered 501 NotImplemented"},
    ),
    # -- ranges and framings of GET
    *_rows("ranges", ("http", "webdav"), SOURCE, {"range-ignored": "F11: a range is answered 200, with all of it"}),
    *_rows(
        "framing",
        ("http", "webdav"),
        BOTH,
        {
            "chunked": "RFC 9112 section 7.1: objects come chunked, without a length",
            "until-close": "RFC 9112 section 6.3: objects come without a length, and end with the connection",
        },
    ),
    *_rows("cut", EVERY, BOTH, {"get-cut": "F01, F02: the first GET of an object ends in its middle"}),
    # -- the source's objects
    *_rows(
        "changes",
        EVERY,
        SOURCE,
        {
            "source-changes": "F13: an object becomes another version while it is read",
            "source-vanishes": "an object is gone between the listing and its GET",
        },
    ),
    # -- what becomes of an upload
    *_rows(
        "storage",
        EVERY,
        DESTINATION,
        {
            "flips-once": "F36: the first upload of an object is stored with a byte changed",
            "flips": "F36, F52: each upload of some objects is stored with a byte changed",
            "short-once": "F35: the first upload of an object is stored without its end",
            "vanishes": "F37: the first upload of an object is acknowledged, and never stored",
        },
    ),
    *_rows(
        "visibility",
        EVERY,
        DESTINATION,
        {
            "stale": "nginx open_file_cache, CDNs: after an overwrite the old object is shown for a while",
            "late": "F37: a new object shows after a while",
        },
    ),
    *_rows(
        "pieces", ("http",), DESTINATION, {"keeps-piece": "F50, WsgiDAV: a broken PUT leaves what came at the name"}
    ),
    *_rows(
        "delete",
        EVERY,
        DESTINATION,
        {"delete-403": "Object Lock, PUT-only tokens: DELETE is refused", "delete-405": "servers without DELETE"},
    ),
    # -- names
    *_rows("names", ("http", "webdav"), DESTINATION, {"folds-case": "Windows, macOS, SMB: names differ in case alone"}),
    *_rows(
        "hidden",
        ("http", "webdav"),
        DESTINATION,
        {"hides-names": "nginx, Apache IndexIgnore: dot names are not listed"},
    ),
    # -- another writer
    *_rows(
        "other",
        EVERY,
        DESTINATION,
        {
            "other-before": "F44: somebody writes the name between relay's look and its upload",
            "other-after": "F45: somebody writes the name between relay's upload and its proof",
        },
    ),
    # -- folders and listings
    *_rows(
        "folder",
        ("http",),
        DESTINATION,
        {
            "folder-404": "sonatype/docker-nexus3#8: a server that takes PUT and lists nothing answers 404",
            "folder-403": "nginx without autoindex",
            "folder-500": "a listing that breaks",
            "folder-page": "a folder with an index.html of its own",
        },
    ),
    *_rows(
        "listing",
        EVERY,
        BOTH,
        {
            "list-503-once": "go-to-k/cls3#178, minio/minio#10818: each page of a listing is refused once",
            "list-cut": "p27, own: each page of a listing is cut in its middle, and ends with the connection",
            "list-error": "boto/botocore#298, mldbai/mldb#322: an error document, or a login page, with 200",
            "list-repeats": "entries that stand twice",
        },
    ),
    *_rows("subfolder", ("http", "webdav"), SOURCE, {"subfolder-403": "rclone/rclone#1101: a folder may not be read"}),
    *_rows("ghosts", EVERY, SOURCE, {"list-ghost": "an entry of something that is not there any more"}),
    *_rows("sizes", EVERY, SOURCE, {"list-bad-size": "listing_sizes: a size of ², 10^22, or none"}),
    # -- S3
    *_rows(
        "trailers",
        ("s3",),
        DESTINATION,
        {
            "trailers-501": "F54: older servers refuse a checksum behind the bytes with 501",
            "trailers-401": "amd/gaia#3029: R2 refuses it with 401 Unauthorized",
            "trailers-400": "boto/botocore#3352: Qumulo refuses it with 400 AuthorizationHeaderMalformed",
            "trailers-stored": "nanio: the coding of the trailer is stored with the bytes",
            "trailers-unheard": "rclone serve s3: the trailer is taken and not compared, no checksum is told",
        },
    ),
    *_rows(
        "multipart",
        ("s3",),
        DESTINATION,
        {
            "upload-gone": "F43: a lifecycle rule has thrown the upload away before it is completed",
            "complete-error": "F39: Complete answers 200 and an error, once",
            "part-damaged": "F41: a part is stored damaged, once",
            "parts-swapped": "F42: the parts are put together in another order, once",
            "begin-plain": "F54: CreateMultipartUpload with a checksum of the whole is refused",
        },
    ),
    # -- WebDAV
    *_rows(
        "moves",
        ("webdav",),
        DESTINATION,
        {
            "move-502": "mar10/wsgidav#183: MOVE to a whole URL is answered 502 behind a proxy",
            "parts-refused": "nextcloud/server#49916: names that end in .part are refused",
            "locked": "F49: a name is locked, once (423)",
        },
    ),
)
"""Every habit."""

BY_NAME: Final[Mapping[str, Habit]] = {habit.name: habit for habit in HABITS}
assert len(BY_NAME) == len(HABITS), "two habits have one name"


def habits_of(store: str, role: str) -> tuple[Habit, ...]:
    """Return those that a store of this kind may have in this role."""
    return tuple(habit for habit in HABITS if store in habit.stores and role in habit.roles)
