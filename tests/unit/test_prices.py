"""Prices come from dated files, and an unknown price is never 0."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ConfigError
from relay.prices.money import StoreUse, bill_of
from relay.prices.price_list import GB, OLD_DAYS, load_prices, price_of

OWN = """
[[price]]
store = "s3"
host = "*.example"
as_of = 2026-11-01
source = "https://prices.example/"
currency = "EUR"
egress_gb = [[0, 0.1], [10, 0.05]]
put_1000 = 0.005
get_1000 = 0.0004
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "prices.toml").write_text(OWN)
    return tmp_path / "prices.toml"


def test_every_shipped_price_has_a_date_and_a_source() -> None:
    prices = load_prices(None)
    assert prices
    for one in prices:
        assert one.source.startswith("https://") and one.as_of <= date.today()
        assert one.host is not None and set(one.requests) == {"list", "get", "head", "put"}
    assert price_of(prices, "s3", "b.s3.eu-central-1.amazonaws.com", "eu-central-1") is not None
    assert price_of(prices, "s3", "b.s3.mars-1.amazonaws.com", "mars-1") is None
    assert price_of(prices, "webdav", "b.s3.eu-central-1.amazonaws.com", None) is None


def test_a_price_of_the_user_comes_first(own: Path) -> None:
    own.write_text(OWN.replace('host = "*.example"\n', ""))
    found = price_of(load_prices(own), "s3", "b.s3.eu-central-1.amazonaws.com", "eu-central-1")
    assert found is not None and (found.currency, found.file) == ("EUR", str(own))


def test_what_is_unknown_is_not_free(own: Path) -> None:
    """It has a line, and its name; the sum is of the others."""
    prices = load_prices(own)
    uses = [
        StoreUse(
            side="source",
            requests={"list": 3, "get": 10_000, "head": 0},
            egress_bytes=12 * GB,
            price=price_of(prices, "s3", "b.example", None),
        ),
        StoreUse(side="destination", requests={"put": 5}, egress_bytes=0, price=None),
    ]
    bill = bill_of(uses)
    assert bill.unknown == ["list at the source", "put at the destination"]
    assert bill.totals == {"EUR": Decimal("0.004") + Decimal("1.1")}
    members = bill.to_json(date(2026, 11, 30))
    assert members["totals"] == {"EUR": "1.104000"} and members["oldest"] == "2026-11-01"
    assert members["files"] == [str(own)] and members["warnings"] == []
    money = {(line["side"], line["item"]): line["money"] for line in members["items"]}
    assert money == {
        ("source", "list"): None,
        ("source", "get"): "0.004000",
        ("source", "egress"): "1.100000",
        ("destination", "put"): None,
    }


def test_old_prices_are_shown_with_a_warning(own: Path) -> None:
    price = price_of(load_prices(own), "s3", "b.example", None)
    use = StoreUse(side="source", requests={"get": 1}, egress_bytes=0, price=price)
    bill = bill_of([use])
    first = date(2026, 11, 1)
    assert not bill.warnings(date.fromordinal(first.toordinal() + OLD_DAYS))
    (warning,) = bill.warnings(date.fromordinal(first.toordinal() + OLD_DAYS + 1))
    assert "2026-11-01" in warning and "https://prices.example/" in warning


@given(st.integers(0, 100 * GB))
def test_a_step_of_a_price_is_for_what_is_above_it(size: int) -> None:
    price = load_prices(None)[0]
    found = price.egress_of(size)
    assert found is not None and 0 <= found <= Decimal(size) / GB * price.egress[0][1]
    assert price.egress_of(size + GB) > found  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("2026-11-01", '"yesterday"'), "price 1: as_of is not a date"),
        (("put_1000 = 0.005", 'put_1000 = "free"'), "put_1000 is not a number"),
        (("0.0004", "-1"), "get_1000 is not an amount"),
        (("0.0004", "nan"), "get_1000 is not an amount"),
        (("[10, 0.05]", "[0, 0.05]"), "the steps begin at 0"),
        (("[10, 0.05]", "[10]"), "is not a list of pairs"),
        (('currency = "EUR"', ""), "currency is missing"),
        (("get_1000", "got_1000"), "'got_1000' is not a member"),
        (("[[price]]", "[price]"), "[[price]] entries only"),
        (("[[price]]", "[[price"), "prices.toml: "),
    ],
)
def test_a_mistake_in_a_price_file_is_one_line(
    own: Path, change: tuple[str, str], says: str
) -> None:
    own.write_text(OWN.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_prices(own)
    assert says in caught.value.message and "\n" not in caught.value.message


def test_a_price_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_prices(tmp_path / "none.toml")
