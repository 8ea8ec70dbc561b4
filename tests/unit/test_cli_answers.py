"""Valid answers of a relay server for the terminal: every member that a command needs is there,
with its type."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest

from relay.cli.api_client import Client
from relay.cli.remote_server import ASK_SECONDS, RemoteServer
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.errors import (
    InvalidURL,
    LedgerFailed,
    MigrationUnknown,
    NotRelay,
    Overloaded,
    RelayError,
    ServerUnreachable,
    TooManyRequests,
    TooManyStreams,
)
from relay.ledger.ledger import Ledger
from relay.stores.remotes import Remotes
from relay.views.migrations import brief, html_lines, summary
from tests.scripted import Peer, Talk, answer

ROW = {
    "name": "a",
    "state": "verified",
    "level": None,
    "bytes": 1,
    "seconds": 0.5,
    "attempts": 1,
    "resent": 0,
    "digest": None,
    "error": None,
    "detail": None,
}
NEWER = {"bytes_in_parts", "under_way", "slots", "retried", "trouble"}
NEWER |= {"tenant", "needs_attention", "excluded", "standing"}
"""Members that older servers leave out."""


class Answering:
    """A client of a server that gives one answer to everything."""

    url = "http://there.example"

    def __init__(self, members: Any) -> None:
        self.members = members

    def ask(self, *_: Any, **__: Any) -> Any:
        return self.members

    def lines(self, path: str, *_: Any, **__: Any) -> Iterator[str]:
        text = json.dumps(self.members)
        return iter(
            ["event: progress", f"data: {text}", ""] if path.endswith("/events") else [text]
        )


def there(members: Any) -> RemoteServer:
    return RemoteServer(
        cast(Client, Answering(members)),
        sleep=lambda _: pytest.fail("it waits for a server that is there"),
    )


ASKED: dict[str, Callable[[Any], object]] = {
    "one": lambda members: there(members).migration("7"),
    "submit": lambda members: there(members).submit({}, None),
    "act": lambda members: there(members).control("7", "pause"),
    "acknowledge": lambda members: there(members).acknowledge("7"),
    "limit": lambda members: there(members).limit("7", {"slots": 3, "priority": 1}),
    "follow": lambda members: next(RemoteServer(cast(Client, Two(members))).follow("7"))[1],
    "newest": lambda members: next(there({"migrations": [members], "next": None}).newest(10)),
    "rows": lambda members: next(there({"transfers": [members], "next": None}).rows("7", ())),
}
"""Each way to ask for a migration or a row; it returns the members of the answer."""


class Two(Answering):
    """Answers the first requests of `follow` correctly; its events come from the test."""

    def ask(self, *_: Any, **__: Any) -> Any:
        return {**WHOLE[0]}


WHOLE: list[dict[str, Any]] = []


@pytest.fixture(autouse=True, scope="module")
def whole_answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the answer of a current server about a migration."""
    folder: Path = tmp_path_factory.mktemp("ledger")
    ledger = Ledger.connect(f"sqlite:///{folder}/ledger.db")
    order = MigrationRequest(
        Endpoint("https://a.example/f/"), Endpoint("https://b.example/t/"), recursive=True
    )
    migration, _ = ledger.create(order.spec(Remotes({}, folders=())))
    made = json.loads(json.dumps(summary(migration)))
    assert set(brief(migration)) < set(made)
    ledger.close()
    WHOLE[:] = [made]
    return cast(dict[str, Any], made)


@pytest.mark.parametrize("asked", list(ASKED))
def test_answers_of_current_and_older_servers_are_accepted(
    asked: str, whole_answer: dict[str, Any]
) -> None:
    today = ROW if asked == "rows" else {**whole_answer, "ended": 1.5}
    older = {name: value for name, value in today.items() if name not in NEWER}
    for members in (today, older | {"newer still": {}}):
        needed = ROW if asked == "rows" else members
        assert ASKED[asked](members) == {name: members[name] for name in needed}


