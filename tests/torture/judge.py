"""The judge: compares the destination, the ledger and the terminal of a case with the rules.

Theory of operation. The journal of both stores knows every byte and its writer. A rule is a
function of a played case and yields violations; a habit that makes a rule impossible to keep
excuses it, and the table says why. Nothing here uses relay's code: a rule is about relay's
statements to a user, and the content of the stores. Decided here: the rules. Never here: how a case
is played.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from simulators.liars.base import Liar
from simulators.liars.dav import DavLiar
from simulators.liars.folder import OUTSIDE, FolderLiar
from simulators.liars.habits import BY_NAME
from simulators.liars.object_responses import LOGIN
from simulators.liars.operations import WRITES
from simulators.liars.plain import PlainLiar
from simulators.liars.stored_objects import REMOVED, Event, Held
from simulators.liars.unsafe import MARKER
from tests.torture.cases import Case
from tests.torture.world import Played, Row

ENDS = (0, 1, 2, 3, 130)
ARRIVED = ("verified", "unverified", "skipped")

UNSIZED = "does not report the object's size"
UNREAD = "could not be read back"
REMAINS = re.compile(r"may remain at (.+?)(?: at https?://\S+)?(?: \(|: )")
"""How a message names a place where a leftover of relay may remain."""
EXPECTED = (
    "connection-lost",
    "destination-exists",
    "destination-lost",
    "destination-mutates",
    "key-too-long",
    "not-found",
    "redirect-refused",
    "source-changed",
    "source-overrun",
    "store-permission-denied",
    "store-rejected",
    "store-throttled",
    "store-timeout",
    "store-unavailable",
    "unsafe-key",
)
"""Classes of errors that objects end with in a full run; a class that never occurs shows that a
habit has lost its effect."""


HEADLESS = (
    "head-403",
    "head-404",
    "head-405",
    "head-500",
    "head-drops",
    "head-hangs",
    "head-zero",
    "head-zero-page",
    "head-no-length",
)
"""Habits of sources whose HEAD gives no length."""


@dataclass(frozen=True)
class Violation:
    """A broken rule, with the evidence."""

    rule: str
    text: str


Rule = Callable[[Played], Iterator[str]]


def judge(played: Played) -> list[Violation]:
    """Return all violations."""
    if played.last.code is None:
        return [Violation("ends", f"the command hung: {played.last.err[-600:]}")]
    return [
        Violation(rule.__name__.removeprefix("check_"), text)
        for rule in RULES
        for text in rule(played)
    ]


# -- the evidence of the rules


def versions(played: Played, name: str) -> set[bytes]:
    """Return every whole version that the source ever had of an object.

    A login page that comes with 200 counts as one, if neither a listing nor HEAD announced a size
    or a version to compare."""
    had = {
        event.held.data
        for event in played.source.shelf.events
        if event.name == name and event.held is not None
    }
    case = played.case
    is_page = not case.tree and case.has("source", *HEADLESS) and case.has("source", "login-page")
    return had | {LOGIN} if is_page else had


def alike_versions(played: Played, name: str) -> set[bytes]:
    """Return every whole version of all objects of the source that the destination treats as this
    one."""
    key, names = played.destination.shelf.key, {event.name for event in played.source.shelf.events}
    return {data for other in names if key(other) == key(name) for data in versions(played, other)}


def events(played: Played, name: str) -> list[Event]:
    """Return the events of a name at the destination, in order."""
    shelf = played.destination.shelf
    return [event for event in shelf.events if shelf.key(event.name) == shelf.key(name)]


def prior_object(played: Played, name: str) -> Held | None:
    """Return the content of the destination before relay started."""
    mine = (event.held for event in events(played, name) if event.by == "before")
    return next(mine, None)


def is_temporary(name: str) -> bool:
    """Return whether a name is one of relay's temporary names."""
    return name.rpartition("/")[2].startswith((".relay-", "relay-"))


def is_reported(name: str, played: Played) -> bool:
    """Return whether a failure or a receipt reports a possible leftover of this object, or of
    another one that the destination treats as this object, in this migration or an earlier one."""
    names = tuple({name, *(event.name for event in events(played, name))})
    return any(place.endswith(names) for place in leftover_places(played))


