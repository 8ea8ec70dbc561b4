"""The counters of the ledger always equal its rows, on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from relay.errors import IllegalTransition, LeaseLost, UploadGone
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.claims import ClaimRequest
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import PartLease, StoredPart
from relay.receipt import Version
from relay.views.migrations import summary
from tests.ledgers import Opened, assert_counted, states, tree, verified_end
from tests.values import UPLOAD

PART = 10
ENDS: tuple[Callable[[Claim], Settlement], ...] = (
    lambda claim: Settlement(
        claim, "verified", bytes=30, resent=2, seconds=0.5, level="whole_digest", receipt={}
    ),
    lambda claim: Settlement(
        claim, "unverified", bytes=31, resent=0, seconds=0.5, level="size", receipt={}
    ),
    lambda claim: Settlement(claim, "skipped", bytes=30),
    lambda claim: Settlement(claim, "failed", resent=5, error={"code": "x"}),
    lambda claim: Settlement(claim, "hand_back", resent=3),
)


@dataclass(eq=False)
class Runner:
    """A worker on one tree, and its claims."""

    ledger: Ledger
    other: Ledger
    id: str
    held: list[Claim] = field(default_factory=list)
    share: PartLease | None = None
    moving: dict[int, int] = field(default_factory=dict)
    """The parts that it moves, by transfer."""

    def turn(self, number: int) -> None:
        """Settle some of its claims, each with another end, and claim more."""
        ending, self.held = self.held[:number], self.held[number:]
        ends = [ENDS[(claim.id + number) % len(ENDS)](claim) for claim in ending]
        self.held += self.ledger.claims.settle_and_claim(
            ends, ClaimRequest(all=number, large=number, only_large=number), self.id
        ).claims

    def part(self, number: int) -> None:
        """Start an upload for one of its claims, or move a part of it."""
        for claim in self.held[:1]:
            with suppress(LeaseLost):
                if self.ledger.uploads.find(claim) is None or number == 0:
                    pinned = Version(30, '"e"')
                    begun = replace(UPLOAD, upload_id="u", part_bytes=PART, pinned=pinned)
                    self.ledger.uploads.record(claim, begun)
                self._finish_part(claim)

    def share_upload(self, _: int) -> None:
        """Help with a claim of the other worker, or move a part of it."""
        if self.share is None:
            self.share = self.ledger.uploads.join(self.id)
            if self.share is not None:
                self.moving[self.share.claim.id] = self.share.first
        else:
            self._finish_part(self.share.claim)

    def _finish_part(self, claim: Claim) -> None:
        number = self.moving.pop(claim.id, None)
        done = (
            None
            if number is None
            else StoredPart(
                number=number, size=PART, etag=f'"p{number}"', digest="00", checked=True
            )
        )
        with suppress(LeaseLost, UploadGone):
            following = self.ledger.uploads.take_part(claim, "u", done)
            if following is not None:
                self.moving[claim.id] = following

    def give_back(self, number: int) -> None:
        """Stop helping."""
        if self.share is not None:
            self.ledger.uploads.release_parts(self.share.claim, resent=number)
            self.share = None

    def resume_upload(self, number: int) -> None:
        """Resume an upload of which the store has lost a part."""
        for claim in self.held[:1]:
            with suppress(LeaseLost):
                if self.ledger.uploads.find(claim) is not None:
                    self.ledger.uploads.resume(claim, "u", [1 + number % 3], 3)

    def lose_worker(self, _: int) -> None:
        """Be presumed dead, and return without knowing it."""
        self.ledger.leases.renew(-1)
        self.other.leases.reclaim()
        self.ledger.leases.renew()

    def disown_claims(self, _: int) -> None:
        """Forget all its claims."""
        self.held, self.share = [], None
        self.ledger.claims.release_unknown(())

    def obey_command(self, number: int) -> None:
        """Do as a user commands."""
        with suppress(IllegalTransition):
            self.ledger.act(self.id, ("pause", "resume", "cancel", "retry", "resume")[number % 5])
        self.ledger.finish()


DEEDS = (
    Runner.turn,
    Runner.turn,
    Runner.part,
    Runner.share_upload,
    Runner.give_back,
    Runner.resume_upload,
    Runner.lose_worker,
    Runner.disown_claims,
    Runner.obey_command,
)
Story = list[tuple[Callable[[Runner, int], None], int, int]]
STORIES: st.SearchStrategy[Story] = st.lists(
    st.tuples(st.sampled_from(DEEDS), st.integers(0, 1), st.integers(0, 5)), min_size=5, max_size=25
)
SHARED: Story = [
    (Runner.turn, 0, 1),
    *[(Runner.part, 0, 1)] * 2,
    *[(Runner.share_upload, 1, 1)] * 2,
    (Runner.give_back, 1, 4),
    (Runner.resume_upload, 0, 0),
    *[(Runner.part, 0, 1)] * 2,
]
"""Two move parts of one object, one hands its part back, and the store loses the first."""
AGAIN: Story = [
    (Runner.turn, 0, 4),
    (Runner.turn, 0, 5),
    (Runner.turn, 0, 4),
    (Runner.obey_command, 0, 2),
    (Runner.obey_command, 0, 3),
    *[(Runner.turn, 0, 4), (Runner.turn, 0, 3)] * 2,
]
"""Each object ends in another way, the migration is cancelled, and everything that it permits is
retried."""


def test_counters_always_equal_the_rows(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()

    @given(STORIES)
    @example(SHARED)
    @example(AGAIN)
    @settings(max_examples=20)
    def check_counts(story: Story) -> None:
        id = tree(one, 30, 30, 30, 30)
        runners = (Runner(one, two, id), Runner(two, one, id))
        for deed, runner, number in story:
            deed(runners[runner], number)
            assert_counted(one, id)
        for ledger in (one, two):
            ledger.claims.release_unknown(())
        states(two, id)

    check_counts()


def test_the_proof_and_its_cost_are_reported(ledger: Ledger) -> None:
    id = tree(ledger, 30, 31)
    first, second = ledger.claims.claim(2)
    ledger.claims.settle([verified_end(first), Settlement(second, "hand_back", resent=3)])
    ledger.claims.settle(
        [
            Settlement(
                claim, "unverified", bytes=31, resent=0, seconds=0.5, level="size", receipt={}
            )
            for claim in ledger.claims.claim(1)
        ]
    )
    report = summary(ledger.migration(id))
    assert (report["levels"], report["bytes_resent"], report["retries"]) == (
        {"size": 1, "whole_digest": 1},
        3,
        1,
    )
    ledger.finish()
    ledger.act(id, "retry")
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1)])
    report = summary(ledger.migration(id))
    assert (report["levels"], report["bytes_resent"], report["retries"]) == (
        {"whole_digest": 2},
        3,
        0,
    )


LOOKS: dict[str, Callable[[Ledger, str], object]] = {
    "one": lambda ledger, id: summary(ledger.migration(id)),
    "standings": lambda ledger, id: ledger.migration_views([id]),
    "turn": lambda ledger, id: ledger.claims.settle_and_claim((), ClaimRequest(all=0), id, [id]),
    "no room": lambda ledger, id: ledger.claims.settle_and_claim(
        (), ClaimRequest(all=9, large=9, only_large=9), id, [id]
    ),
    "share": lambda ledger, id: ledger.uploads.join(),
}


@pytest.mark.parametrize("name", LOOKS)
def test_reading_a_status_costs_the_same_for_many_objects(tmp_path: Path, name: str) -> None:
    """Counted in SQLite's own instructions, which are the same each time."""
    costs = []
    for number, objects in enumerate((10, 1000)):
        ledger = Ledger.connect(f"sqlite:///{tmp_path}/{number}.db")
        try:
            ledger.leases.renew()
            id = tree(ledger, *[30] * objects)
            ledger.limit(id, {"slots": 2})
            ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1)])
            claims = ledger.claims.claim(2)
            ledger.uploads.record(
                claims[0],
                replace(UPLOAD, upload_id="u", part_bytes=PART, pinned=Version(30, '"e"')),
            )
            LOOKS[name](ledger, id)
            costs.append(instructions(ledger, lambda ledger=ledger, id=id: LOOKS[name](ledger, id)))
        finally:
            ledger.close()
    assert 0 < costs[1] < 2 * costs[0]


def instructions(ledger: Ledger, do: Callable[[], object]) -> int:
    """Return the number of instructions that SQLite needs for it."""
    count = [0]

    def count_one() -> None:
        count[0] += 1

    def listen(connection: Connection, handler: Callable[[], None] | None) -> None:
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        driver.set_progress_handler(handler, 1)

    ledger.database.run(lambda c: listen(c, count_one), write=False)
    do()
    ledger.database.run(lambda c: listen(c, None), write=False)
    return count[0]
