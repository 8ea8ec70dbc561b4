"""Put off the import of modules that another package asks for and relay does not use.

SQLAlchemy imports asyncio, for drivers that relay does not have, and importlib.metadata, to search
for plugins: a sixteenth of the CPU of a start. A substitute stands for such a module until one of
its names is used. (`importlib.util.LazyLoader` loads a module at its first attribute, and
SQLAlchemy takes `iscoroutine` from asyncio while it is imported.)

Decided here: which modules are put off. Never here: relay's own imports."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, Final

_PUT_OFF: Final[Mapping[str, Mapping[str, Any]]] = {
    "asyncio": {"iscoroutine": inspect.iscoroutine},
    "importlib.metadata": {},
}
"""The modules, each with the names that are used while SQLAlchemy is imported."""


class _LateModule(ModuleType):
    """Stands for a module until a name is used that it does not have."""

    def __getattr__(self, name: str) -> Any:
        """Import the module itself, and return its attribute."""
        if name.startswith("__"):  # what looks through all modules must not import this one
            raise AttributeError(name)
        _remove(self)
        return getattr(import_module(self.__name__), name)


@contextmanager
def late_modules() -> Iterator[None]:
    """Put modules off that a block of imports asks for; those that are imported already stay."""
    substitutes = []
    for name, known in _PUT_OFF.items():
        if name not in sys.modules:
            substitute = _LateModule(name)
            substitutes.append(substitute)
            vars(substitute).update(known)
            sys.modules[name] = substitute
            _set_in_package(substitute)
    try:
        yield
    finally:
        for substitute in substitutes:
            _remove(substitute)


def _remove(substitute: ModuleType) -> None:
    """Let others import the module itself."""
    name = substitute.__name__
    if sys.modules.get(name) is substitute:
        del sys.modules[name]
    package, _, short = name.rpartition(".")
    if package and vars(sys.modules[package]).get(short) is substitute:
        delattr(sys.modules[package], short)


def _set_in_package(substitute: ModuleType) -> None:
    package, _, short = substitute.__name__.rpartition(".")
    if package:
        setattr(sys.modules[package], short, substitute)
