"""The prices of stores, from the file that relay has and from one of the user's.

Decided here: the form of a price file, and which price is that of a store. Never here: what a
migration costs (`money.py`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from relay.errors import ConfigError
from relay.process.small_files import read_small

GB: Final = 1 << 30
"""The bytes of a GB, as vendors count them."""
OLD_DAYS: Final = 180
"""Age from which prices are shown with a warning."""
REQUESTS: Final = ("list", "get", "head", "put")
"""The kinds of requests that have prices: `put` is also COPY, POST and those of an upload in
parts."""
_RATES: Final = tuple(f"{kind}_1000" for kind in REQUESTS)
_MEMBERS: Final = frozenset(
    {
        *("store", "host", "region", "as_of", "source", "currency", "egress_gb"),
        *("retrieval_gb", "minimum_days"),
        *_RATES,
    }
)


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one kind of store asks."""

    store: str
    host: str | None
    """A pattern (`*.amazonaws.com`); None: any host."""
    region: str | None
    """None: any region."""
    as_of: date
    source: str
    """Where the prices were read."""
    currency: str
    requests: Mapping[str, Decimal]
    """The price of a thousand requests, by one of REQUESTS; one that is not in it is unknown."""
    egress: Sequence[tuple[Decimal, Decimal]]
    """From how many GB on each further one costs how much; empty: unknown."""
    file: str
    """The file that has it."""

    def covers(self, store: str, host: str, region: str | None) -> bool:
        """Return whether it is the price of a store of this kind."""
        if self.store != store or (self.region is not None and self.region != region):
            return False
        return self.host is None or fnmatchcase(host.lower(), self.host.lower())

    def egress_of(self, size: int) -> Decimal | None:
        """Return the price of some bytes that leave the store; None if it is unknown."""
        if not self.egress:
            return None
        left, total = Decimal(size) / GB, Decimal(0)
        # From the last step to the first: each one takes what is above its beginning.
        for begin, rate in reversed(self.egress):
            if left > begin:
                total += (left - begin) * rate
                left = begin
        return total


def load_prices(path: Path | None) -> tuple[Price, ...]:
    """Return the prices of the user's file, if there is one, and after them those that relay has.
    Raises ConfigError for a file that can't be read, or that has a mistake."""
    shipped = files("relay.prices").joinpath("shipped.toml").read_text("utf-8")
    found = _prices_of(shipped, "relay's prices")
    if path is None:
        return found
    try:
        text = read_small(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror})") from None
    return _prices_of(text, str(path)) + found


def price_of(prices: Sequence[Price], store: str, host: str, region: str | None) -> Price | None:
    """Return the first price that is that of a store, or None."""
    return next((one for one in prices if one.covers(store, host, region)), None)


def _prices_of(text: str, file: str) -> tuple[Price, ...]:
    try:
        members = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    rows = members.get("price")
    if set(members) - {"price"} or not isinstance(rows, list):
        raise ConfigError(f"{file}: it has [[price]] entries only")
    return tuple(_price_of(row, file, number) for number, row in enumerate(rows, 1))


def _price_of(row: Any, file: str, number: int) -> Price:
    place = f"{file}: price {number}"
    if not isinstance(row, dict):
        raise ConfigError(f"{place}: it is not a table")
    unknown = sorted(set(row) - _MEMBERS)
    if unknown:
        raise ConfigError(f"{place}: {unknown[0]!a} is not a member of a price")
    as_of = row.get("as_of")
    if type(as_of) is not date:
        raise ConfigError(f"{place}: as_of is not a date, as 2026-11-01")
    for name in ("store", "source", "currency"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise ConfigError(f"{place}: {name} is missing")
    for name in ("host", "region"):
        if name in row and not isinstance(row[name], str):
            raise ConfigError(f"{place}: {name} is not a text")
    rates = {
        kind: _amount(row[f"{kind}_1000"], f"{place}: {kind}_1000")
        for kind in REQUESTS
        if f"{kind}_1000" in row
    }
    return Price(
        store=row["store"],
        host=row.get("host"),
        region=row.get("region"),
        as_of=as_of,
        source=row["source"],
        currency=row["currency"],
        requests=rates,
        egress=_steps_of(row.get("egress_gb", []), f"{place}: egress_gb"),
        file=file,
    )


def _steps_of(value: Any, place: str) -> tuple[tuple[Decimal, Decimal], ...]:
    """Return the steps of a price by volume, in order. Raises ConfigError."""
    if not isinstance(value, list):
        raise ConfigError(f"{place} is not a list of pairs")
    steps: list[tuple[Decimal, Decimal]] = []
    for one in value:
        if not isinstance(one, list) or len(one) != 2:
            raise ConfigError(f"{place} is not a list of pairs")
        steps.append((_amount(one[0], place), _amount(one[1], place)))
    begins = [begin for begin, _ in steps]
    if begins and (begins[0] != 0 or begins != sorted(set(begins))):
        raise ConfigError(f"{place}: the steps begin at 0, each above the one before it")
    return tuple(steps)


def _amount(value: Any, place: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{place} is not a number")
    amount = Decimal(str(value))
    if not amount.is_finite() or amount < 0:
        raise ConfigError(f"{place} is not an amount of money")
    return amount
