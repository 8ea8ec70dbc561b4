"""The habits: unusual behaviour of stores, and where each was observed.

Decided here: their names, which stores and which role have them, and which exclude one another.
Never here: how a habit is carried out (`base.py` and its siblings), and which rules relay must
keep under one (the judge).

`seen` names a public report, a rule of a protocol, a number F… of `simulators/faults.py`, or the
server that does so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

EVERY: Final = ("http", "webdav", "s3")
PLAIN: Final = ("http", "webdav")
HTTP: Final = ("http",)
DAV: Final = ("webdav",)
S3: Final = ("s3",)
LOCAL: Final = ("local",)
BOTH: Final = ("source", "destination")
SOURCE: Final = ("source",)
DESTINATION: Final = ("destination",)


@dataclass(frozen=True, kw_only=True)
class Habit:
    """One habit. Two of one `group` are never drawn together for one store."""

    name: str
    seen: str
    stores: tuple[str, ...]
    roles: tuple[str, ...]
    group: str
    endless: bool = False
    """No object with this habit ever arrives, so it is drawn for a share of the seeds alone
    (`tests/torture/cases.py`)."""


Rows = Mapping[str, str]

TROUBLE: Final[Rows] = {
    "busy-503": (
        "F24, F40: the first request of a kind for some objects is answered 503 with Retry-After: 0"
    ),
    "busy-429": "F24: the same with 429, and no Retry-After",
    "error-500": "F40: the same with 500",
    "denied-401": "F26, one private URL of a list: the same with 401",
    "drops": "F34, F56: the connection is closed before the request is done",
    "hangs": "F23: the first request of a kind for some objects is never answered",
}
HEAD: Final[Rows] = {
    "head-403": "presigned URLs: HEAD is refused with 403, GET is not",
    "head-404": "duckdb/duckdb-httpfs#48, NuGet/NuGetGallery#393: HEAD 404, GET 200",
    "head-405": "RFC 9110 section 15.5.6: a server that has no HEAD",
    "head-500": "small servers that only know GET",
    "head-drops": "Homebrew/legacy-homebrew#40897: the connection is closed at a HEAD",
    "head-hangs": "rbsec/headerget#1: HEAD is never answered",
    "head-zero": "servers that answer each HEAD with Content-Length: 0",
    "head-no-length": "RFC 9110 section 8.6: a HEAD may leave the length out",
}
PAGES: Final[Rows] = {
    "head-zero-page": (
        "Rack::Head, PHP: HEAD has Content-Length: 0, and GET sends the page in full, chunked"
    )
}
TAGS: Final[Rows] = {
    "tag-none": "F14: no entity tag",
    "tag-weak": "F14, nginx with gzip: weak entity tags",
    "tag-unquoted": "servers that omit the quotes (RFC 9110 section 8.8.3 requires them)",
    "tag-long": "version ids of 1,024 bytes: a tag of 340 characters",
    "tag-nodes": (
        "Apache FileETag INode, IIS metabase: two nodes have different tags, and the other node"
        " answers If-Match with 412"
    ),
    "tag-changing": "load balancers over servers with tags of inodes: each answer has another tag",
}
DATES: Final[Rows] = {
    "date-none": "no Last-Modified",
    "date-odd": (
        "RFC 5322 '-0000', hours of 99, years of 99999: Python's parser raises TypeError or"
        " ValueError"
    ),
}
FRAMINGS: Final[Rows] = {
    "chunked": "RFC 9112 section 7.1: objects are sent chunked, without a length",
    "until-close": (
        "RFC 9112 section 6.3: objects are sent without a length, and end with the connection"
    ),
    "trickles": "F84: chunks of three bytes",
    "late-end": "the last chunk is sent a while after the bytes",
}
DIGESTS: Final[Rows] = {
    "digest-sent": "RFC 9530: each answer has a digest of the object",
    "digest-long": "a digest field of 48 KB, on which a quadratic pattern takes seconds",
}
CHANGES: Final[Rows] = {
    "source-changes": "F13: an object changes while it is read",
    "source-vanishes": "an object is gone between the listing and its GET",
    "login-page": "F27: the first GET of an object is answered with a page, and 200",
}
STORAGE: Final[Rows] = {
    "flips-once": "F36: the first upload of an object is stored with a byte changed",
    "flips": "F36: each upload of some objects is stored with a byte changed",
    "mutates": "F52, SharePoint: some objects are stored with added bytes",
    "short-once": "F35: the first upload of an object is stored without its end",
    "vanishes": "F37: the first upload of some objects is acknowledged, and never stored",
    "full": "F48: some uploads are refused with 507",
    "early-2xx": "F32: the first upload of some objects is answered 201 before its bytes were read",
}
VISIBILITY: Final[Rows] = {
    "stale": "nginx open_file_cache, CDNs: after an overwrite the old object is shown for a while",
    "late": "F37: a new object becomes visible after a while",
    "negative-cache": (
        "S3 before 2020, CloudFront error caching: a 404 of HEAD or GET is repeated for a while"
        " after the upload"
    ),
    "deleted-shown": (
        "S3 before 2020, nginx open_file_cache: a deleted object is shown for a while"
    ),
}
CACHES: Final[Rows] = {
    "stale-get": "Varnish pass of HEAD: GET returns the old object for a while, HEAD does not",
    "stale-head": "nginx proxy_cache_methods HEAD: HEAD describes the old object for a while",
}
PUTS: Final[Rows] = {
    "put-202": "RFC 9110 section 15.3.3: an upload is answered 202, without a promise",
    "put-307": "F46: some uploads are redirected",
    "put-page": "an upload is answered 200, with a page",
    "digest-of-nothing": "an upload's answer has the Content-MD5 of its own, empty, content",
    "names-refused": "names with characters other than letters, digits, dots and dashes are refused",
}
NAMES: Final[Rows] = {
    "folds-case": "Windows, macOS, SMB, exFAT: names that differ only in case are the same",
    "folds-folders": "Windows, SMB: the same, and each folder is listed in one spelling",
    "folds-nfc": "macOS: the NFC and NFD forms of a name are the same",
    "folds-trailing": "Windows: dots and blanks at the end of a name are dropped",
    "folds-plus": "servers that decode '+' as a blank",
    "negotiates": (
        "httpd 2.4.71, mod_dav and mod_negotiation (MultiViews): README names README.md if README"
        " does not exist, for every method"
    ),
}
OTHERS: Final[Rows] = {
    "other-before": "F44: another writer writes the name between relay's check and its upload",
    "other-after": "F45: another writer writes the name between relay's upload and its proof",
}
FOLDERS: Final[Rows] = {
    "folder-404": "sonatype/docker-nexus3#8: a server that takes PUT and lists nothing answers 404",
    "folder-403": "nginx without autoindex",
    "folder-500": "a listing that breaks",
    "folder-page": "a folder with an index.html of its own",
}
LISTINGS: Final[Rows] = {
    "list-503-once": "go-to-k/cls3#178, minio/minio#10818: each page of a listing is refused once",
    "list-cut": (
        "HTTP/1.0 servers: each page of a listing is cut in its middle, and ends with the"
        " connection"
    ),
    "list-error": (
        "boto/botocore#298, mldbai/mldb#322: an error document, or a login page, with 200"
    ),
    "list-repeats": "repeated entries",
}
HREFS: Final[Rows] = {
    "href-url": "RFC 4918 section 8.3: links are whole URLs",
    "href-encoding": "links have another percent-encoding: lower-case digits, encoded letters",
}
INDEX_HREFS: Final[Rows] = {
    "href-absolute": "links are whole paths",
    "href-query": "links of the form ?file=NAME, which cannot be read",
    "href-bare": "a folder is linked without its slash",
}
S3_LISTINGS: Final[Rows] = {
    "list-v1": "aws/aws-sdk-php#1428: list-type=2 is ignored, pages continue by marker",
    "list-unsorted": "S3 Express: keys are unordered",
    "list-endless": "IsTruncated without a token",
    "list-odd-key": "a key with a character that XML does not allow",
}
TRAILERS: Final[Rows] = {
    "trailers-501": "F54: older servers refuse a trailing checksum with 501",
    "trailers-401": "amd/gaia#3029: R2 refuses it with 401 Unauthorized",
    "trailers-400": "boto/botocore#3352: Qumulo refuses it with 400 AuthorizationHeaderMalformed",
    "trailers-stored": "nanio: the coding of the trailer is stored with the bytes",
    "trailers-unheard": "the trailer is accepted without a comparison, and no checksum is returned",
    "checksum-echoed": (
        "rclone serve s3, ministack: a wrong checksum is accepted, and returned as the store's own"
    ),
}
MULTIPART: Final[Rows] = {
    "upload-gone": "F43: a lifecycle rule has removed the upload before it is completed",
    "complete-error": "F39: Complete answers 200 and an error, once",
    "part-damaged": "F41: one part is stored damaged",
    "part-emptied": (
        "rclone serve s3: a broken part stays a part of 0 bytes, and is never replaced"
    ),
    "parts-swapped": "F42: the parts are assembled in the wrong order, once",
    "begin-plain": "F54: CreateMultipartUpload with a checksum of the whole is refused",
}
MOVES: Final[Rows] = {
    "move-502": "mar10/wsgidav#183: MOVE to a whole URL is answered 502 behind a proxy",
    "parts-refused": "nextcloud/server#49916: names that end in .part are refused",
    "locked": "F49: some names are locked, once (423)",
    "overwrite-always": "servers that ignore Overwrite: F",
    "move-cut": "rename(2) EXDEV: a MOVE is a copy, and the first of an object loses its end",
}
PROPFIND: Final[Rows] = {
    "status-inside": "a 207 with the status 404 for the folder itself",
    "lengths-none": "RFC 4918 section 15.4: no getcontentlength",
}

VERSIONS: Final[Rows] = {
    "versioned": (
        "S3 User Guide, Versioning: a PUT adds a version, a DELETE a marker, and answers name it"
    ),
    "versions-later": (
        "S3 User Guide, Versioning turned on later: the version of a prior object is named null"
    ),
}
KEYS: Final[Rows] = {
    "key-control": "B59, B43: names with NUL, line feeds and other control characters",
    "key-backslash": "B57: names with a backslash, which Windows reads as '/'",
}
LONG_KEYS: Final[Rows] = {"key-long": "B62: a segment of 300 bytes, and a key of nearly 1,024"}
DOTS: Final[Rows] = {"key-dots": "B57, B68: names with '..' and '.', percent-encoded in links"}
S3_KEYS: Final[Rows] = {
    "key-slashes": "B57: keys that begin with '/', or have '//' in them",
    "key-marker": "S3 console: folder markers, one empty, and one with bytes",
    "key-and-folder": "S3: a key that is the folder of another",
}
LINKS: Final[Rows] = {
    "link-host": "B68: links to another host",
    "link-above": "B68, nginx and Apache ('Parent Directory'): links to the folder above",
    "link-beside": "B68: links to a folder beside this one",
    "link-password": "B41: links with a name and a password in them",
}
EXPIRY: Final[Rows] = {
    "expires-403": (
        "presigned URLs, revoked keys: after some requests credentials are refused with 403"
    )
}
PLAIN_EXPIRY: Final[Rows] = {
    "expires-401": "RFC 6750 section 3.1: after some requests the token is refused with 401"
}
S3_EXPIRY: Final[Rows] = {
    "expires-400": "AWS STS: after some requests the answer is 400 ExpiredToken"
}
FILES: Final[Rows] = {
    "file-changes": (
        "rsync --inplace -t, tar, F13: a file is written in place while it is read, and its time"
        " set back"
    ),
    "file-link-out": "minio/mc#1170: a link to a file outside of the folder",
    "file-link-loop": "ogham/exa#644: a link to itself, and one to a folder",
    "file-special": "a pipe among the files",
    "file-bytes": "B61: a name that is not UTF-8",
}
PLACES: Final[Rows] = {
    "place-file": "errno ENOTDIR: a file has the name of a needed folder",
    "place-folder": "errno EISDIR: a folder has the name of an object",
    "place-link": "cp, curl -o: the object's name is a link to a file elsewhere",
    "place-folder-link": (
        "stow, bind mounts: a folder of the destination is a link to one elsewhere"
    ),
    "place-pipe": "mkfifo(3): the object's name is a pipe",
}

_TABLE: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...], Rows], ...]] = (
    ("trouble", EVERY, BOTH, TROUBLE),
    ("lost", EVERY, BOTH, {"answer-lost": "F38: a request is carried out, and its answer is lost"}),
    (
        "idle",
        EVERY,
        BOTH,
        {"closes-each": "F56: each connection is closed after one answer, unannounced"},
    ),
    ("interim", EVERY, BOTH, {"interim": "F20, RFC 8297: a 103 precedes each answer"}),
    ("head", PLAIN, BOTH, HEAD),
    ("head", HTTP, BOTH, PAGES),
    (
        "head",
        EVERY,
        SOURCE,
        {"head-short": "F10: HEAD announces fewer bytes than GET sends, chunked"},
    ),
    ("tag", PLAIN, BOTH, TAGS),
    ("date", PLAIN, BOTH, DATES),
    (
        "conditions",
        EVERY,
        BOTH,
        {"conditions-ignored": "nginx, older MinIO: If-Match, If-None-Match are ignored"},
    ),
    (
        "conditions",
        S3,
        DESTINATION,
        {"conditions-501": "Ceph, older R2: If-None-Match is answered 501"},
    ),
    ("ranges", PLAIN, SOURCE, {"range-ignored": "F11: a range is answered 200, with all of it"}),
    ("ranges", PLAIN, SOURCE, {"range-other": "F11: a range is answered with another one"}),
    ("digests", PLAIN, BOTH, DIGESTS),
    ("redirects", HTTP, SOURCE, {"redirects": "F18: reads are redirected, to the same server"}),
    ("framing", PLAIN, BOTH, FRAMINGS),
    ("cut", EVERY, BOTH, {"get-cut": "F01, F02: the first GET of an object ends in its middle"}),
    ("changes", EVERY, SOURCE, CHANGES),
    ("storage", EVERY, DESTINATION, STORAGE),
    ("visibility", EVERY, DESTINATION, VISIBILITY),
    ("visibility", PLAIN, DESTINATION, CACHES),
    (
        "pieces",
        HTTP,
        DESTINATION,
        {"keeps-piece": "F50, WsgiDAV: a broken PUT leaves its first bytes at the name"},
    ),
    ("put", HTTP, DESTINATION, PUTS),
    (
        "delete",
        EVERY,
        DESTINATION,
        {"delete-403": "Object Lock, PUT-only tokens: DELETE is refused"},
    ),
    ("delete", EVERY, DESTINATION, {"delete-405": "servers without DELETE"}),
    ("names", PLAIN, DESTINATION, NAMES),
    (
        "hidden",
        PLAIN,
        DESTINATION,
        {"hides-names": "nginx, Apache IndexIgnore: dot names are not listed"},
    ),
    ("other", EVERY, DESTINATION, OTHERS),
    ("folder", HTTP, DESTINATION, FOLDERS),
    ("listing", EVERY, BOTH, LISTINGS),
    ("subfolder", PLAIN, SOURCE, {"subfolder-403": "rclone/rclone#1101: a folder may not be read"}),
    ("subfolder", HTTP, SOURCE, {"subfolder-page": "a subfolder has an index.html of its own"}),
    ("ghosts", EVERY, SOURCE, {"list-ghost": "an entry of an object that no longer exists"}),
    ("sizes", EVERY, SOURCE, {"list-bad-size": "a size of ², of 10^22, or none"}),
    ("hrefs", PLAIN, BOTH, HREFS),
    ("hrefs", HTTP, BOTH, INDEX_HREFS),
    ("hrefs", HTTP, BOTH, {"list-json": "Caddy: the list of a folder is JSON"}),
    ("propfind", DAV, BOTH, PROPFIND),
    ("propfind", DAV, DESTINATION, {"propfind-405": "a server without PROPFIND"}),
    ("s3-listing", S3, BOTH, S3_LISTINGS),
    (
        "clock",
        S3,
        BOTH,
        {"clock-skew": "F55: the first request is refused as RequestTimeTooSkewed"},
    ),
    ("trailers", S3, DESTINATION, TRAILERS),
    ("multipart", S3, DESTINATION, MULTIPART),
    (
        "uploads",
        S3,
        DESTINATION,
        {"other-upload": "another tool's upload to the same key is under way"},
    ),
    ("moves", DAV, DESTINATION, MOVES),
    ("versions", S3, BOTH, VERSIONS),
    ("keys", (*EVERY, *LOCAL), SOURCE, KEYS),
    ("long-keys", EVERY, SOURCE, LONG_KEYS),
    ("dots", EVERY, SOURCE, DOTS),
    ("s3-keys", S3, SOURCE, S3_KEYS),
    ("links", PLAIN, SOURCE, LINKS),
    ("expiry", EVERY, BOTH, EXPIRY),
    ("expiry", PLAIN, BOTH, PLAIN_EXPIRY),
    ("expiry", S3, BOTH, S3_EXPIRY),
    ("files", LOCAL, SOURCE, FILES),
    ("places", LOCAL, DESTINATION, PLACES),
)

_ENDLESS: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...], Rows], ...]] = (
    (
        "trouble",
        EVERY,
        BOTH,
        {
            "hangs-always": "F23: requests of a kind for some objects are never answered",
            "busy-always": "F24: requests of a kind for some objects are always answered 429",
        },
    ),
    (
        "storage",
        EVERY,
        DESTINATION,
        {"vanishes-always": "F37: uploads of some objects are acknowledged and never stored"},
    ),
)

HABITS: Final[tuple[Habit, ...]] = tuple(
    Habit(name=name, seen=seen, stores=stores, roles=roles, group=group, endless=table is _ENDLESS)
    for table in (_TABLE, _ENDLESS)
    for group, stores, roles, rows in table
    for name, seen in rows.items()
)
"""Every habit."""
BY_NAME: Final[Mapping[str, Habit]] = {habit.name: habit for habit in HABITS}
if len(BY_NAME) != len(HABITS):
    raise ValueError("two habits have one name")
