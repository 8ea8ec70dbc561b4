"""Read objects over HTTP: HEAD and GET, with redirects.

Theory of operation. Many presigned URLs and small servers support only GET, so a HEAD that fails
says nothing about the object. A redirect may lead to the object, to a folder, or to a login page. A
destination may also send readers of all that it lacks to another server, or to another folder,
which has the object: that one counts only where a name that never existed is not redirected (asked
once for each folder).

Decided here: which answers to HEAD and GET are believed, and which redirects are followed. Never
here: what a believed answer says (`http_objects.py`)."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Final

from relay.digest import WANT
from relay.errors import (
    ConnectionLost,
    KeyCollision,
    RangeIgnored,
    RedirectRefused,
    Rejected,
    RelayError,
    Side,
    StoreTimeout,
    TooManyRedirects,
)
from relay.location import Location
from relay.parsing import count
from relay.receipt import Version
from relay.redirects import redirect_target
from relay.stores.http_client import MOVED, HttpClient
from relay.stores.http_fields import ENCODED, PAGES, is_transcoded, strong_tag
from relay.stores.http_objects import FRESH, ObjectHeads, ReadAnswer, read_fields
from relay.stores.index_links import segments_of
from relay.stores.interfaces import ByteRange, ObjectInfo, OpenedObject, UnknownObject
from relay.stores.unused_names import unused_name_beside
from relay.wire.exchange import Response
from relay.wire.http1 import Fields, Head

WITH_DIGEST: Fields = (("Want-Repr-Digest", WANT),)
"""Fields of every request that reads or writes an object (RFC 9530)."""
HEAD_INCONCLUSIVE = frozenset({400, 401, 403, 405, 406, 500, 501})
"""Statuses of HEAD that say nothing about GET: many presigned URLs and small servers support only
GET."""
FOLDER = "httpd/unix-directory"
"""Content type of a folder itself, as Apache's mod_dav and others report it."""
GONE = frozenset({404, 410})
_CUTTING: Final = ("?", "#", ";", "&")
"""Characters of a name before which a server may cut it."""
SHOWN: Final = frozenset({200, 206, 412, 416})
"""Statuses of a read whose object is there."""
FRESH_SECONDS = 10
"""Maximum age in seconds of an answer about a destination, and of a folder's page: a cache may have
just asked for it."""
HEAD_KNOWN = "answers HEAD with 200"
HEAD_UNANSWERED = "does not answer HEAD"
AGAIN_SECONDS: Final = 300
"""Maximum time for which one HEAD without an answer counts: the server may have been asleep."""
UNDIGESTED = "shows no digest"


class _FallbackRefused(RedirectRefused):
    """A destination redirects names that never existed to another server, or another folder."""


