"""What is installed here: ``python -m fusestep info``."""

from __future__ import annotations

import re
from importlib import metadata

from ._core import build_info


def lines() -> list[str]:
    """The build, and each extra with the versions of its packages."""
    build = build_info()
    found = [
        f"fusestep {build['version']}, built with {build['compiler']}",
        f"instruction set: {build['isa_active']} of {', '.join(build['isa_supported'])}",
        f"threads: {build['threads']}",
        "extras:",
    ]
    for extra, packages in _extras().items():
        states = [f"{name} {_version(name) or 'absent'}" for name in packages]
        complete = "yes" if all(map(_version, packages)) else "no"
        found.append(f"  {extra:6} {complete:4} {', '.join(states)}")
    return found


def missing(extra: str, command: str) -> str | None:
    """What a command lacks of an extra, in words that hold wherever fusestep came from; or None."""
    absent = [package for package in _extras().get(extra, ()) if _version(package) is None]
    if not absent:
        return None
    return f"{command} needs {', '.join(absent)}: pip install {' '.join(absent)}"


def _extras() -> dict[str, list[str]]:
    extras: dict[str, list[str]] = {}
    for requirement in metadata.requires("fusestep") or ():
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match is not None:
            extras.setdefault(match[2], []).append(match[1])
    return extras


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
