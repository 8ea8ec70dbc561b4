"""When a habit occurs: by seed, by name, and by the number of earlier times. Decided here: chance
and memory. Never here: the effect of a habit. Two runs of one seed draw the same for one name, in
any order of requests."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection


class StoreHabits:
    """The habits of one store. `met` counts how often each has occurred."""

    def __init__(self, habits: Collection[str], seed: int) -> None:
        self.habits = frozenset(habits)
        self.met: Counter[str] = Counter()
        self._seed = seed
        self._seen: set[tuple[object, ...]] = set()
        self._lock = threading.Lock()

    def has(self, habit: str) -> bool:
        """Return whether the store has it."""
        return habit in self.habits

    def does(self, habit: str) -> bool:
        """Return whether the store has it, and count that it occurs."""
        if habit not in self.habits:
            return False
        with self._lock:
            self.met[habit] += 1
        return True

    def once(self, habit: str, *key: object) -> bool:
        """Return whether it occurs now: the first time for this key, and never again for it."""
        if habit not in self.habits:
            return False
        with self._lock:
            if (habit, *key) in self._seen:
                return False
            self._seen.add((habit, *key))
            self.met[habit] += 1
        return True

    def picks(self, habit: str, *key: object, share: float = 0.5) -> bool:
        """Return whether it occurs for this key, which it does for that `share` of the keys."""
        return habit in self.habits and self.roll(habit, *key) < share and self.does(habit)

    def roll(self, *key: object) -> float:
        """Return a number in [0, 1) that follows from the seed and the key."""
        text = repr((self._seed, key)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / (1 << 48)