class HttpReads:
    """HEAD and GET of one server. `heads` parses what its answers say about an object."""

    def __init__(self, client: HttpClient, heads: ObjectHeads) -> None:
        self._client, self._heads = client, heads
        at_destination = client.side == "destination"
        self._asked = WITH_DIGEST + FRESH if at_destination else WITH_DIGEST
        """Fields of a read: at a destination no cache may answer it (RFC 9111 section 5.2)."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Follows up to `limits.redirects` redirects."""
        try:
            return self._head(location)
        except _FallbackRefused as error:
            return UnknownObject(error)

    def _head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As `head`; raises _FallbackRefused.

        A server that never answered a HEAD with 200 may not support HEAD: then only GET says
        whether the object exists. This is remembered for each folder at the root, since one host
        may have a different server for each."""
        side, memory = self._client.side, self._client.wire.memory
        known = _head_known(location)
        advice = not memory.has(location.origin, known)
        if advice and memory.has(location.origin, _unanswered_now()):
            return UnknownObject(StoreTimeout(f"{location.origin} does not answer HEAD", side=side))
        try:
            response, final = self.follow("HEAD", location, self._asked)
            response.body.close()
            self._refuse_fallback("HEAD", location, final, response)
        except (ConnectionLost, StoreTimeout) as error:
            if not advice:
                raise
            if isinstance(error, StoreTimeout):
                memory.learn(location.origin, _unanswered_now())
            return UnknownObject(error)
        # Step 1: answers about something else: a folder, a negotiated name, a login page, the past.
        self._refuse_folder(location, final)
        refuse_negotiated(location, response.head.by_name.get("content-location"), side)
        if self._leads_elsewhere(location, final):
            return UnknownObject(self._redirect_refusal(location, final))
        if (stale := self._stale_error(final, response.head)) is not None:
            return UnknownObject(stale)
        # Step 2: the status. As long as the server never answered HEAD with 200, a 404 proves as
        # little as a 405.
        if response.head.status in HEAD_INCONCLUSIVE or (advice and response.head.status in GONE):
            return UnknownObject(self._client.refusal(response, "HEAD", final))
        if response.head.status != 200:
            raise self._client.refusal(response, "HEAD", final)
        if _kind_of(response.head) == FOLDER:
            raise folder_there(location) if side == "destination" else folder_here(location)
        memory.learn(location.origin, known)
        found = self._answer(response, final).info()
        self._learn_digests(location, found)
        return found

    def _learn_digests(self, location: Location, found: ObjectInfo) -> None:
        """Remember whether a destination's HEAD shows a digest of its objects."""
        if self._client.side == "source":
            return
        memory, fact = self._client.wire.memory, shows_no_digest(location)
        if found.version.digests:
            memory.forget(location.origin, fact)
        else:
            memory.learn(location.origin, fact)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. With a strong entity tag the request carries If-Match (RFC 9110 section
        13.1.1).

        Some servers do not understand their own tag there (SeaweedFS's WebDAV sends it without
        quotes): they answer 412 and that very tag. Then the whole object is read without If-Match,
        and the tag of the answer is compared. A range needs a server that checks the version."""
        fields = self._asked + read_fields(pinned, span)
        response, final = self.follow("GET", location, fields)
        if self._refuse_fallback("GET", location, final, response):
            response, final = self.follow("GET", location, fields)
        if pinned is not None and _refuses_own_tag(response.head, pinned):
            response.body.close()
            if span is not None:
                message = f"{location} does not answer a range with If-Match"
                raise RangeIgnored(message, side=self._client.side)
            response, final = self.follow("GET", location, self._asked)
        try:
            self._refuse_folder(location, final)
            other = response.head.by_name.get("content-location")
            refuse_negotiated(location, other, self._client.side)
            if self._leads_elsewhere(location, final) and _is_unlike(response.head, pinned, span):
                raise self._redirect_refusal(location, final)
            if (stale := self._stale_error(final, response.head)) is not None:
                raise stale
        except RelayError:
            response.body.close()
            raise
        if span is not None and response.head.status in (200, 206, 416):
            return self._answer(response, final).open_range(pinned, span)
        if response.head.status != 200:
            raise self._client.refusal(response, "GET", final)
        return self._answer(response, final).open_whole(pinned)

    def follow(self, method: str, location: Location, fields: Fields) -> tuple[Response, Location]:
        """Send a read and follow its redirects; return the answer and its final location. The
        caller closes the answer's body."""
        client = self._client
        for _ in range(client.wire.limits.redirects + 1):
            response = client.send(method, location, fields)
            if is_transcoded(response.head) and ENCODED not in fields:
                response.body.close()
                fields += (ENCODED,)
                response = client.send(method, location, fields)
            target = response.head.by_name.get("location")
            if response.head.status not in MOVED or target is None:
                return response, location
            response.body.close()
            location = redirect_target(location, target, client.side)
        raise TooManyRedirects(
            f"more than {client.wire.limits.redirects} redirects, the last one to {location}",
            side=client.side,
        )

    def _answer(self, response: Response, final: Location) -> ReadAnswer:
        """Return the answer, about the object that it names: Apache (MultiViews) may serve another
        one, as a redirect would."""
        other = response.head.by_name.get("content-location")
        if other is not None and _continued_name(final, other) is not None:
            with suppress(RelayError):
                final = redirect_target(final, other, self._client.side)
        return ReadAnswer(response, final, self._heads, self._client.side)

    def _refuse_folder(self, location: Location, final: Location) -> None:
        """Raise Rejected if the server redirects an object's URL to the same with a final '/': that
        is a folder, and its page is not an object. (A sign-on may end in '/' too.)"""
        if location is final:  # it was not redirected
            return
        if location.path.endswith("/") or not final.path.endswith("/"):
            return
        if self._client.side == "destination":
            if _is_same_server(location, final) and is_folder_of(location, final.path):
                raise folder_there(location)
        elif segments_of(location.path)[-1:] == segments_of(final.path)[-1:]:
            raise folder_here(location)

    def _leads_elsewhere(self, location: Location, final: Location) -> bool:
        """Return whether a destination redirected to another name: a login page does not prove that
        the object exists."""
        if self._client.side != "destination" or location is final:
            return False
        return segments_of(location.path)[-1:] != segments_of(final.path)[-1:]

    def _refuse_fallback(
        self, method: str, location: Location, final: Location, answer: Response
    ) -> bool:
        """Close an answer for a destination that shows an object of another place, and raise
        RedirectRefused unless the destination redirects only what it has: a name that never
        existed, beside `location` and with its ending, is not there then. Return whether the answer
        was closed for that. Raises StoreError."""
        memory = self._client.wire.memory
        folder, _, name = location.path.rpartition("/")
        ending = "".join(name.rpartition(".")[1:]) if "." in name else ""
        fact = f"redirects objects alone {method} {folder}/ {ending}"
        if self._client.side == "source" or not self._may_be_fallback(location, final):
            return False
        if answer.head.status not in SHOWN or memory.has(location.origin, fact):
            return False
        answer.body.close()  # the next request may wait for the end of this one
        response = self._client.send(method, unused_name_beside(location), self._asked)
        response.body.close()
        if response.head.status not in GONE:
            raise _FallbackRefused(
                f"{location} redirects to {final}, as names that never existed may, so the object"
                " may be there alone",
                side="destination",
                hint=(
                    "Turn off the redirect of what the server lacks, or give the URL to which it"
                    " redirects."
                ),
            )
        memory.learn(location.origin, fact)
        return True

    def _may_be_fallback(self, location: Location, final: Location) -> bool:
        """Return whether a redirect leads to an object of another server, or of another folder: its
        own name in the same server's other folder. (Another name there does not count at all.)"""
        if location is final:
            return False
        if not _is_same_server(location, final):
            return True
        is_moved = segments_of(location.path) != segments_of(final.path)
        return is_moved and not self._leads_elsewhere(location, final)

    def _redirect_refusal(self, location: Location, final: Location) -> RedirectRefused:
        return RedirectRefused(
            f"{location} redirects to {final}, which does not show whether the object exists",
            side=self._client.side,
            hint=(
                "Check the credentials: many servers redirect a request without them to a login"
                " page."
                if self._client.side == "source"
                else "Check the credentials, and turn off the redirect of what the server lacks"
                " (ErrorDocument, error_page): relay must see whether an object is there."
            ),
        )

    def _stale_error(self, location: Location, head: Head) -> Rejected | None:
        """As `stale_error`, for an answer about a destination: a source may be read from a
        cache."""
        side = self._client.side
        return None if side == "source" else stale_error(location, head, side)


