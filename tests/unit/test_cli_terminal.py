"""The output of the command line, and its exit codes."""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from relay import errors
from relay.cli.backend_interface import Members, MigrationBackend
from relay.cli.exits import Exit
from relay.cli.formatting import NAMED, bytes_done, bytes_moved, exit_of, headline
from relay.cli.header_flags import exposed_secrets, read_headers
from relay.cli.progress_bars import bars
from relay.cli.terminal import ReaderGone, plain, receipt_lines, say, tell, without_secrets
from relay.cli.tree import Watch, transfer_label
from relay.cli.watch_migration import Seen, _show_events
from relay.engine.transfer.transfer import Transfer
from relay.engine.tree_listing import listed_object
from relay.engine.worker.active_transfers import ActiveTransfer
from relay.errors import ConfigError, InvalidHeader, RelayError, RequestError
from relay.ledger.ledger import Ledger
from relay.location import parse_location
from relay.receipt import Level, Receipt, State, Version
from relay.stores.interfaces import Entry
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import Signer
from relay.views.progress import Rate
from tests.values import claim_of, outcome_of


def test_plain() -> None:
    """Control characters are escaped; printable ones stay."""
    assert plain("\x1b[31mred\x9b0m\r\n\u202etxt\t") == "\\x1b[31mred\\x9b0m\\r\\n\\u202etxt\\t"
    assert plain('"é – 漢"') == '"é – 漢"'


def test_receipt() -> None:
    """Each line is a name and a value; a store's text is always escaped, and no secret appears."""
    version = Version(size=3, etag='"\x1b]0;evil\x07"', digests={})
    receipt = Receipt(
        level=Level.SIZE,
        bytes=3,
        digests={},
        source=version,
        destination=version,
        attempts=2,
        bytes_resent=1_500_000,
        notes=("note\n\x1b[2J",),
    )
    place = parse_location("https://a.example/x?sig=secret")
    lines = list(
        receipt_lines(outcome_of(State.UNVERIFIED, place, place, bytes=3, receipt=receipt))
    )
    text = "\n".join(lines)
    assert "\x1b" not in text and "\x07" not in text and "secret" not in text
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["state"] == "unverified"
    assert rows["attempts"] == "2, at least 1.5 MB sent again"
    assert rows["note"].startswith("note\\n")
    skipped = outcome_of(State.SKIPPED, place, place, notes=("unchanged", "a piece may remain"))
    assert [line.split(maxsplit=1)[1] for line in receipt_lines(skipped)][3:] == list(skipped.notes)


def test_the_receipt_names_the_endpoint_of_a_bucket() -> None:
    """Two endpoints may have buckets of one name."""
    signer = Signer(lambda: None, "us-east-1")
    ends = [
        s3_location(S3Config(signer, endpoint), "photos", "a")
        for endpoint in (None, "https://s3.new.example")
    ]
    rows = [line.split(maxsplit=1) for line in receipt_lines(outcome_of(State.SKIPPED, *ends))]
    assert rows[1:] == [
        ["source", "s3://photos/a"],
        ["destination", "s3://photos/a at https://s3.new.example"],
    ]


@pytest.mark.parametrize(
    ("state", "members", "end"),
    [
        ("running", {"under_way": 2}, "/s"),
        ("paused", {"under_way": 2}, ", paused (2 still stopping)"),
        ("cancelled", {"under_way": 0}, ", cancelled"),
        ("paused", {}, ", paused (1 still stopping)"),  # from an older server
    ],
)
def test_a_paused_migration_is_shown_as_stopping(
    state: str, members: dict[str, int], end: str
) -> None:
    """An older server reports only its own transfers."""
    counts = {"objects": {"running": 1}, "bytes": {"running": 9}, "listing": "done"}
    assert headline({"state": state, **counts, **members}, 0.0).endswith(end)


def test_local_transfers_are_counted_once() -> None:
    """The bytes of arrived objects, of parts, and of transfers in this process that are not yet
    counted in either."""
    counts = {
        "objects": {"verified": 1, "running": 1},
        "bytes": {"verified": 1000, "running": 9000},
    }
    migration = {
        "state": "running",
        "listing": "done",
        **counts,
        "bytes_in_parts": 4000,
        "under_way": 2,
    }
    assert (
        headline(migration, 100.0, 1000)
        == "1 of 2 objects, 6.0 kB of 10.0 kB, 100 bytes/s, about 0:40 left"
    )


def test_skipped_and_failed_objects_do_not_count_as_moved() -> None:
    """A skipped object is done, and adds nothing to the rate."""
    migration = {
        "bytes": {"verified": 1, "unverified": 10, "skipped": 100, "failed": 1000, "queued": 10_000}
    }
    assert (bytes_moved(migration), bytes_done(migration)) == (11, 1111)


@dataclass
class Moving:
    """A transfer as a line shows it."""

    bytes: int
    moved_bytes: int