def _waits_for_a_resume(played: Played, name: str) -> bool:
    """Return whether an earlier migration, which a kill ended, still has this object to move: its
    own command replaces the leftover."""
    waits = any(played.name(row.name) == name and row.state == "queued" for row in played.earlier)
    return played.abandoned and waits


def leftover_places(played: Played) -> list[str]:
    """Return the places of possible leftovers that rows, receipts and the last command name."""
    messages = (row.message for row in (*played.rows.values(), *played.earlier))
    text = " ".join((*messages, _whole_output(played)))
    return [_plain(place) for place in REMAINS.findall(text)]


def _plain(place: str) -> str:
    """Return a place as people read it: JSON and URLs escape some of its characters."""
    text = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), place)
    return unquote(text)


def _whole_output(played: Played) -> str:
    """Return the output of the last command and of a cancel, and the error of the whole
    migration."""
    cancels = "".join(run.out + run.err for run in played.reports if run.words[:1] == ("cancel",))
    return f"{cancels}{played.last.out}{played.last.err}{played.migration.get('error') or ''}"


def is_piece(held: Held, played: Played, name: str) -> bool:
    """Return whether relay's leftover is neither a version of the source nor a prior object."""
    row = played.rows.get(name if played.case.tree else "")
    right = (
        versions(played, name)
        if row is not None and row.state in ARRIVED
        else alike_versions(played, name)
    )
    return held.by == "relay" and (not held.whole or held.data not in right)


def _has_source_length(played: Played, name: str, held: Held) -> bool:
    return held.whole and len(held.data) in map(len, versions(played, name))


def _is_named_as_overwritten(played: Played, name: str) -> bool:
    """Return whether the failure of another object reports that its upload has overwritten this
    one. Of two concurrent uploads, the server shows only afterwards that it treats both names as
    one."""
    if not played.case.has("destination", "negotiates"):
        return False
    sentence = f"for {name.rpartition('/')[2]!a}, which an upload would overwrite The upload has"
    return any(
        row.code == "key-collision" and sentence in row.message for row in played.rows.values()
    )


def _is_of_parts(row: Row) -> bool:
    """Return whether the level states that each part was compared, and only the length of the
    whole: if a store gives no digest of an assembled object, only reading it back would prove more,
    and that was not requested."""
    return row.state == "verified" and row.level == "part_digests"


# -- the rules


def check_endings(played: Played) -> Iterator[str]:
    """Each command ends with a documented exit code and without a traceback."""
    for run in (*played.runs, *played.reports):
        killed = run.code == -9 and any(step.failpoint for step in played.case.steps)
        if run.code not in ENDS and not killed:
            yield f"exit code {run.code}: {run.err[-500:]}"
        output = run.out + run.err
        for text in ("Traceback", "a bug in relay", "relay-error"):
            if text in output:
                yield f"{text}: {output[-600:]}"
                break


def check_whole_objects(played: Played) -> Iterator[str]:
    """An object is a prior one, a whole version of the source, or another writer's: never a piece
    or a mixture."""
    shelf = played.destination.shelf
    for name in shelf.names():
        held = shelf.get(name)
        row = played.rows.get(name if played.case.tree else "")
        if held is None or is_temporary(name) or not is_piece(held, played, name):
            continue
        if (
            row is not None
            and row.state == "unverified"
            and (_has_source_length(played, name, held) or UNSIZED in row.message)
        ):
            continue  # at most its length was reported
        if row is not None and _is_of_parts(row) and _has_source_length(played, name, held):
            continue
        if row is not None and row.state in ARRIVED and _is_named_as_overwritten(played, name):
            continue
        if row is not None and row.state in ARRIVED:
            yield f"{name!r} is {row.state}, and the object there is not a version of the source ({len(held.data)} bytes)"
        elif not (is_reported(name, played) or _waits_for_a_resume(played, name)):
            yield f"a piece lies at {name!r}, and nothing says so: {row}"


