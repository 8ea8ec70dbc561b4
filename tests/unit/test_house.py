"""The architecture: imports point one way, values know no sockets, and nothing in relay writes to a
disk.

Each rule is a function of source text, and is shown to fail on a text that breaks it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ORDER: tuple[str, ...] = (
    "relay.logs",
    "relay.errors",
    "relay.process.failpoints",
    "relay.process.small_files",
    "relay.process.mounts",
    "relay.process.own_files",
    "relay.process.identities",
    "relay.parsing",
    "relay.caseless",
    "relay.headers",
    "relay.hosts",
    "relay.location",
    "relay.name_folding",
    "relay.redirects",
    "relay.identity",
    "relay.egress",
    "relay.file_names",
    "relay.digest",
    "relay.receipt",
    "relay.filters",
    "relay.sorting",
    "relay.prices",
    "relay.inventories",
    "relay.transfer_limits",
    "relay.setting_values",
    "relay.process.native_threads",
    "relay.process.bounded_calls",
    "relay.config",
    "relay.settings_sources",
    "relay.throttle",
    "relay.retry",
    "relay.tallies",
    "relay.process.early_interrupt",
    "relay.descriptors",
    "relay.process.cooperative",
    "relay.process.core_dumps",
    "relay.process.late_modules",
    "relay.process.memory",
    "relay.wire.capabilities",
    "relay.wire.resolver",
    "relay.wire.address_race",
    "relay.wire.buffers",
    "relay.wire.stream",
    "relay.wire.tls",
    "relay.wire.watchdog",
    "relay.wire.yielding",
    "relay.wire.http1",
    "relay.wire.chunks",
    "relay.wire.response_reader",
    "relay.wire.body",
    "relay.wire.pump",
    "relay.wire.dial",
    "relay.wire.exchange",
    "relay.wire.adapter",
    "relay.stores",
    "relay.ledger",
    "relay.engine",
    "relay.engine.md5_etags",
    "relay.engine.comparison",
    "relay.engine.plan",
    "relay.engine.decisions",
    "relay.engine.plan_file",
    "relay.engine.outcome",
    "relay.engine.retries",
    "relay.engine.inspection",
    "relay.engine.cleanup",
    "relay.engine.proof_levels",
    "relay.engine.tree_listing",
    "relay.engine.multipart",
    "relay.engine.transfer",
    "relay.engine.listing_filter",
    "relay.engine.transfer_engine",
    "relay.engine.migration_request",
    "relay.engine.scratch",
    "relay.engine.doctor",
    "relay.engine.listed_pairs",
    "relay.engine.paired_listings",
    "relay.engine.folds",
    "relay.engine.listed_decisions",
    "relay.engine.object_inspection",
    "relay.engine.dry_run",
    "relay.engine.sampling",
    "relay.engine.comparison_report",
    "relay.engine.folded_pairs",
    "relay.engine.pair_examination",
    "relay.engine.receipt_proof",
    "relay.engine.tree_comparison",
    "relay.engine.receipt_comparison",
    "relay.engine.inventory_comparison",
    "relay.engine.cutover_audit",
    "relay.engine.cutover_checks",
    "relay.engine.refresh",
    "relay.engine.removal",
    "relay.engine.worker",
    "relay.views",
    "relay.reports",
    "relay.metrics",
    "relay.api",
    "relay.ui",
    "relay.api.app",
    "relay.api.serving",
    "relay.cli",
)
"""Each may import the entries above it, and itself. (wsgi and __main__ may import all.)"""

PURE = ORDER[:24]
FORBIDDEN_TO_PURE = ("gevent", "requests", "socket", "ssl", "flask")
TOPS = ("relay.wsgi", "relay.__main__")
LATE = {("relay.api.serving", "relay.wsgi")}
"""gunicorn requests the application after it has forked, so one import is inside a function."""
NO_PAYLOAD = {
    "relay.cli.terminal",
    "relay.engine.plan_file",
    "relay.process.own_files",
    "relay.process.small_files",
    "relay.stores.local",
    "relay.stores.local_deletes",
    "relay.stores.local_files",
    "relay.stores.local_folders",
    "relay.stores.local_upload",
    "relay.inventories.inventory_files",
    "relay.stores.sftp.ssh_secrets",
    "relay.ledger.opening",
    "relay.metrics.shared_folder",
    "relay.metrics.shared_sums",
    "relay.reports.report_check",
    "relay.reports.report_folder",
    "relay.reports.signing_keys",
    "relay.sorting.spill",
}
"""The terminal replaces a closed stdout by /dev/null; no transfer reaches that code. Settings,
and files that may be an open ledger, are opened to be read. A local folder is where a user wants
the bytes. A password or a key for `ssh` goes through a folder of pipes. The ledger creates its own file, and no body reaches it. Numbers of metrics are shared by
files in memory. A signed report and its key are files that a user asks for; they have receipts, and
no payload. Listings are sorted on the disk; they have names, and no payload. Inventories are opened
to be read."""

SHARED_NAMES = {
    *("account", "listing", "objects", "sessions", "store", "stream"),
    *("folded_names", "local_links", "orphans", "progress"),
    *("doctor", "feed", "plan", "remotes"),
}
"""Names of modules that two packages have: the same part of two stores, or of a plain and an
encrypted socket; sessions of TLS, and of browsers; one subject in the ledger, the engine or the views; a command and its subject."""

MOST_FIELDS, MOST_PARAMETERS = 4, 5
"""Numbers of fields of a dataclass, and of parameters of a function, that may go by position."""

PARTICIPLE = re.compile(
    r"[a-z]*ed|(?:for|out|over)?(?:begun|built|caught|done|drawn|found|given|gone|heard|held|"
    r"hidden|kept|known|led|left|lent|lost|made|met|named|said|seen|sent|shown|shut|sought|spent|"
    r"taken|thrown|understood|withdrawn|written)"
)
"""A past participle; words such as `read`, `put` and `cut` may be verbs."""
VERBS_AND_NOUNS = frozenset({"done", "feed", "seaweed", "untagged", "unversioned"})
"""Names that are right: a verb, a noun, and adjectives of values."""


@cache
def modules(package: str) -> Sequence[tuple[str, str]]:
    """Return every module's name and text."""
    return list(_read_modules(package))


