"""The case of one seed: two stores with habits, a small tree or an object, options, and a history.

Theory of operation. Seed n has the n-th of the designs: sets of two to four habits that cover each
possible pair. One seed in twelve has no habit. Everything else follows from the seed's own
generator. A case is plain data: shrinking only removes habits from it. A share of the seeds has one
habit more.

Decided here: the cases. Never here: how a case is played (`world.py`) and judged (`judge.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from random import Random

from relay.process.failpoints import POINTS
from simulators.liars.habits import BY_NAME, HABITS

MIB = 1 << 20
PART = 5 * MIB
Trait = tuple[str, str]
"""A role and the name of a habit."""
Options = tuple[str | None, str]
"""The values of --if-exists, or None, and of --verify."""
SOURCES = ("http", "webdav", "s3", "local")
DESTINATIONS = ("http", "webdav", "s3", "local")
NAMES = (
    "a.txt",
    "b b.bin",
    "sub/x.bin",
    "sub/deep/y.dat",
    "ü.txt",
    "#1 100%.txt",
    ".dot",
    "sub/plus+and&.txt",
    "z",
)
TWINS = {
    "folds-case": ("A.txt", "SUB/x.bin", "Z"),
    "folds-folders": ("A.txt", "SUB/x.bin", "SUB/Deep/z", "Z"),
    "negotiates": ("a", "z.html", "sub/plus+and&"),
    "folds-nfc": ("u\u0308.txt",),
    "folds-trailing": ("z.", "a.txt ", "sub./x.bin"),
    "folds-plus": ("sub/plus and&.txt", "b+b.bin"),
}
"""Names that a destination with this habit treats as one of NAMES."""
SIZES = (0, 1, 10, 1000, 70_000, 300_000)
LARGE = (PART - 1, PART, PART + 1, 2 * PART + 7)
MORE, TRIED = 2, 16
"""The number of traits added to a pair, and the number of candidates from which each is chosen."""
SERVED = 0.12
"""The share of seeds without a kill that use a server."""
HONEST = 12
"""One seed in this number has no habits."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of `every` seeds, the one that leaves this `rest` gets this `trait` besides its design, if
    its stores can have it and one of `stores` plays that role."""

    every: int
    rest: int
    trait: Trait
    stores: tuple[str, ...] = SOURCES


SHARES = (
    Share(every=97, rest=13, trait=("destination", "vanishes-always")),
    Share(every=97, rest=31, trait=("source", "hangs-always")),
    Share(every=97, rest=47, trait=("destination", "hangs-always")),
    Share(every=97, rest=79, trait=("source", "busy-always")),
    Share(every=97, rest=71, trait=("destination", "busy-always")),
    Share(every=41, rest=5, trait=("source", "list-cut"), stores=("webdav", "s3")),
)
"""Habits under which an object never arrives, which no design has; and XML listings that are cut
off, which too few designs have."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a history: `migrate` (with a failpoint, or none); `retry` of the failed objects;
    `fresh`, the same with fresh credentials, which either the command itself brings (`same`) or
    another command passes to the migration (`other`); `cancel`; `grow`: the source gets an object;
    or `replace`: its first object becomes another one of the same size and an older date (`cp -p`,
    `mv`)."""

    kind: str
    failpoint: str | None = None
    how: str = ""
    options: Options | None = None
    """The options of this command, if they differ from the case's."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One seed."""

    seed: int
    source: str
    destination: str
    traits: tuple[Trait, ...]
    tree: bool
    objects: tuple[tuple[str, int], ...]
    before: tuple[tuple[str, str], ...]
    if_exists: str | None
    verify: str
    steps: tuple[Step, ...]
    served: bool = False
    """Through a server instead of in a terminal."""

    def options(self, step: Step) -> Options:
        """Return the options of a step's command."""
        return step.options or (self.if_exists, self.verify)

    def wish(self, step: Step) -> str:
        """Return the effective --if-exists of a step's command."""
        return self.options(step)[0] or ("changed" if self.tree else "overwrite")

    def habits(self, role: str) -> tuple[str, ...]:
        """Return the habits of the store in this role."""
        return tuple(name for side, name in self.traits if side == role)

    def has(self, role: str, *names: str) -> bool:
        """Return whether the store in this role has one of these habits."""
        return any(side == role and name in names for side, name in self.traits)

    def only(self, traits: tuple[Trait, ...]) -> Case:
        """Return the case with these habits alone."""
        return replace(self, traits=traits)

    def summary(self) -> str:
        """Return the case in one line."""
        habits = " ".join(f"{role}:{name}" for role, name in self.traits) or "(no habits)"
        steps = " ".join(
            step.kind
            + (f"@{step.failpoint}" if step.failpoint else step.how)
            + (f"({step.options[0]}, {step.options[1]})" if step.options else "")
            for step in self.steps
        )
        objects = " ".join(f"{name!r}={size}" for name, size in self.objects)
        before = " ".join(f"{name!r}:{how}" for name, how in self.before) or "nothing"
        return (
            f"{self.source}->{self.destination} {'tree' if self.tree else 'object'} if_exists={self.if_exists} "
            f"{'served ' if self.served else ''}"
            f"verify={self.verify} [{habits}] steps: {steps}; objects: {objects}; before: {before}"
        )


