"""What a sample proves, as plain values and as a sentence.

Decided here: the words of a sample. Never here: what it proves (`engine/sampling.py`)."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

from relay.engine.sampling import NameSample


def sample_members(sample: NameSample) -> dict[str, Any]:
    """Return a sample as plain values. Whoever has the seed can repeat it: a name is chosen if the
    SHA-256 of the seed and the name is below the threshold."""
    share, low, high = sample.interval if sample.examined else (None, None, None)
    return {
        "population": sample.population,
        "examined": sample.examined,
        "unexamined": sample.rest,
        "defects": sample.defects,
        "unproved": sample.unproved,
        "seed": sample.seed,
        "threshold": f"{sample.threshold:064x}",
        "confidence": sample.confidence,
        "fewer_than": sample.bound,
        "share": share,
        "interval": None if share is None else [low, high],
        "statement": sample_statement(sample),
    }


def sample_statement(sample: NameSample) -> str:
    """Return what a sample proves, in one sentence about objects, not about bytes."""
    population, examined = f"{sample.population:,}", f"{sample.examined:,}"
    if not sample.population:
        return "the listings decide every object: nothing was left for the sample"
    how = f"sample of {examined} of the {population} objects that listings do not decide, seed"
    how = f"{how} {sample.seed}"
    confidence = f"{sample.confidence * 100:.8g} %"
    if sample.bound == 0.0:
        return f"all of the {population} objects that listings do not decide were examined"
    if sample.bound is not None:
        most = _percent(sample.bound, ROUND_CEILING)
        return f"with {confidence} confidence fewer than {most} of the objects differ ({how})"
    share, low, high = sample.interval
    limits = f"{_percent(low, ROUND_FLOOR)} to {_percent(high, ROUND_CEILING)}"
    if sample.defects:
        return (
            f"about {_percent(share, ROUND_CEILING)} of the objects differ, with {confidence}"
            f" confidence {limits} ({how})"
        )
    return f"nothing is proved: {sample.unproved:,} objects of the sample are unproved ({how})"


def _percent(share: float, rounding: str) -> str:
    """Return a share in per cent with three digits, rounded to the side that claims less."""
    rounded = Context(prec=3, rounding=rounding).create_decimal_from_float(share * 100)
    return f"{rounded.normalize():f} %"
