"""What a migration costs: a line for each kind of request and for the traffic of each store.

Decided here: the lines, and that an unknown price is never 0. Never here: how many requests there
are (`engine/request_counts.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from relay.prices.price_list import OLD_DAYS, Price


@dataclass(frozen=True, kw_only=True)
class StoreUse:
    """What a migration asks of one store."""

    side: str
    requests: Mapping[str, int]
    """The number of requests by kind (`list`, `get`, `head`, `put`)."""
    egress_bytes: int
    """The bytes that leave it."""
    price: Price | None


@dataclass(frozen=True, kw_only=True)
class MoneyLine:
    """One item of the bill."""

    side: str
    item: str
    """A kind of request, or `egress`."""
    amount: int
    """The number of requests, or of bytes."""
    money: Decimal | None
    """None: it is unknown."""
    currency: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; money is a decimal text."""
        money = None if self.money is None else _text(self.money)
        return {
            "side": self.side,
            "item": self.item,
            "amount": self.amount,
            "money": money,
            "currency": self.currency,
        }


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What a migration costs, as far as prices are known."""

    lines: Sequence[MoneyLine]
    prices: Sequence[Price]
    """Those that were used."""

    @property
    def totals(self) -> dict[str, Decimal]:
        """The sum of the known lines, by currency."""
        found: dict[str, Decimal] = {}
        for line in self.lines:
            if line.money is not None and line.currency is not None:
                found[line.currency] = found.get(line.currency, Decimal(0)) + line.money
        return found

    @property
    def unknown(self) -> list[str]:
        """The items without a price."""
        return [f"{line.item} at the {line.side}" for line in self.lines if line.money is None]

    def warnings(self, today: date) -> list[str]:
        """Return a sentence for each price that is older than OLD_DAYS."""
        old = [one for one in self.prices if (today - one.as_of).days > OLD_DAYS]
        return [
            f"the prices of {one.store} in {one.file} are of {one.as_of}: check {one.source}"
            for one in old
        ]

    def to_json(self, today: date) -> dict[str, Any]:
        """Return it as plain values. The totals name their files and the oldest date."""
        dates = [one.as_of for one in self.prices]
        return {
            "items": [line.to_json() for line in self.lines],
            "totals": {name: _text(money) for name, money in sorted(self.totals.items())},
            "unknown": self.unknown,
            "files": sorted({one.file for one in self.prices}),
            "oldest": min(dates).isoformat() if dates else None,
            "warnings": self.warnings(today),
        }


def bill_of(uses: Sequence[StoreUse]) -> Bill:
    """Return what some uses of stores cost. What is not used has no line."""
    lines: list[MoneyLine] = []
    for use in uses:
        price = use.price
        currency = None if price is None else price.currency
        for kind, count in use.requests.items():
            if not count:
                continue
            rate = None if price is None else price.requests.get(kind)
            money = None if rate is None else rate * count / 1000
            lines.append(_line(use.side, kind, count, money, currency))
        if use.egress_bytes:
            money = None if price is None else price.egress_of(use.egress_bytes)
            lines.append(_line(use.side, "egress", use.egress_bytes, money, currency))
    prices: list[Price] = []
    for use in uses:
        is_used = any(use.requests.values()) or use.egress_bytes > 0
        if use.price is not None and is_used and use.price not in prices:
            prices.append(use.price)
    return Bill(lines=lines, prices=prices)


def _line(
    side: str, item: str, amount: int, money: Decimal | None, currency: str | None
) -> MoneyLine:
    known = None if money is None else currency
    return MoneyLine(side=side, item=item, amount=amount, money=money, currency=known)


def _text(money: Decimal) -> str:
    return f"{money:.6f}"