def check_verified_objects(played: Played) -> Iterator[str]:
    """A verified object is there: as relay wrote it, or as another writer wrote it later."""
    for row in played.rows.values():
        name = played.name(row.name)
        held = played.destination.shelf.get(name)
        if row.state not in ("verified", "unverified"):
            continue
        wrote = [
            event.held
            for event in events(played, name)
            if event.held is not None and event.held.by == "relay"
        ]
        if (
            held is None
            and row.state == "unverified"
            and UNREAD in row.message
            and _is_unshown(played, name, written=True)
        ):
            continue
        if held is None:
            yield f"{name!r} is {row.state}, and nothing is there"
        elif not any(one.data in versions(played, name) for one in wrote if one.whole):
            same = held.data in versions(played, name) or (
                _is_of_parts(row) and _has_source_length(played, name, held)
            )
            # The MOVE cut ours, and another writer replaced it before relay inspected the place.
            is_replaced = held.by == "other" and _has_source_length(played, name, held)
            if is_replaced and "move-cut" in played.destination.store_habits.met:
                continue
            if not same and row.state == "verified":
                yield f"{name!r} is verified, and relay never wrote it whole"


def check_skipped_objects(played: Played) -> Iterator[str]:
    """A skipped object was there before, from another writer or whole."""
    wish = played.wish
    for row in played.rows.values():
        name = played.name(row.name)
        held = played.destination.shelf.get(name)
        if row.state != "skipped":
            continue
        if wish in ("overwrite", "fail"):
            yield f"{name!r} is skipped, though the wish was {wish}"
        if held is None:
            yield f"{name!r} is skipped, and nothing is there"
        elif wish == "changed" and held.by == "before" and not _is_as_long(played, name, held):
            yield f"{name!r} is skipped as unchanged, and has another length"


def _is_as_long(played: Played, name: str, held: Held) -> bool:
    """Return whether its length is one of the source's, if its store reports lengths."""
    # Where HEAD reports 0, a GET of one byte may still give the length.
    zero = {0} if played.case.has("destination", "head-zero", "head-zero-page") else set()
    return not (zero | {len(held.data)}).isdisjoint(map(len, versions(played, name)))


def check_wishes(played: Played) -> Iterator[str]:
    """`skip` and `fail` overwrite nothing that was there before relay, and `changed` leaves equal
    objects."""
    case = played.case
    wishes = _wishes(played)
    if set(wishes.values()) <= {"overwrite"}:
        return
    dated = not case.has("destination", "date-none", "date-odd") and not case.has(
        "source", "date-none", "date-odd"
    )
    sized = not case.has(
        "source", "head-short", "head-zero", "head-zero-page", "list-bad-size", "source-changes"
    )
    # WebDAV's report that a folder does not exist is believed. An object for which HEAD gives no
    # length, or another one, is not equal. Of two names that the store treats as one, the second is
    # another object.
    untrue = ("status-inside", "head-zero", "head-no-length", "folds-")
    has_version = not any(
        role == "destination" and name.startswith(untrue) for role, name in case.traits
    )
    sized &= not _is_lengthless(case, "source")
    # A HEAD with Content-Length: 0 does not prove an empty object where GET gives no length.
    framed = any(BY_NAME[name].group == "framing" for name in case.habits("source"))
    unsized = (framed and case.source == "http") or _is_lengthless(case, "destination")
    sizes = dict(case.objects) if unsized else {}
    for name, how in case.before:
        gone = [
            event for event in events(played, name) if event.by == "relay" and event.old is not None
        ]
        for event in gone:
            if event.old is None or event.old.by != "before" or event.why == "moved":
                continue
            wish = wishes.get(id(event), "overwrite")
            if wish == "overwrite":
                continue
            if wish in ("skip", "fail"):
                yield f"{name!r} was overwritten in spite of {wish}"
            elif sizes.get(name) == 0:
                continue  # for other objects a range gives the length
            elif (
                how == "same"
                and dated
                and sized
                and has_version
                and len(versions(played, name)) == 1
                and event.held is not None
                and not _is_unshown(played, name)
            ):
                yield f"{name!r} was overwritten, and was equal"