@cache
def pairs() -> tuple[frozenset[Trait], ...]:
    """Return all pairs of traits that two stores, or one, may have together, in random order."""
    found = [frozenset(two) for two in combinations(_traits(), 2) if together(two)]
    Random(20).shuffle(found)
    return tuple(found)


@cache
def designs() -> tuple[tuple[Trait, ...], ...]:
    """Return sets of traits that cover each pair: an uncovered pair, and up to two traits that
    cover most further pairs."""
    random, left, found = Random(21), dict.fromkeys(pairs()), []
    while left:
        traits = tuple(sorted(next(iter(left))))
        for _ in range(MORE):
            fitting = [one for one in random.sample(_traits(), TRIED) if together((*traits, one))]
            gains = {
                one: sum(frozenset((one, other)) in left for other in traits) for one in fitting
            }
            if gains and max(gains.values()):
                traits = (*traits, max(gains, key=gains.__getitem__))
        for two in combinations(traits, 2):
            left.pop(frozenset(two), None)
        found.append(traits)
    random.shuffle(found)
    return tuple(found)


def _traits() -> list[Trait]:
    return [(role, habit.name) for habit in HABITS for role in habit.roles if not habit.endless]


def together(traits: Sequence[Trait]) -> bool:
    """Return whether two stores can have these traits: no two of a group, and kinds that support
    all of them."""
    for role in ("source", "destination"):
        habits = [BY_NAME[name] for side, name in traits if side == role]
        if len({habit.group for habit in habits}) < len(habits):
            return False
        if not set(SOURCES).intersection(*(habit.stores for habit in habits)):
            return False
    return True