@pytest.mark.parametrize(
    ("moving", "line"),
    [
        (Moving(5000, 5000), "  a\\tb"),
        (Moving(5000, 2000), "  a\\tb, 2.0 kB of it here"),
        (Moving(5, 0), "  a\\tb, 0 bytes of it here"),
    ],
)
def test_bytes_of_helpers_are_not_reported_as_ours(moving: Moving, line: str) -> None:
    """Its bar is the object's."""
    claim = claim_of("a\tb", size=9000)
    assert transfer_label(ActiveTransfer(claim, cast(Transfer, moving), 0.0)) == line


class Gone(io.StringIO):
    """A terminal whose writes fail; without a code as those of a closed stream."""

    def __init__(self, code: int | None) -> None:
        super().__init__()
        self._code = code

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._code is None:
            raise ValueError("I/O operation on closed file")
        raise OSError(self._code, os.strerror(self._code))


@pytest.fixture
def forgotten_descriptors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the descriptors that were replaced after a failed write; none is in this process."""
    numbers: list[int] = []
    monkeypatch.setattr("relay.cli.terminal._forget", numbers.append)
    return numbers


@pytest.mark.parametrize("code", [errno.EIO, errno.EPIPE, None])
@pytest.mark.parametrize(("name", "descriptor"), [("stdout", 1), ("stderr", 2)])
def test_say_forgets_an_output_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    forgotten_descriptors: list[int],
    name: str,
    descriptor: int,
    code: int | None,
) -> None:
    monkeypatch.setattr(sys, name, Gone(code))
    say("hello", getattr(sys, name))
    assert forgotten_descriptors == [descriptor]


@pytest.mark.parametrize("code", [errno.EIO, errno.EPIPE])
def test_bars_survive_their_terminal(
    monkeypatch: pytest.MonkeyPatch, forgotten_descriptors: list[int], code: int
) -> None:
    """Its window was closed, and the command continues, as after `disown`."""
    monkeypatch.setattr(sys, "stderr", Gone(code))
    with bars() as shown:
        shown.add_task("moving")
        shown.head = ("a line",)
        shown.refresh()
        shown.tell("one object failed")
    assert set(forgotten_descriptors) == {2}


@pytest.mark.parametrize(
    ("kind", "code"),
    [(RequestError, 2), (ConfigError, 2), (errors.NotFound, 1), (errors.EgressDenied, 1)],
)
def test_exit_codes_of_errors(kind: type[RelayError], code: int) -> None:
    """Wrong usage and failure have distinct exit codes."""
    assert Exit.of(kind("x")) == code


@pytest.mark.parametrize(
    ("state", "objects", "listing", "error", "code"),
    [
        ("succeeded", {"verified": 2}, "done", None, 0),
        ("partial", {"verified": 1, "unverified": 1}, "done", None, 3),
        ("partial", {"verified": 1, "failed": 1}, "done", None, 1),
        ("partial", {"verified": 2}, "done", {"code": "listing-unaccounted"}, 1),
        ("partial", {"verified": 2}, "failed", None, 1),
        ("partial", {"unverified": 2}, "failed", None, 1),
        ("paused", {"verified": 2}, "done", None, 1),
    ],
)
def test_exit_codes_of_migrations(
    state: str, objects: dict[str, int], listing: str, error: object, code: int
) -> None:
    """3 says that everything moved: not after a failed listing, also if its error was deleted."""
    reported = {"state": state, "objects": objects, "listing": listing, "error": error}
    assert exit_of(reported) == code


def test_every_error_has_an_exit_code() -> None:
    """No error has exit code 0 or 3."""
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, RelayError)
    ]
    assert {int(Exit.of(kind("x"))) for kind in kinds} == {1, 2}
    assert [int(Exit.of(state)) for state in State] == [0, 3, 0]


def test_headers() -> None:
    """A value may hold colons; a text that is not a header is refused without being repeated."""
    assert read_headers(["A: b:c", "X-B:d"], None) == (("A", "b:c"), ("X-B", "d"))
    for line in ("no colon", ": hidden", ""):
        with pytest.raises(InvalidHeader) as caught:
            read_headers([line], None)
        assert not line or line not in caught.value.message
    lines = ["Authorization: x", "X-Api-Key: @f", "X-Amz-Security-Token: y", "Accept: z"]
    assert exposed_secrets(lines) == ["Authorization", "X-Amz-Security-Token"]


@pytest.mark.parametrize("is_value", [True, False])
def test_headers_in_a_pipe_wait_for_its_writer(tmp_path: Path, is_value: bool) -> None:
    """Without them the server may answer too: with another object."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    given = ([f"A: @{pipe}"], None) if is_value else ([], pipe)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_headers, *given)
        assert wait([reading], timeout=0.05).not_done, "the pipe counts as empty"
        pipe.write_text("b" if is_value else "A: b")
        assert reading.result(timeout=60) == (("A", "b"),)


def test_rate() -> None:
    """Bytes a second over the window, and nothing before the window has begun."""
    now = 0.0
    rate = Rate(clock=lambda: now, window_seconds=5)
    assert rate.add(0) == 0
    for second in range(1, 11):
        now = float(second)
        last = rate.add(second * 100)
    assert last == 100
    now = 11.0
    assert 80 <= rate.add(1000) <= 100
    now = 30.0
    assert rate.add(1000) < 10