def _wishes(played: Played) -> dict[int, str]:
    """Return the effective --if-exists of the command under which each event of the destination
    happened, by the id of the event."""
    found = {}
    for number, event in enumerate(played.destination.shelf.events):
        earlier = [wish for first, wish in played.begun if first <= number]
        if earlier:
            found[id(event)] = earlier[-1]
    return found


def _is_lengthless(case: Case, role: str) -> bool:
    """Return whether neither HEAD nor GET gives the length of an object."""
    framed = any(
        side == role and (BY_NAME[name].group == "framing" or name == "head-zero-page")
        for side, name in case.traits
    )
    return framed and case.has(role, *HEADLESS)


def _is_unshown(played: Played, name: str, written: bool = False) -> bool:
    """Return whether relay inspected the name before its first write, or since its last write
    (`written`), and every answer was a refusal or missing. A GET that reports an absent object is
    an answer. A list without lengths does not show that it would overwrite an object."""
    key, asked = played.destination.shelf.key, []
    for sent in played.destination.log if isinstance(played.destination, Liar) else ():
        if key(sent.op.name) != key(name):
            continue
        if sent.op.kind in WRITES and 200 <= sent.status < 300:
            if not written:
                break
            asked.clear()
        if sent.op.kind in ("head", "get", "list"):
            unsized = sent.op.kind == "list" and played.case.has("destination", "lengths-none")
            asked.append(
                (200 <= sent.status < 300 and not (unsized and not written))
                or (written and sent.status == 404 and sent.op.kind == "get")
            )
    return bool(asked) and not any(asked)


def check_versions(played: Played) -> Iterator[str]:
    """A migration proves or writes the object that the source had when it started, not one that was
    replaced earlier."""
    if played.replaced is None or played.migration.get("number", 0) <= played.replaced:
        return
    name = played.case.objects[0][0]
    row = played.rows.get(name if played.case.tree else "")
    now, held = played.source.shelf.get(name), played.destination.shelf.get(name)
    if row is None or row.state != "verified" or now is None or held is None:
        return
    if held.by == "relay" and held.data != now.data and held.data in versions(played, name):
        yield f"{name!r} is verified, and is the object that the source had before"


def check_deletions(played: Played) -> Iterator[str]:
    """Relay deletes only what it wrote."""
    blind = played.case.has("destination", "conditions-ignored")
    for event in played.destination.shelf.events:
        if (
            event.by != "relay"
            or event.held is not None
            or event.old is None
            or event.why in ("moved", REMOVED)
        ):
            continue
        if event.old.by != "relay" and not (blind and event.asked_tag is not None):
            yield f"{event.name!r} was deleted, and was {event.old.by}'s"
    for name, version in played.destination.shelf.removed:
        if version.by != "relay":
            yield f"a version of {name!r} was removed, which was {version.by}'s"
    for upload in played.destination.shelf.uploads.values():
        if upload.by != "relay" and upload.state == "aborted":
            yield f"an upload of {upload.by}'s to {upload.name!r} was aborted"


def check_accounts(played: Played) -> Iterator[str]:
    """Every object of the source is accounted for by name, or the listing's failure is reported;
    the exit code agrees."""
    states = {row.state for row in played.rows.values()}
    code, listed = played.last.code, played.migration.get("listing")
    if code == 0:
        wrong = states - {"verified", "skipped"}
        if wrong:
            yield f"exit 0, and objects are {', '.join(sorted(wrong))}"
        if listed not in ("none", "done"):
            yield f"exit 0, and the listing is {listed}"
    if code == 3 and "unverified" not in states:
        yield "exit 3, and nothing is unverified"
    if code in (0, 3) and "failed" in states:
        yield f"exit {code}, and objects failed"
    if (
        code == 1
        and not played.migration.get("error")
        and "failed" not in states
        and listed != "failed"
    ):
        yield f"exit 1, and nothing says why: {states} {played.migration.get('state')} {played.last.err[-300:]}"
    if played.case.tree and listed == "done":
        yield from _unnamed_objects(played)