def _is_same_server(location: Location, final: Location) -> bool:
    """Return whether a redirect stays at its server, also if it leads from HTTP to HTTPS."""
    ours, theirs = location.origin, final.origin
    return ours == theirs or (ours == ("http", theirs.host, 80) and theirs[::2] == ("https", 443))


def is_folder_of(place: Location, path: str) -> bool:
    """Return whether a redirect to the `path` of a folder of its server says that a place is a
    folder: the path is that of the place, or its beginning where the server may cut names. A
    sign-on has another path."""
    ours, theirs = segments_of(place.path), segments_of(path)
    if ours[-1:] == theirs[-1:]:
        return True
    whole, cut = "/".join(ours), "/".join(theirs)
    return bool(cut) and whole.startswith(cut) and whole[len(cut) :][:1] in _CUTTING


def stale_error(location: Location, head: Head, side: Side) -> Rejected | None:
    """Return the error for an answer that a cache kept from before, although `no-cache` was
    requested (RFC 9111 section 5.2.1.4), or None: it does not say what is there now. Varnish,
    CloudFront and others do so, also with a 404."""
    age = count(head.by_name.get("age")) or 0
    if age <= FRESH_SECONDS:
        return None
    return Rejected(
        f"a cache answered for {location}, with an answer that is {age} s old",
        side=side,
        hint=(
            "Let the cache obey Cache-Control: no-cache, or give the URL of the server behind it."
        ),
    )


