"""What a module says about its earlier names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NoReturn


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], NoReturn]:
    """A module's ``__getattr__``: an earlier name raises AttributeError with the present one."""

    def get(name: str) -> NoReturn:
        if name in names:
            raise AttributeError(f"{module}.{name} is called {module}.{names[name]} now")
        error = f"module {module!r} has no attribute {name!r}"
        raise AttributeError(error, name=name, obj=sys.modules[module])

    return get
