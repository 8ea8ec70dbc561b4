"""Combinations of options of which `make test` plays half, and `make test-all` all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

Values = Sequence[Any] | Mapping[str, Any]
"""The values of an option, perhaps with a name for each."""


def in_pairs(**options: Values) -> pytest.MarkDecorator:
    """Play a test with the combinations of three or more options.

    Those of an odd sum of places are campaigns: the others have each pair of values of any two
    options, and a fault that needs three options at once is rare."""
    assert len(options) > 2, "two options have no pairs but their combinations"
    named = [
        [*values.items()] if isinstance(values, Mapping) else [(f"{one}", one) for one in values]
        for values in options.values()
    ]
    rows = []
    for row in itertools.product(*map(enumerate, named)):
        ids, values = zip(*(pair for _, pair in row), strict=True)
        is_played = sum(place for place, _ in row) % 2 == 0
        marks = () if is_played else (pytest.mark.campaign,)
        rows.append(pytest.param(*values, id="-".join(ids), marks=marks))
    return pytest.mark.parametrize([*options], rows)