@pytest.mark.parametrize("asked", list(ASKED))
def test_an_answer_without_a_required_member_is_refused(
    asked: str, whole_answer: dict[str, Any]
) -> None:
    """Each member that is missing, and each of another type; the error names the member and the
    server."""
    right = ROW if asked == "rows" else whole_answer
    named = {"newest": "migrations", "rows": "transfers"}
    needed = set(brief_names(whole_answer) if asked in ("newest", "follow") else right)
    for name in needed:
        wrong = copy.deepcopy(right)
        wrong[name] = {"not": ["it"]} if not isinstance(right[name], dict) else 7
        missing = {other: value for other, value in right.items() if other != name}
        for changed in (wrong, missing) if name not in NEWER else (wrong,):
            with pytest.raises(
                NotRelay,
                match=f"there.example is not a relay server: its answer has no valid '{named.get(asked, name)}'",
            ):
                ASKED[asked](changed)
    with pytest.raises(NotRelay):
        ASKED[asked]({})


def brief_names(whole: dict[str, Any]) -> set[str]:
    return set(whole) - {
        "options",
        "priority",
        "limits",
        "levels",
        "bytes_resent",
        "retries",
        "error",
    }


NUMBERS = {
    "created": (1e300, -1e300, float("nan"), float("inf"), 1e12),
    "ended": (1e300, float("nan"), float("-inf")),
    "number": (10**400, -1),
    "objects": ({"queued": 10**400}, {"queued": -1}),
    "bytes": ({"verified": 10**400}, {"verified": -5}),
    "bytes_in_parts": (10**400, -1),
    "retried": ([{"name": "a", "what": "whole", "side": "source", "detail": "d", "again": 1e308}],),
}


@pytest.mark.parametrize("asked", ["one", "newest", "follow"])
def test_impossible_numbers_are_refused(asked: str, whole_answer: dict[str, Any]) -> None:
    """Invalid dates, and counts beyond the ledger's range, would end a command with a traceback."""
    for name, wrong in NUMBERS.items():
        for value in wrong:
            with pytest.raises(NotRelay):
                ASKED[asked]({**whole_answer, name: value})


@pytest.mark.parametrize(
    "page", [{}, {"migrations": 3, "next": None}, {"migrations": [], "next": 7}]
)
def test_an_invalid_page_is_refused(page: dict[str, Any]) -> None:
    with pytest.raises(NotRelay):
        list(there(page).newest(10))


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    "path",
    [
        "/migrations?before=1",
        "/behind/a/proxy/migrations?before=1",
        "@elsewhere.example/",
        ".elsewhere.example/",
        "/other",
    ],
)
def test_pages_lead_on_and_nowhere_else(
    path: str, empty: bool, whole_answer: dict[str, Any]
) -> None:
    """The token goes only to the named server, and a page without rows has no next one."""
    rows = there({"migrations": [] if empty else [whole_answer], "next": path}).newest(5)
    if "/migrations?" in path and not empty:
        assert len(list(islice(rows, 9))) == 5
        return
    with pytest.raises(NotRelay, match="leads nowhere"):
        list(islice(rows, 9))


def test_the_rows_of_a_report_come_in_pages() -> None:
    """Other members of a row are not part of a report."""
    paths: list[str] = []

    class Paged(Answering):
        def ask(self, _: str, path: str, **__: Any) -> Any:
            paths.append(path)
            row = {
                "id": len(paths),
                "receipt": {"level": "size"},
                **ROW,
                "name": f"object {len(paths)}",
            }
            return {
                "transfers": [row],
                "next": "/migrations/7/transfers?after=1" if len(paths) == 1 else None,
            }

    rows = list(RemoteServer(cast(Client, Paged(None))).rows("7", ("failed", "verified")))
    assert rows == [{**ROW, "name": "object 1"}, {**ROW, "name": "object 2"}]
    assert paths == [
        "/migrations/7/transfers?limit=1000&state=failed%2Cverified",
        "/migrations/7/transfers?after=1",
    ]


def test_truncated_rows_are_not_a_report() -> None:
    """A proxy that speaks HTTP/1.0 to its server ends an answer by closing, also if the server has
    died."""
    whole = json.dumps({"transfers": [ROW, ROW], "next": None}).encode()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        page = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + whole[:cut]
        with Peer(answer(page)) as peer, pytest.raises(NotRelay):
            list(RemoteServer(Client(peer.url(""))).rows("7", ()))


