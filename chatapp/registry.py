"""Folder -> members. A folder is an open set: adding a member is adding a file, and the file's name is its name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def load(package: ModuleType) -> dict[str, ModuleType]:
    """Return the modules of *package* by name, sorted; an underscore begins a shared part, no member."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
