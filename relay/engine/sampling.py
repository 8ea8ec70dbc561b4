"""A random sample of the names that the listings do not decide, and what it proves about all of
them.

Theory of operation. The SHA-256 of the seed and a name is a random number of that name. The names
with the smallest numbers are the sample: the same ones in whatever order they are listed, and
anybody who has the seed can repeat the choice. The number of a name that is not chosen is at least
the threshold, which is known once all names were listed; so the names that may still be chosen are
kept, at most as many as the sample has, and memory does not grow with the trees.

A sample without a defect proves: were the share of defects `p` or more, `n` names without one would
be found with a probability of at most (1 - p)^n. A sample is drawn without repetition from a finite
number of names, which makes this bound safe, and the interval of Clopper and Pearson (Biometrika
26, 1934) too.

Decided here: which names are chosen, and what the sample proves. Never here: what a defect is."""

from __future__ import annotations

import hashlib
import heapq
import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from relay.sorting.merge import Pair

MOST_SAMPLED: Final = 1_000_000
"""Maximum size of a sample: its names are held in memory, some 700 bytes each."""
_ALL: Final = 1 << 256
"""A threshold that every number is below."""


def sample_size(confidence: float, defects: float) -> int:
    """Return the number of objects without a defect that show, with this confidence, that fewer
    than this share of all objects have one. Both are between 0 and 1."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-defects))


def sample_number(seed: bytes, key: bytes) -> int:
    """Return the number of a name, by its bytes: it is chosen if this is below the threshold."""
    return int.from_bytes(hashlib.sha256(seed + key).digest(), "big")


@dataclass(eq=False)
class NameSample:
    """The sample of one comparison, of at most `size` names."""

    size: int
    seed: str
    _: KW_ONLY
    confidence: float = 0.99
    population: int = 0
    """Number of names that were offered so far."""
    defects: int = 0
    unproved: int = 0
    """Numbers of examined names that have a defect, and of those that nothing proves."""
    examined: int = 0
    _kept: list[tuple[int, bytes, Pair]] = field(default_factory=list)
    """The pairs that may still be chosen, as a heap with the largest number first."""

    def __post_init__(self) -> None:
        """Encode the seed once."""
        self._seed = self.seed.encode()

    def offer(self, pair: Pair) -> None:
        """Offer a pair, whose name is not offered twice."""
        self.population += 1
        row = pair[0] or pair[1]
        assert row is not None  # a pair has a row
        entry = (-sample_number(self._seed, row.key), row.key, pair)
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, entry)
        elif entry[0] > self._kept[0][0]:
            heapq.heapreplace(self._kept, entry)

    def chosen(self) -> list[Pair]:
        """Return the chosen pairs in the order of their names, once all were offered."""
        return [pair for _, _, pair in sorted(self._kept, key=lambda entry: entry[1])]

    @property
    def threshold(self) -> int:
        """The number below which a name is chosen, once all were offered."""
        is_whole = self.population <= self.size or not self._kept
        return _ALL if is_whole else 1 - self._kept[0][0]

    @property
    def rest(self) -> int:
        """Number of names that were not chosen."""
        return self.population - self.examined

    @property
    def bound(self) -> float | None:
        """The share of defects that is refuted, if every examined name was proved to have none; 0.0
        if that were all names, and None otherwise."""
        if self.defects or self.unproved or not self.examined:
            return None
        if not self.rest:
            return 0.0
        return -math.expm1(math.log(1 - self.confidence) / self.examined)

    @property
    def interval(self) -> tuple[float, float, float]:
        """The share of defects in the sample, and the limits within which, with this confidence,
        the share in all names is. What is not proved counts as no defect below, and as one
        above."""
        n = self.examined
        if not self.rest:
            return self.defects / n, self.defects / n, (self.defects + self.unproved) / n
        tail = (1 - self.confidence) / 2
        low = beta_quantile(tail, self.defects, n - self.defects + 1) if self.defects else 0.0
        most = self.defects + self.unproved
        high = beta_quantile(1 - tail, most + 1, n - most) if most < n else 1.0
        return self.defects / n, low, high


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the quantile of a beta distribution whose parameters are at least 1."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if _beta_share(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return high


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function, by its continued fraction (DLMF 8.17.22),
    which converges fast below the mean."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    # Lentz's method: the fraction is the product of all `c * d`.
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 2000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
            change = c * d
        if abs(change - 1) < 1e-14:
            break
    return front * fraction