@pytest.mark.parametrize("verb", ["retry", "list_again"])
def test_a_watch_forgets_errors_that_a_new_attempt_passed(verb: str) -> None:
    """`relay retry`, and the same command, which lists again: older failures, and an older pause,
    are over."""
    seen = Seen()
    seen.note_event("failed", {"name": "a", "detail": "gone"})
    seen.note_event("paused", {"code": "unauthenticated"})
    seen.note_event(verb, {})
    assert (seen.take_failures(), seen.waits) == (([], 0), False)


def test_a_watch_ends_at_a_pause_of_relay_without_its_event() -> None:
    """PostgreSQL hides the event while an older transaction of the server runs."""
    one = {"id": "7", "objects": {}, "bytes": {}, "under_way": 0, "ended": None}
    paused = {**one, "state": "paused", "needs_attention": False}  # by its user
    lines = iter([paused, {**paused, "needs_attention": True, "under_way": 1}])
    waiting = {**paused, "needs_attention": True}
    shown: list[Members] = []

    def follow(_: str) -> Iterator[tuple[str, Members]]:
        yield from (("progress", members) for members in lines)
        yield "progress", waiting
        raise AssertionError("it follows a migration that waits for its user")

    migrations = cast(MigrationBackend, SimpleNamespace(follow=follow))
    _show_events(migrations, "7", shown.append, lambda text: None)
    assert len(shown) == 3 and shown[-1] == waiting


def test_a_watch_of_an_older_server_ends_at_the_event_of_a_pause() -> None:
    """Its migrations have no `needs_attention`."""
    paused = {"id": "7", "objects": {}, "bytes": {}, "under_way": 0, "state": "paused"}
    shown: list[Members] = []

    def follow(_: str) -> Iterator[tuple[str, Members]]:
        yield "progress", paused  # by its user
        yield "paused", {"code": "unauthenticated"}
        yield "progress", paused
        raise AssertionError("it follows a migration that waits for its user")

    migrations = cast(MigrationBackend, SimpleNamespace(follow=follow))
    _show_events(migrations, "7", shown.append, lambda text: None)
    assert len(shown) == 2


def test_a_watch_keeps_few_of_many_failures() -> None:
    """A million failures before the first progress would take a gigabyte."""
    seen = Seen()
    for number in range(1000):
        seen.note_event("failed", {"name": str(number)})
    assert len(seen.failures) == NAMED
    found, more = seen.take_failures()
    assert [failure["name"] for failure in found] == [str(number) for number in range(NAMED)]
    assert more == 1000 - NAMED
    assert seen.take_failures() == ([], 0)


def test_a_quiet_terminal_keeps_no_failure_lines() -> None:
    """An error has a traceback, which keeps the frames of the transfer: kilobytes for each failed
    object."""
    claim = claim_of("a\tb", size=9000)
    for shown, lines in ((True, ["relay: a\\tb failed: source: it\\nis gone"]), (False, [])):
        watch = Watch(cast(Ledger, None), "m", shown=shown)
        error = errors.NotFound("it\nis gone", side="source")
        kept = weakref.ref(error)
        watch.note_end(claim, error)
        del error
        assert kept() is None
        assert list(watch.fresh_failures()) == lines


@pytest.mark.parametrize(
    "names",
    [
        ("a\x01", "a\\x01"),
        ("a\udc80", "a\\x80"),
        ("a\udc80", "a\x80"),
        ("a\u2028", "a\\u2028"),
        ("a\ud800", "a\\ud800"),
        ("a\n", "a\\n"),
        ("a\x01\x02", "a\x01\\x02"),
    ],
)
def test_an_unsafe_name_is_shown_readably_and_uniquely(
    names: tuple[str, str],
) -> None:
    listed = [listed_object(Entry(name)) for name in names]
    assert listed[0].name != listed[1].name
    assert listed[0].error is not None
    for one in listed:
        assert one.name.isprintable()
        one.name.encode()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EPIPE, None])
def test_an_unwritable_output_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, forgotten_descriptors: list[int], code: int | None
) -> None:
    monkeypatch.setattr(sys, "stdout", Gone(code))
    with pytest.raises(ReaderGone if code in (errno.EPIPE, None) else errors.OutputFailed):
        tell("hello")
    assert forgotten_descriptors == [1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Got unexpected extra argument (SECRET)",
            "Got unexpected extra argument; is something not quoted?",
        ),
        (
            "Got unexpected extra arguments (a (SECRET\n) b)",
            "Got unexpected extra arguments; is something not quoted?",
        ),
        ("No such command 'https://h/a?sig=SECRET'.", "No such command 'https://h/a?…'."),
        ("'s3+x://ada:SECRET@h/a' and http://h/?SECRET", "'s3+x://…@h/a' and http://h/?…"),
        ("why? there is no secret (at all): a@b", "why? there is no secret (at all): a@b"),
    ],
)
def test_an_error_about_a_command_line_shows_no_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
