"""The canonical form of JSON (RFC 8785), beside a package that has all of it."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from relay.reports.canonical_json import MOST, canonical

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MOST, MOST) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_the_form_is_that_of_the_rfc(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


def test_the_string_of_the_rfc() -> None:
    """The one of section 3.2.2, and the ends of the escapes."""
    text = '\u20ac$\u000f\nA\'B"\\\\"/'
    assert canonical({"string": text}) == (
        '{"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'.encode()
    )
    assert canonical("\x1f\x7f\u2028\U0001f600") == '"\\u001f\x7f\u2028\U0001f600"'.encode()


@pytest.mark.parametrize(
    "value", [1.0, MOST + 1, -MOST - 1, {"é": 1}, {1: 2}, "\ud800", ("a",), b"a", [{"a": [0.5]}]]
)
def test_a_value_without_one_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical(value)
