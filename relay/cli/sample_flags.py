"""The flags of `relay verify` that limit what is asked for to a sample."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

import click

from relay.engine.sampling import MOST_SAMPLED, NameSample, sample_size

_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,12})?)\s*%|(0?\.[0-9]{1,14})")


class Share(click.ParamType[float, Any]):
    """A share above 0 and below 1, such as `99%` or `0.99`."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share. Raises click.BadParameter."""
        if isinstance(value, float):
            return value
        found = _SHARE.fullmatch(str(value).strip())
        if found is not None:
            share = float(found[2]) if found[1] is None else float(found[1]) / 100
            if 0 < share < 1:
                return share
        return self.fail(f"{value!r} is not a share such as 99%, 0.01% or 0.99", param, ctx)


SAMPLES = (
    click.option(
        "--sample",
        type=click.IntRange(1, MOST_SAMPLED),
        metavar="N",
        help="Ask for, or read, only N objects of those that the listings do not decide.",
    ),
    click.option("--seed", metavar="S", help="Choose the same sample as another run with S."),
    click.option(
        "--confidence",
        type=Share(),
        metavar="99%",
        help="The confidence of what a sample proves (default: 99%).",
    ),
    click.option(
        "--defects",
        type=Share(),
        metavar="0.01%",
        help="Take a sample large enough to prove that fewer objects than this share differ.",
    ),
)
"""The flags of a sample."""


def sample_of(options: Mapping[str, Any]) -> NameSample | None:
    """Return the sample that the flags describe, or None for all objects. Raises
    click.UsageError."""
    size, defects, seed = options["sample"], options["defects"], options["seed"]
    confidence = options["confidence"]
    if size is None and defects is None:
        if seed is not None or confidence is not None:
            raise click.UsageError("--seed and --confidence need --sample N or --defects SHARE")
        return None
    if size is not None and defects is not None:
        raise click.UsageError("--sample and --defects both choose a size: give one of them")
    confidence = 0.99 if confidence is None else confidence
    if size is None:
        size = sample_size(confidence, defects)
        if size > MOST_SAMPLED:
            raise click.UsageError(
                f"that takes a sample of {size:,} objects, and the maximum is {MOST_SAMPLED:,}:"
                " leave the flag out, or take a larger share"
            )
    return NameSample(size, secrets.token_hex(8) if seed is None else seed, confidence=confidence)
