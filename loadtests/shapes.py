"""Load shapes: the number of users at each moment. LOAD_SHAPE=ramp, spike or soak chooses one.

`LOAD_USERS` and `LOAD_SECONDS` scale them: users at the top, and seconds from start to end."""

from __future__ import annotations

import os
from typing import ClassVar

from locust import LoadTestShape

Stages = tuple[tuple[float, float], ...]
"""Pairs of a share of the time and the share of the users until then."""
STAGES: dict[str, Stages] = {
    "ramp": tuple(((step + 1) / 10, (step + 1) / 10) for step in range(10)),
    "spike": ((0.3, 0.1), (0.5, 1.0), (0.7, 0.1), (0.8, 1.0), (1.0, 0.1)),
    "soak": ((1.0, 1.0),),
}


def users_at(stages: Stages, share: float, users: int) -> int | None:
    """Return the number of users, at least one, when `share` of the time is over; None at the
    end."""
    for until, of_users in stages:
        if share < until:
            return max(round(of_users * users), 1)
    return None


class Shape(LoadTestShape):
    """The base of the shapes; locust asks `tick` once a second."""

    abstract = True
    stages: ClassVar[Stages] = ()

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and how many may be spawned a second, or None at the end."""
        users = int(os.environ.get("LOAD_USERS", "20"))
        seconds = float(os.environ.get("LOAD_SECONDS", "60"))
        count = users_at(self.stages, self.get_run_time() / seconds, users)
        return None if count is None else (count, float(users))


class Ramp(Shape):
    """Ten steps up."""

    abstract = False
    stages = STAGES["ramp"]


class Spike(Shape):
    """Calm, then all at once, twice."""

    abstract = False
    stages = STAGES["spike"]


class Soak(Shape):
    """All users, from the start to the end."""

    abstract = False
    stages = STAGES["soak"]


SHAPES: dict[str, type[Shape]] = {"ramp": Ramp, "spike": Spike, "soak": Soak}
