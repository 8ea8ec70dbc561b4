"""The forecast of a cutover, beside simulated ones."""

from __future__ import annotations

import random
from statistics import median

from relay.ledger.forecasts import PASSES, cutover_forecast, pass_forecast
from relay.ledger.standing_values import Pass
from relay.ledger.states import PassKind


class Bucket:
    """A bucket whose changes, listings and copies vary."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.listing = self._random.uniform(1, 300)
        self.changes = self._random.uniform(0.001, 2)
        self.cost = self._random.uniform(0.01, 0.5)

    def vary(self, value: float) -> float:
        """Return a value that differs by about a tenth."""
        return value * self._random.lognormvariate(0, 0.12)

    def times(self, gathered: float) -> tuple[float, float, int]:
        """Return the seconds of a listing and of its copies, and their number."""
        copied = round(self.vary(self.changes * gathered))
        return self.vary(self.listing), copied * self.vary(self.cost), copied


def passes_of(bucket: Bucket, every: float) -> list[Pass]:
    """Return ten passes, the newest first, each with its forecast."""
    passes: list[Pass] = []
    begun = before = 0.0
    for number in range(1, 11):
        expected = pass_forecast(passes[:PASSES], begun)
        listing, copies, copied = bucket.times(begun - before)
        one = Pass(
            number=number,
            kind=PassKind.DELTA,
            begun=begun,
            listed_at=begun + listing,
            ended=begun + listing + copies,
            complete=True,
            listed=1000,
            changed=copied,
            gone=0,
            copied=copied,
            bytes=0,
            deleted=0,
            refused=0,
            failed=0,
            p50=None if expected is None else expected.p50,
            p90=None if expected is None else expected.p90,
        )
        passes.insert(0, one)
        before, begun = begun, begun + max(every, listing + copies)
    return passes


def test_a_forecast_holds_in_four_of_five_cutovers() -> None:
    """And the middle is off by less than a quarter in half of them."""
    within, errors = 0, []
    for seed in range(200):
        bucket = Bucket(seed)
        passes = passes_of(bucket, every=600.0)
        now = passes[0].begun + 400.0
        audit = 2 * bucket.listing
        expected = cutover_forecast(passes[:PASSES], now, audit)
        assert expected is not None
        listing, copies, _ = bucket.times(400.0)
        actual = listing + copies + bucket.vary(bucket.listing) + bucket.vary(audit)
        within += actual <= expected.p90
        errors.append(abs(actual - expected.p50) / actual)
    assert within >= 160
    assert median(errors) <= 0.25


def test_nothing_is_forecast_before_a_pass_has_ended() -> None:
    assert pass_forecast([], 0.0) is None
    assert cutover_forecast([], 0.0, None) is None