def _unnamed_objects(played: Played) -> Iterator[str]:
    # An object that vanished before the last command listed the source does not belong to it.
    wanted = {name for name, _ in played.case.objects if played.source.shelf.get(name) is not None}
    for name in sorted(wanted - played.rows.keys()):
        above = [
            row
            for row in played.rows.values()
            if name.startswith(row.name.rstrip("/")) and _stands_for(row, played)
        ]
        if not above:
            yield f"{name!r} was at the source, and has no row"
    # The row of an unsafe name has a readable name instead; a folder's marker has no row.
    named = wanted | set(played.source.odd)
    others = [
        row for name, row in played.rows.items() if name not in named and row.state == "failed"
    ]
    shelf = played.source.shelf
    gone = {event.name for event in shelf.events if shelf.get(event.name) is None}
    missing = [
        name
        for name in played.source.odd
        if name not in played.rows and name not in {MARKER, *gone}
    ]
    if len(missing) > len(others):
        yield f"of {missing!a} there are {len(others)} rows"


def _stands_for(row: Row, played: Played) -> bool:
    """Return whether a row accounts for entries below it: it has failed; or it waits in a paused
    migration and is a folder linked without its slash, which shows only once it is claimed."""
    waits = row.state == "queued" and played.migration.get("state") == "paused"
    return row.state == "failed" or (waits and played.case.has("source", "href-bare"))


def check_places(played: Played) -> Iterator[str]:
    """Nothing is read or written outside the two places, and no store gets the other's
    credentials."""
    for sent in played.source.log:
        if sent.op.kind == "stray":
            yield f"the source was asked for {sent.op.name!r}, to which a link led"
    for role, store in (("source", played.source), ("destination", played.destination)):
        foreign = [secret for whose, secret in played.secrets.items() if not whose.endswith(role)]
        for sent in store.log:
            if any(secret in value for _, value in sent.headers for secret in foreign):
                yield f"the {role} got another's credentials, with {sent.op}"
                break
        if isinstance(store, FolderLiar):
            yield from store.trespasses
    if played.case.served and isinstance(played.source, FolderLiar):
        shelf = played.destination.shelf
        for name in shelf.names():
            held = shelf.get(name)
            if held is not None and held.data == OUTSIDE and held.by == "relay":
                yield f"{name!r} was read from outside of the folders that the server may read"


def check_secrets(played: Played) -> Iterator[str]:
    """No secret is stored where it can be read."""
    for role, place in played.leaks:
        yield f"the secret of the {role} stands in {place}"


def check_leftovers(played: Played) -> Iterator[str]:
    """No unfinished upload and no temporary name is left without a report."""
    if played.last.code == 130:
        return
    places = leftover_places(played)
    for upload in played.destination.shelf.uploads.values():
        unknown = (
            upload.by == "relay" and upload.state == "open" and upload.id not in played.uploads
        )
        named = any(place.endswith(f"upload {upload.id}") for place in places)
        if unknown and not named and not _waits_for_a_resume(played, upload.name):
            yield f"an unfinished upload to {upload.name!r} is left, and no statement names it"
    # A row that waits for credentials first removes its leftovers when resumed: the ledger knows
    # them.
    waits = played.migration.get("state") == "paused" and any(
        row.state == "queued" for row in played.rows.values()
    )
    for name in played.destination.shelf.names():
        known = any(place.endswith(name) for place in places) or waits or played.abandoned
        if is_temporary(name) and not known:
            yield f"{name!r} is left, and no statement names it"


def check_honest_stores(played: Played) -> Iterator[str]:
    """Between stores without habits everything is verified and nothing is sent twice, but the
    object of a trial, whose length no other object has."""
    case = played.case
    if case.traits or len(case.steps) > 1:
        return
    wish = case.if_exists or ("changed" if case.tree else "overwrite")
    there = {name for name, _ in case.before}
    good = {"verified"} if case.verify != "size" else {"unverified", "verified"}
    for row in played.rows.values():
        name = played.name(row.name)
        expected = good
        if name in there and wish != "overwrite":
            expected = {"skip": {"skipped"}, "fail": {"failed"}, "changed": {"skipped", *good}}[
                wish
            ]
        if row.state not in expected:
            yield f"{name!r} is {row.state} between honest stores: {row.message}"
    times: dict[tuple[str, int], int] = {}
    for sent in played.destination.log:
        if sent.op.kind in ("put", "part") and sent.bytes != len(TRIAL):
            key = (sent.op.name, sent.op.number)
            times[key] = times.get(key, 0) + 1
    for (name, _), count in times.items():
        if count > 1:
            yield f"{name!r} was sent {count} times between honest stores"