@pytest.mark.parametrize("id", ["", ".", ".."])
def test_an_id_is_never_another_path(id: str, whole_answer: dict[str, Any]) -> None:
    """Such an id is never requested from a server."""
    server = there(whole_answer)
    for asked in (
        lambda: server.migration(id),
        lambda: server.control(id, "cancel"),
        lambda: server.acknowledge(id),
        lambda: server.reasons(id),
        lambda: server.limit(id, {"slots": 1}),
        lambda: list(server.rows(id, ())),
        lambda: list(server.follow(id)),
    ):
        with pytest.raises(MigrationUnknown):
            asked()


class Restarted(Answering):
    """A client of a server that fails in several ways after the first answer, before it is
    reachable again."""

    def __init__(self, members: Any, *troubles: RelayError) -> None:
        super().__init__(members)
        self.troubles = list(troubles)
        self.asked = 0

    def _fail(self) -> None:
        if self.troubles:
            raise self.troubles.pop(0)

    def ask(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        if self.asked > 1:
            self._fail()
        return self.members

    def lines(self, path: str, *_: Any, **__: Any) -> Iterator[str]:
        self._fail()
        return super().lines(path)


AWAY = (ServerUnreachable("away"), LedgerFailed("its database too"), Overloaded("it stops"))


def test_a_restarting_server_is_waited_for() -> None:
    ended = {**WHOLE[0], "state": "succeeded", "ended": 2.0}
    slept: list[float] = []
    client = Restarted(ended, *AWAY)
    assert [
        kind for kind, _ in RemoteServer(cast(Client, client), sleep=slept.append).follow("7")
    ] == ["progress"]
    assert len(slept) == len(AWAY)


def test_the_end_is_waited_for_within_a_limit() -> None:
    client, clock = Restarted(dict(WHOLE[0]), *AWAY), iter(range(0, 1000, 20))
    client.asked = 1
    assert RemoteServer(cast(Client, client), sleep=lambda _: None).end("7") == WHOLE[0]
    for look in ("end", "follow"):
        gone = Restarted(dict(WHOLE[0]), *(ServerUnreachable("away") for _ in range(20)))
        gone.asked = int(look == "end")
        with pytest.raises(ServerUnreachable):
            list(
                cast(
                    Any,
                    getattr(
                        RemoteServer(
                            cast(Client, gone), lambda: float(next(clock)), lambda _: None
                        ),
                        look,
                    )("7"),
                )
            )


@pytest.mark.parametrize("text", ["./photos", "photos", "/photos", "list+./a.csv", "LIST+/a.csv"])
def test_a_path_is_not_sent_to_a_server(text: str) -> None:
    server = RemoteServer(cast(Client, Answering(dict(WHOLE[0]))))
    one, other = {"url": text}, {"url": "new:x"}
    for sent in (
        lambda: server.submit({"source": one, "destination": other}, None),
        lambda: server.control("7", "resume", {"source": one, "destination": other}),
        lambda: server.control("7", "retry", {"list": one}),
    ):
        with pytest.raises(InvalidURL, match="this machine") as refused:
            sent()
        assert refused.value.side == "source"
    server.submit({"source": other, "destination": {"url": "file:///photos"}}, None)


class Short(Answering):
    """A client of a server without a stream to spare, whose migration ends at the third look."""

    def __init__(self, refusal: RelayError) -> None:
        super().__init__(None)
        self.refusal, self.looks = refusal, 0

    def ask(self, *_: Any, **__: Any) -> Any:
        self.looks += 1
        return {**WHOLE[0], "ended": 2.0 if self.looks == 3 else None}

    def lines(self, *_: Any, **__: Any) -> Iterator[str]:
        raise self.refusal


@pytest.mark.parametrize("refusal", [TooManyStreams("200 are open"), TooManyRequests("1 a second")])
def test_a_migration_without_a_stream_is_asked_for(refusal: RelayError) -> None:
    """It goes on for longer than a server may be away."""
    slept: list[float] = []
    clock = iter(range(0, 10_000, 100))
    client = cast(Client, Short(refusal))
    found = list(RemoteServer(client, lambda: float(next(clock)), slept.append).follow("7"))
    assert [(kind, members["ended"]) for kind, members in found] == [
        ("progress", None),
        ("progress", 2.0),
    ]
    assert slept == [ASK_SECONDS]


def too_many(talk: Talk) -> None:
    """Refuse each odd request of a connection, as a server does whose token sends too many."""
    body = json.dumps({"type": "/problems/too-many-requests", "detail": "2 a second"}).encode()
    answers = itertools.cycle(
        (
            (b"429 No\r\nRetry-After: 2\r\nContent-Type: application/problem+json", body),
            (b"200 OK\r\nContent-Type: application/json", json.dumps(WHOLE[0]).encode()),
        )
    )
    while talk.head():
        status, body = next(answers)
        talk.send(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


def test_a_refused_question_is_sent_again_when_it_may_be() -> None:
    slept: list[float] = []
    with Peer(too_many) as peer:
        server = RemoteServer(Client(peer.url("")), sleep=slept.append)
        assert server.migration("7") == WHOLE[0]
        assert slept == [2.0]
        with pytest.raises(TooManyRequests):  # an order is not repeated
            server.control("7", "pause")


def test_refused_questions_end_in_the_refusal() -> None:
    clock = iter(range(0, 10_000, 200))
    refused = Restarted(WHOLE[0], *(TooManyRequests("1 a second") for _ in range(9)))
    refused.asked = 1
    server = RemoteServer(cast(Client, refused), lambda: float(next(clock)), lambda _: None)
    with pytest.raises(TooManyRequests):
        server.migration("7")


class Cancelled(Answering):
    """A client of a server that removes the uploads of a cancelled migration: each look finds the
    next of these numbers of transfers and bytes, and then the last one."""

    def __init__(self, *left: tuple[int, int]) -> None:
        super().__init__(None)
        self.left = list(left)

    def ask(self, *_: Any, **__: Any) -> Any:
        moving, there = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        rest = {"under_way": moving, "bytes_in_parts": there}
        return {**WHOLE[0], "state": "cancelled", "ended": 2.0, **rest}


def test_a_cancel_waits_until_the_server_has_removed_uploads() -> None:
    slept: list[float] = []
    client = Cancelled((1, 0), (0, 2_000_000), (0, 0))
    assert list(RemoteServer(cast(Client, client), sleep=slept.append).sweep("7")) == []
    assert len(slept) == 2


@pytest.mark.parametrize(
    ("left", "says"), [((0, 2_000_000), "2,000,000 (2.0 MB) of"), ((1, 0), "an unfinished")]
)
def test_a_cancel_names_what_the_server_leaves(left: tuple[int, int], says: str) -> None:
    clock = iter(range(0, 1000, 20))
    server = RemoteServer(cast(Client, Cancelled(left)), lambda: float(next(clock)), lambda _: None)
    ((line, remains),) = server.sweep("7")
    assert line.startswith(f"relay: {says}") and WHOLE[0]["destination"] in line
    assert remains


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_error_page_of_a_proxy_is_an_outage(status: int) -> None:
    page = b"<h1>Bad Gateway</h1>"
    with Peer(
        answer(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(page), page))
    ) as peer:
        with pytest.raises(ServerUnreachable, match="behind"):
            Client(peer.url("")).ask("GET", "/migrations/7")


@pytest.mark.parametrize(("tenant", "name"), [("default", "7"), ("acme", "acme:7")])
def test_a_report_names_the_tenant_of_its_migration(tenant: str, name: str) -> None:
    page = "".join(html_lines({**WHOLE[0], "number": 7, "tenant": tenant}, iter([])))
    assert f"<title>Migration {name}: " in page


@pytest.mark.parametrize(
    "name", [name for name, value in ROW.items() if name not in ("bytes", "seconds")]
)
def test_a_report_escapes_the_text_of_a_server(name: str) -> None:
    """A report is opened in a browser: it escapes all text."""
    planted = '"><script>alert(1)</script>'
    page = "".join(
        html_lines(
            {**WHOLE[0], "source": planted, "state": planted}, iter([{**ROW, name: planted}])
        )
    )
    assert "<script" not in page and "&lt;script" in page
