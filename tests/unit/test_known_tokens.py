"""The tokens that one process knows: when they are read again, and when a revocation counts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import gevent
import pytest

from relay.api.caller import FILE
from relay.api.known_tokens import AGAIN_SECONDS, CACHE_SECONDS, KnownTokens
from relay.api.token_limits import locate_folder_within
from relay.errors import Forbidden, LedgerFailed
from relay.ledger.token_format import hash_of, new_value
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.tokens import LiveTokens, Token
from relay.stores.remotes import Remotes

VALUE = new_value("0ps00000")
NEXT = new_value("0ps00000")
TOKEN = Token(
    id="0ps00000",
    name="ops",
    tenant="acme",
    scope=Scope.SUBMIT,
    limits=TokenLimits(),
    created=0.0,
    expires=None,
    last_used=None,
    revoked=None,
    hash=hash_of(VALUE),
    previous=None,
    previous_until=None,
)


class Shelf:
    """A ledger with some tokens, and the clocks of the process that reads it."""

    def __init__(self, *tokens: Token) -> None:
        self.tokens, self.ever, self.fails = tokens, bool(tokens), False
        self.looks, self.clock, self.now = 0, 100.0, 1000.0
        self.used: list[tuple[str, float]] = []
        self.known = KnownTokens(
            (),
            self.look,
            lambda id, at: self.used.append((id, at)),
            lambda: self.clock,
            lambda: self.now,
        )

    def look(self) -> LiveTokens:
        """Read the tokens, as TokenLedger.live."""
        self.looks += 1
        if self.fails:
            raise LedgerFailed("it is away")
        return LiveTokens(tokens=self.tokens, ever=self.ever)

    def name_of(self, value: str) -> str | None:
        """Return the name of the caller with a token, or None."""
        found = self.known.caller_of(value)
        return None if found is None else found.caller.name


def test_a_caller_has_the_tenant_and_scopes_of_its_token() -> None:
    found = Shelf(TOKEN).known.caller_of(VALUE)
    assert found is not None
    assert (found.caller.token_id, found.caller.tenant) == ("0ps00000", "acme")
    assert found.caller.scopes == {Scope.READ, Scope.SUBMIT}
    assert found.caller.visible_tenant == "acme"


def test_a_revocation_counts_within_five_seconds() -> None:
    shelf = Shelf(TOKEN)
    assert shelf.name_of(VALUE) == "ops"
    shelf.tokens = ()
    shelf.clock += 5.0
    assert shelf.name_of(VALUE) is None
    assert CACHE_SECONDS < 5.0


def test_the_ledger_is_read_once_for_many_requests() -> None:
    shelf = Shelf(TOKEN)
    for _ in range(100):
        shelf.name_of(VALUE)
    assert shelf.looks == 1
    for _ in range(100):  # a flood of unknown tokens, and of texts that are none
        shelf.name_of(new_value("nosuch00"))
        shelf.name_of("guess")
    assert shelf.looks == 1
    shelf.clock += AGAIN_SECONDS
    shelf.name_of(new_value("nosuch00"))
    shelf.name_of(new_value("nosuch00"))
    assert shelf.looks == 2


def test_a_new_token_is_accepted_at_once() -> None:
    shelf = Shelf(TOKEN)
    shelf.name_of(VALUE)
    value = new_value("newer000")
    shelf.tokens = (TOKEN, replace(TOKEN, id="newer000", name="newer", hash=hash_of(value)))
    shelf.clock += AGAIN_SECONDS
    assert shelf.name_of(value) == "newer"


@pytest.mark.parametrize(
    "value",
    [NEXT, VALUE[:-1], VALUE + "0", VALUE[:6] + "1" + VALUE[7:], "", "relay_", hash_of(VALUE)],
)
def test_another_text_is_no_token(value: str) -> None:
    assert Shelf(TOKEN).name_of(value) is None


def test_an_expired_token_is_refused_on_the_second() -> None:
    shelf = Shelf(replace(TOKEN, expires=1010.0))
    assert shelf.name_of(VALUE) == "ops"
    shelf.now = 1010.0  # the cache still has it
    assert shelf.name_of(VALUE) is None


def test_a_replaced_value_is_valid_for_its_overlap() -> None:
    rotated = replace(TOKEN, hash=hash_of(NEXT), previous=hash_of(VALUE), previous_until=1010.0)
    shelf = Shelf(rotated)
    assert (shelf.name_of(VALUE), shelf.name_of(NEXT)) == ("ops", "ops")
    shelf.now = 1010.0
    assert (shelf.name_of(VALUE), shelf.name_of(NEXT)) == (None, "ops")


def test_a_server_that_once_had_tokens_needs_one() -> None:
    """With its last token expired, it would otherwise be open to every program of its machine."""
    shelf = Shelf()
    assert not shelf.known.are_needed()
    shelf.ever = True
    shelf.clock += 5.0
    assert shelf.known.are_needed()


def test_without_its_ledger_a_server_trusts_no_token() -> None:
    shelf = Shelf(TOKEN)
    shelf.fails = True
    with pytest.raises(LedgerFailed):
        shelf.known.are_needed()
    shelf.fails = False
    assert shelf.name_of(VALUE) == "ops"
    shelf.fails, shelf.clock = True, shelf.clock + 5.0
    assert shelf.known.are_needed()
    with pytest.raises(LedgerFailed):
        shelf.name_of(VALUE)


def test_without_its_ledger_a_server_stays_without_tokens() -> None:
    """It moves single objects then."""
    shelf = Shelf()
    assert not shelf.known.are_needed()
    shelf.fails, shelf.clock = True, shelf.clock + 5.0
    assert not shelf.known.are_needed()


def test_a_use_is_noted_once_a_minute() -> None:
    shelf = Shelf(TOKEN)
    for second in (0.0, 1.0, 59.0, 61.0):
        shelf.now = 1000.0 + second
        shelf.name_of(VALUE)
    gevent.sleep(0)
    assert shelf.used == [("0ps00000", 1000.0), ("0ps00000", 1061.0)]


def test_a_file_needs_no_ledger_and_may_do_everything() -> None:
    known = KnownTokens(("of-a-file-0123456789",))
    assert known.are_needed()
    found = known.caller_of("of-a-file-0123456789")
    assert found is not None
    assert found.caller is FILE
    assert known.caller_with(None, found.hash) is FILE
    assert known.caller_of("of-a-file-012345678") is None
    assert known.caller_with(None, hash_of("other")) is None


@pytest.mark.parametrize(("pattern", "fits"), [("NAS.lan", True), ("*.LAN", True), ("lan", False)])
def test_a_pattern_of_hosts_fits_in_any_case(pattern: str, fits: bool) -> None:
    limits, remotes = TokenLimits(hosts=(pattern,)), Remotes({}, {})
    with nullcontext() if fits else pytest.raises(Forbidden):
        locate_folder_within(limits, remotes, "https://Nas.LAN/photos/")