def draw(seed: int) -> Case:
    """Return the case of a seed."""
    random = Random(seed)
    traits = () if seed % HONEST == 0 else designs()[(seed - seed // HONEST - 1) % len(designs())]
    share = _share(seed, traits)
    traits = (*traits, share.trait) if share is not None else traits
    source, destination = random.choice(_possible_pairs(traits, share))
    tree = random.random() < 0.7
    large = destination == "s3" and ((not tree and random.random() < 0.5) or _is_of_parts(traits))
    tree = tree and not large
    objects = _objects(random, tree, large, traits)
    options = _options(random, tree, traits)
    before = _prior_objects(random, objects, options[0])
    steps = _steps(random, tree, traits)
    served = random.random() < SERVED and not any(step.failpoint for step in steps)
    return Case(
        seed=seed,
        source=source,
        destination=destination,
        traits=traits,
        tree=tree,
        objects=objects,
        before=before,
        if_exists=options[0],
        verify=options[1],
        steps=steps,
        served=served,
    )


def _is_of_parts(traits: tuple[Trait, ...]) -> bool:
    """Return whether these traits only affect objects in parts, which S3 alone accepts."""
    return any(BY_NAME[name].group in ("multipart", "ranges") for _, name in traits)


def _share(seed: int, traits: tuple[Trait, ...]) -> Share | None:
    """Return the share that a seed belongs to, if its stores can have that trait as well."""
    mine = (share for share in SHARES if traits and seed % share.every == share.rest)
    fits = (
        share
        for share in mine
        if together((*traits, share.trait)) and _possible_pairs((*traits, share.trait), share)
    )
    return next(fits, None)


def _possible_pairs(traits: tuple[Trait, ...], share: Share | None) -> list[tuple[str, str]]:
    """Return the pairs of kinds of stores that can have these traits."""
    return [
        pair
        for pair in product(SOURCES, DESTINATIONS)
        if all(pair[role == "destination"] in BY_NAME[name].stores for role, name in traits)
        and (share is None or pair[share.trait[0] == "destination"] in share.stores)
    ]


def _objects(
    random: Random, tree: bool, large: bool, traits: tuple[Trait, ...]
) -> tuple[tuple[str, int], ...]:
    if not tree:
        return ((random.choice(NAMES), random.choice(LARGE if large else SIZES)),)
    names = random.sample(NAMES, random.randint(1, 5))
    for habit, twins in TWINS.items():
        if ("destination", habit) in traits:
            names = list(
                dict.fromkeys([*names, *NAMES[:1], *NAMES[-1:], NAMES[4], NAMES[7], *twins])
            )
    return tuple((name, random.choice(SIZES)) for name in names)


def _options(random: Random, tree: bool, traits: tuple[Trait, ...]) -> tuple[str | None, str]:
    if_exists = random.choice((None, None, "overwrite", "skip", "fail", "changed"))
    verify = random.choice(("auto", "auto", "auto", "read_back", "size"))
    return if_exists, verify


def _prior_objects(
    random: Random, objects: tuple[tuple[str, int], ...], if_exists: str | None
) -> tuple[tuple[str, str], ...]:
    """Return the prior bytes at the destination: equal bytes, others of the same length, or longer
    ones."""
    often = 0.2 if if_exists is None else 0.5
    named = [
        (name, random.choice(("same", "as-long", "longer")))
        for name, _ in objects
        if random.random() < often
    ]
    return tuple([*named, ("someone's.txt", "longer")] if random.random() < 0.3 else named)


def _steps(random: Random, tree: bool, traits: tuple[Trait, ...]) -> tuple[Step, ...]:
    migrate = Step(kind="migrate")
    dice = random.random()
    if any(name.startswith("expires-") for _, name in traits):
        return _expiry_history(random, dice)
    if dice < 0.7 and any(name in ("keeps-piece", "part-emptied") for _, name in traits):
        # A command that skips existing objects must not mistake the piece for an object.
        skip = Step(kind="migrate", options=("skip", _options(random, tree, traits)[1]))
        return (
            Step(kind="migrate", failpoint="mid-part:1:kill9"),
            random.choice((migrate, skip)),
        )
    if dice < 0.45:
        return (migrate,)
    other = Step(kind="migrate", options=_options(random, tree, traits))
    if dice < 0.5:
        return (migrate, Step(kind="replace"), random.choice((migrate, other)))
    if dice < 0.6:
        return (migrate, random.choice((migrate, other)))
    if dice < 0.7:
        return (migrate, Step(kind="retry"))
    if dice < 0.8:
        return (migrate, Step(kind="grow"), migrate) if tree else (migrate, migrate)
    places = random.sample(sorted(POINTS), 2 if random.random() < 0.2 else 1)
    killed = tuple(
        Step(kind="migrate", failpoint=f"{place}:{random.choice((1, 1, 2))}:kill9")
        for place in places
    )
    if random.random() < 0.3:
        cancelled = (Step(kind="cancel"),) if random.random() < 0.5 else ()
        return (*killed, *cancelled, other)
    return (*killed, Step(kind="retry") if random.random() < 0.2 else migrate)


def _expiry_history(random: Random, dice: float) -> tuple[Step, ...]:
    """Return a history in which credentials expire and are replaced."""
    fresh = Step(kind="fresh", how=random.choice(("same", "other")))
    if dice < 0.6:
        return (Step(kind="migrate"), fresh)
    if dice < 0.75:
        return (Step(kind="migrate"), Step(kind="retry"), fresh)
    place = random.choice(sorted(POINTS))
    return (Step(kind="migrate", failpoint=f"{place}:1:kill9"), fresh)
