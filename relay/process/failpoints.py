"""Places at which a test can end relay: `RELAY_FAILPOINT=name:count:action`, for tests only.

Theory of operation. The code calls `reach("name")` where a crash would do most harm. Without the
variable that function does nothing (some tens of nanoseconds). With it, the `count`th visit of the
named place does the action, once: `kill9` (SIGKILL to this process, after which no code runs, not
even `finally`), `exit` (SystemExit), `raise` (FailpointReached, which relay treats as a bug) or
`sleep:SECONDS`. Each process counts for itself.

Decided here: the names, and what happens at them. Never here: anything that a test asserts.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relay.errors import ConfigError

VARIABLE = "RELAY_FAILPOINT"
EXIT_CODE = 86
"""The exit code of the action `exit`, which nothing else has."""

POINTS: Mapping[str, str] = {
    "after-accept": "a migration's row is durable, and its id not yet returned",
    "before-page": "a page of a listing was read, and not written yet",
    "after-page": "a page of a listing was written",
    "after-claim": "transfers were claimed, and none of them has started",
    "after-pin": "the source's version is known",
    "before-begin": "it is recorded that a multipart upload is about to be created",
    "after-begin-sent": "the request that creates it is sent, and its answer not read",
    "after-begin": "a multipart upload was created, and its id is not recorded yet",
    "after-begin-row": "its id is recorded, and no part was sent",
    "mid-part": (
        "some of the bytes of a part, or of an object in one piece, were handed over, and not all"
    ),
    "after-put-sent": (
        "all bytes of a part or an object were handed over, and the answer was not read"
    ),
    "after-part": "the destination has acknowledged a part, and that is not recorded yet",
    "after-part-row": "it is recorded that the destination has a part",
    "before-complete": "all parts were acknowledged, and the upload is about to be completed",
    "after-complete-sent": "the request that completes it is sent, and its answer not read",
    "after-complete": "the object is stored, and that is not recorded yet",
    "before-verify": "the destination has acknowledged the object, and nothing is proved",
    "during-verify": "the object is being read back",
    "before-publish": "the object is proved, and still has its temporary name",
    "after-move-sent": "the request that publishes it is sent, and its answer not read",
    "mid-publish": "a local object has both names, its own and the temporary one",
    "after-publish": "the object is visible at its place, and that is not recorded yet",
    "before-settle": "transfers have ended, and that is not recorded yet",
    "after-settle": "the ends of transfers are recorded",
    "after-delete-intent": "it is recorded that objects are about to be deleted at the source",
    "before-delete": "an object may be deleted at the source, and was not yet",
    "after-delete": "an object was deleted at the source, and that is not recorded yet",
    "before-delete-row": "objects were deleted at the source, and that is not recorded yet",
    "before-abort": "an upload is about to be aborted",
    "after-abort-sent": "the request that aborts it is sent, and its answer not read",
    "after-abort": "an upload was aborted, and that is not recorded yet",
    "during-sweep": "the leftovers of a lost attempt are about to be removed",
}
"""Every place by its name."""


class FailpointReached(Exception):  # noqa: N818 - a fact, as all names of failures are here
    """The exception of the action `raise`."""


@dataclass(eq=False)
class Failpoint:
    """One armed place: `left` visits until its action is done."""

    name: str
    left: int
    act: Callable[[], None]

    def reach(self, name: str) -> None:
        """Count a visit, and act at the `count`th."""
        if name != self.name:
            return
        self.left -= 1
        if not self.left:
            self.act()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # the signal may reach another thread first; nothing may happen until it has


def _exit() -> None:
    raise SystemExit(EXIT_CODE)


def _raise() -> None:
    raise FailpointReached


def _sleep_for(text: str) -> Callable[[], None]:
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise ValueError(text)
    return lambda: time.sleep(seconds)  # which is gevent's, wherever transfers run


ACTIONS: Mapping[str, Callable[[], None]] = {"kill9": _kill, "exit": _exit, "raise": _raise}


def failpoint_of(text: str) -> Failpoint:
    """Return the failpoint that the variable's text names. Raises ConfigError for a wrong text."""
    name, _, rest = text.partition(":")
    count, _, action = rest.partition(":")
    if name not in POINTS:
        raise ConfigError(
            f"{VARIABLE}: {name!a} is not a failpoint", hint=f"One of {', '.join(POINTS)}."
        )
    word, _, seconds = action.partition(":")
    try:
        act = _sleep_for(seconds) if word == "sleep" else ACTIONS[action]
        if not (count.isascii() and count.isdigit() and int(count)):
            raise ValueError(count)
    except (KeyError, ValueError):
        raise ConfigError(
            f"{VARIABLE} is not name:count:action", hint="As after-pin:1:kill9."
        ) from None
    return Failpoint(name, int(count), act)


def check(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if the variable is set to a wrong text. Each start calls this first."""
    text = environment.get(VARIABLE)
    if text:
        failpoint_of(text)


def _ignore(name: str) -> None:
    """Do nothing: no failpoint is armed."""


def _reach_of(text: str | None) -> Callable[[str], None]:
    try:
        return failpoint_of(text).reach if text else _ignore
    except ConfigError:
        return _ignore  # `check` refuses the start


reach: Callable[[str], None] = _reach_of(os.environ.get(VARIABLE))
"""Reach a place. The action is decided when this module is imported."""