def _refuses_own_tag(head: Head, pinned: Version) -> bool:
    """Return whether a server refused the pinned tag as another one, and shows that it is the
    current one."""
    tag = pinned.strong_etag
    return head.status == 412 and tag is not None and strong_tag(head.get("etag")) == tag


def _is_unlike(head: Head, pinned: Version | None, span: ByteRange | None) -> bool:
    """Return whether the target of a redirect may not be the object: a range without a pinned
    version, or a web page whose ETag is not the pinned one."""
    if pinned is None:
        return span is not None
    if _kind_of(head) not in PAGES:
        return False
    return pinned.etag is None or strong_tag(head.get("etag")) != pinned.etag


def _kind_of(head: Head) -> str:
    """Return the content type of an answer, without parameters."""
    return (head.get("content-type") or "").partition(";")[0].strip().lower()


def _unanswered_now() -> str:
    """Return the fact that a server lately did not answer HEAD."""
    return f"{HEAD_UNANSWERED} {monotonic() // AGAIN_SECONDS}"


def _head_known(location: Location) -> str:
    """Return the fact that the server of a location answers HEAD."""
    return HEAD_KNOWN + server_of(location)


def shows_no_digest(location: Location) -> str:
    """Return the fact that HEAD lately showed no digest of an object on this server: an object must
    be read back then, and its GET says what HEAD would."""
    return UNDIGESTED + server_of(location)


def server_of(location: Location) -> str:
    """Return the words that name the server of a location in a fact about its origin."""
    first, slash, _ = location.path[1:].partition("/")
    return f" below /{first}/" if slash else ""


class IsFolder(Rejected):
    """The name is that of a folder, not of an object."""


def folder_there(location: Location) -> IsFolder:
    """Return the error for an object whose name is that of a folder at the destination."""
    hint = (
        "An object can't have a folder's name: rename one of the two, or choose another"
        " destination."
    )
    return IsFolder(f"{location} is a folder there", side="destination", hint=hint)


def refuse_negotiated(location: Location, other: str | None, side: Side) -> None:
    """Raise KeyCollision if a destination answers a request for `location` with the object at the
    path `other`, whose name is the same with an ending. Apache does so for a name that does not
    exist (httpd.apache.org, mod_negotiation, "MultiViews"), and an upload would overwrite that
    object."""
    if side == "source" or other is None:
        return
    theirs = _continued_name(location, other)
    if theirs is not None:
        raise KeyCollision(
            f"the server takes {location} for {theirs!a}, which an upload would overwrite",
            hint="Turn off MultiViews in Apache (Options -MultiViews).",
        )


def _continued_name(location: Location, other: str) -> str | None:
    """Return the name at the path `other` if it is that of `location` with an ending, else None."""
    ours = segments_of(location.path)[-1:]
    theirs = segments_of(other.partition("?")[0])[-1:]
    return theirs[0] if ours and theirs and theirs[0].startswith(f"{ours[0]}.") else None


def folder_here(location: Location) -> IsFolder:
    """Return the error for a source that is a folder instead of an object."""
    hint = "Move it as a folder: -r in the terminal, `recursive` in a request."
    return IsFolder(f"{location} is a folder, not an object", side="source", hint=hint)