TRIAL = b"A trial of relay. It may be deleted.\n"
"""The object by which relay learns what a server's MOVE does."""

# fmt: off
MILD = frozenset((
    "busy-503", "busy-429", "error-500", "drops", "answer-lost", "closes-each", "interim", "head-403", "head-404",
    "head-405", "head-500", "head-drops", "head-zero", "head-zero-page", "head-no-length", "tag-none", "tag-weak", "tag-unquoted",
    "tag-long", "date-none", "date-odd", "conditions-ignored", "conditions-501", "range-ignored", "digest-sent",
    "digest-long", "redirects", "chunked", "trickles", "late-end", "get-cut", "flips-once", "short-once",
    "early-2xx", "stale", "late", "negative-cache", "deleted-shown", "stale-head", "put-page", "digest-of-nothing", "hides-names", "folder-404", "folder-403",
    "folder-500", "folder-page", "list-503-once", "list-repeats", "href-url", "href-encoding", "href-absolute",
    "list-json", "lengths-none", "propfind-405", "list-v1", "list-unsorted", "clock-skew", "trailers-501",
    "trailers-401", "trailers-400", "trailers-stored", "trailers-unheard", "checksum-echoed", "complete-error",
    "part-damaged", "part-emptied", "parts-swapped", "begin-plain", "other-upload", "move-502", "parts-refused",
    "locked", "overwrite-always",
))
# fmt: on
"""Habits under which everything still arrives."""
UNTRUE = ("head-404", "head-zero", "head-zero-page")
"""At a source GET decides. A destination that answers 404 for an uploaded object may have lost
it."""


def check_arrivals(played: Played) -> Iterator[str]:
    """If stores only have tolerable habits, every object arrives."""
    case = played.case
    mild = all(name in MILD for _, name in case.traits)
    if not case.traits or not mild or case.has("destination", *UNTRUE):
        return
    there = {name for name, _ in case.before}
    if len(case.steps) > 1:  # objects of the previous command are at the destination as well
        there |= {event.name for event in played.destination.shelf.events if event.by == "relay"}
    for name, _ in case.objects:
        row = played.rows.get(name if case.tree else "")
        if row is not None and row.state in ARRIVED:
            continue
        if (
            row is not None
            and played.wish == "fail"
            and row.code == "destination-exists"
            and name in there
        ):
            continue
        if row is not None and _can_be_anothers(played, row):
            continue
        why = f"{row.state} {row.code}: {row.message}" if row else played.migration.get("error")
        yield f"{name!r} did not arrive: {why}"


def _can_be_anothers(played: Played, row: Row) -> bool:
    """Return whether a damaged object may, as far as anybody can know, be another writer's, and the
    row says so: its place shows an upload at once, no response identified the stored object, and
    objects of other writers must not be overwritten."""
    store, case = played.destination, played.case
    unnamed = isinstance(store, PlainLiar) and not isinstance(store, DavLiar)
    unnamed = unnamed and (
        not store.reports_tags or case.has("destination", "tag-none", "tag-weak")
    )
    is_reported = row.code == "digest-mismatch" and "may remain at" in row.message
    return (
        unnamed
        and is_reported
        and played.wish in ("skip", "fail")
        and case.has("destination", "flips-once")
    )


RULES: tuple[Rule, ...] = (
    check_endings,
    check_whole_objects,
    check_verified_objects,
    check_skipped_objects,
    check_wishes,
    check_versions,
    check_deletions,
    check_accounts,
    check_places,
    check_secrets,
    check_leftovers,
    check_honest_stores,
    check_arrivals,
)
"""Every rule."""
