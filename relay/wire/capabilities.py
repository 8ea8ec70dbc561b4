"""Facts learned about stores, kept so that later objects need not learn them again.

Facts that may be wrong without harm: a folder existed, a request was not understood. A fact that
does harm elsewhere names the server or the bucket that showed it: one origin may have several.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gevent.event import Event

from relay.location import Origin

FACTS = 50_000
"""Maximum number of facts that are kept; the least recently used are forgotten first."""


class CapabilityCache:
    """Facts about origins, each a short text. As long as the process lives, at most `most` of
    them."""

    def __init__(self, most: int = FACTS) -> None:
        self._most = most
        self._facts: OrderedDict[tuple[Origin, str], None] = OrderedDict()
        """The least recently used first."""
        self._learners: dict[tuple[Origin, str], Event] = {}

    def has(self, origin: Origin, fact: str) -> bool:
        """Return whether the cache has this fact."""
        key = (origin, fact)
        if key not in self._facts:
            return False
        self._facts.move_to_end(key)
        return True

    def learn(self, origin: Origin, fact: str) -> None:
        """Keep the fact."""
        self._facts[(origin, fact)] = None
        while len(self._facts) > self._most:
            self._facts.popitem(last=False)

    def forget(self, origin: Origin, fact: str) -> bool:
        """Forget the fact; return whether it was known."""
        # None is the value of each known fact.
        return self._facts.pop((origin, fact), 0) is None

    @contextmanager
    def learning(
        self, origin: Origin, fact: str, tick: Callable[[], None], tick_seconds: float
    ) -> Iterator[None]:
        """Run a block that learns a fact. If another greenlet is in such a block for the same fact,
        wait for its end first, with a `tick` every `tick_seconds`: the fact may be known then.

        Only the first one is waited for. If it does not learn the fact, the others run at once."""
        key = (origin, fact)
        first = self._learners.get(key)
        if first is not None:
            while not first.wait(tick_seconds):
                tick()
            yield
            return
        self._learners[key] = ended = Event()
        try:
            yield
        finally:
            del self._learners[key]
            ended.set()