def _read_modules(package: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, path.read_text(encoding="utf-8")


@cache
def imports_of(text: str) -> Set[str]:
    """Return the names of the modules that a text imports, at any level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(
                f"{node.module}.{alias.name}" for alias in node.names if node.module == "relay"
            )
    return found


def floor(name: str) -> int | None:
    """Return a module's position in the order, or None."""
    fits = [i for i, row in enumerate(ORDER) if name == row or name.startswith(row + ".")]
    return max(fits) if fits else None


def against_the_arrows(name: str, text: str) -> list[str]:
    """Return the imports of a module that point the wrong way."""
    here = floor(name)
    if here is None:
        return []
    there = {other: floor(other) for other in imports_of(text)}
    wrong = [
        other for other, row in there.items() if (row is not None and row > here) or other in TOPS
    ]
    return [other for other in wrong if (name, other) not in LATE]


def writes(text: str) -> list[str]:
    """Return the calls of a text that could write a file."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [
                name for name in names if name.split(".")[0] in ("tempfile", "shutil", "mmap")
            ]
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in (
            "open",
            "write_text",
            "write_bytes",
            "fdopen",
            "mkstemp",
            "memfd_create",
            "mkdir",
            "touch",
        ):
            found.append(name)
    return found


def classes(text: str) -> list[str]:
    """Return the names of the classes that a text defines, at any level, without an underscore."""
    nodes = ast.walk(ast.parse(text))
    return [node.name.removeprefix("_") for node in nodes if isinstance(node, ast.ClassDef)]


def repeated_names(names: Iterable[str]) -> list[str]:
    """Return the names that stand more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def fields_by_position(node: ast.ClassDef) -> int:
    """Return how many of a dataclass's own fields a call may give by position."""
    options = " ".join(ast.unparse(one) for one in node.decorator_list)
    if "dataclass" not in options or "kw_only=True" in options:
        return 0
    count = 0
    for one in node.body:
        if not isinstance(one, ast.AnnAssign):
            continue
        kind = ast.unparse(one.annotation)
        if kind == "KW_ONLY":
            break
        is_given = one.value is None or "init=False" not in ast.unparse(one.value)
        count += is_given and not kind.startswith("ClassVar")
    return count


def wide_calls(text: str) -> list[str]:
    """Return the dataclasses and the functions of a text that take too much by position."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and fields_by_position(node) > MOST_FIELDS:
            found.append(node.name)
        if isinstance(node, ast.FunctionDef):
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
            if len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS:
                found.append(node.name)
    return found


def participles(text: str) -> list[str]:
    """Return the functions of a text, properties too, whose name is one past participle."""
    nodes = ast.walk(ast.parse(text))
    names = [node.name.strip("_") for node in nodes if isinstance(node, ast.FunctionDef)]
    return [name for name in names if PARTICIPLE.fullmatch(name) and name not in VERBS_AND_NOUNS]


@pytest.mark.parametrize("package", ["relay", "simulators", "loadtests", "tests", "docs", "deploy"])
def test_no_function_is_named_by_a_bare_participle(package: str) -> None:
    found = {name: bad for name, text in modules(package) if (bad := participles(text))}
    assert not found


def test_a_bare_participle_is_found() -> None:
    assert participles("def _taken(): ...\ndef moved(): ...\ndef take(): ...") == [
        "taken",
        "moved",
    ]


def test_long_calls_name_their_arguments() -> None:
    found = {name: wide for name, text in modules("relay") if (wide := wide_calls(text))}
    assert found == {"relay.wire.adapter": ["send"]}  # the signature of `requests`
    head = "@dataclass\nclass A:\n  a: int\n  b: int\n  c: int\n  d: int\n"
    assert wide_calls(f"{head}  e: int") == ["A"]
    assert wide_calls(f"{head}  _: KW_ONLY\n  e: int") == []
    assert wide_calls("def f(self, a, b, c, d, e): ...\ndef g(a, b, c, d, e, f): ...") == ["g"]


def test_a_class_name_stands_once() -> None:
    assert repeated_names(name for _, text in modules("relay") for name in classes(text)) == []
    assert repeated_names(classes("class A:\n  class _B: ...\nclass B: ...\nclass C: ...")) == ["B"]


def test_a_module_name_stands_once() -> None:
    names = [name for name, _ in modules("relay") if not (ROOT / name.replace(".", "/")).is_dir()]
    assert (
        set(repeated_names(name.rpartition(".")[2] for name in names)) - {"__main__"}
        == SHARED_NAMES
    )


def test_the_arrows_point_one_way() -> None:
    wrong = {
        name: bad for name, text in modules("relay") if (bad := against_the_arrows(name, text))
    }
    assert not wrong
    assert against_the_arrows("relay.wire.pump", "from relay.stores.http import HttpStore") == [
        "relay.stores.http"
    ]
    assert against_the_arrows("relay.errors", "import relay.location") == ["relay.location"]


def test_every_module_has_its_place() -> None:
    placed = {name for name, _ in modules("relay") if floor(name) is not None}
    assert {name for name, _ in modules("relay")} - placed == {
        "relay",
        "relay.process",
        "relay.wire",
        *TOPS,
    }


@pytest.mark.parametrize("name", PURE)
def test_values_and_laws_know_no_sockets(name: str) -> None:
    texts = [
        text for other, text in modules("relay") if other == name or other.startswith(f"{name}.")
    ]
    assert texts
    assert not [
        other
        for text in texts
        for other in imports_of(text)
        if other.split(".")[0] in FORBIDDEN_TO_PURE
    ]


@pytest.mark.parametrize("package", ["simulators", "loadtests"])
def test_the_outside_never_imports_relay(package: str) -> None:
    assert list(modules(package))
    assert not {
        name
        for name, text in modules(package)
        if any(i.split(".")[0] == "relay" for i in imports_of(text))
    }


def test_nothing_in_relay_writes_a_file() -> None:
    found = {
        name: calls
        for name, text in modules("relay")
        if name not in NO_PAYLOAD and (calls := writes(text))
    }
    assert found == {}
    assert writes("import tempfile\nopen('x', 'w')") == ["tempfile", "open"]
