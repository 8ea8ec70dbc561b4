"""Facts learned about stores, kept so that later objects need not learn them again.

Only facts that may be wrong without harm: a folder existed, a request was not understood.
"""

from __future__ import annotations

from relay.location import Origin

FACTS = 50_000
"""Maximum number of facts that are kept; the least recently used are forgotten first."""


class CapabilityCache:
    """Facts about origins, each a short text. As long as the process lives, at most `most` of
    them."""

    def __init__(self, most: int = FACTS) -> None:
        self._most = most
        self._facts: dict[tuple[Origin, str], None] = {}

    def has(self, origin: Origin, fact: str) -> bool:
        """Return whether the cache has this fact."""
        key = (origin, fact)
        if key not in self._facts:
            return False
        self._facts[key] = self._facts.pop(key)
        return True

    def learn(self, origin: Origin, fact: str) -> None:
        """Keep the fact."""
        self._facts[(origin, fact)] = None
        while len(self._facts) > self._most:
            del self._facts[next(iter(self._facts))]

    def forget(self, origin: Origin, fact: str) -> bool:
        """Forget the fact; return whether it was known."""
        return self._facts.pop((origin, fact), 0) is None
