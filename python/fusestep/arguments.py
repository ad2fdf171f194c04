"""Checks of what a user passes: each names the argument, what must hold and what was given."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypeVar, overload

Initializer = TypeVar("Initializer", bound=Callable[..., None])

# what other libraries call what has another name here
_ELSEWHERE = {
    "alpha": "lr",
    "b1": "betas",
    "b2": "betas",
    "beta": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "beta_1": "betas",
    "beta_2": "betas",
    "clip": "clip_norm",
    "clipnorm": "clip_norm",
    "clipvalue": "clip_value",
    "decoupled": "decoupled_weight_decay",
    "global_clipnorm": "clip_norm",
    "grad_clip": "clip_norm",
    "l2": "weight_decay",
    "learning_rate": "lr",
    "max_grad_norm": "clip_norm",
    "max_norm": "clip_norm",
    "momentum": "betas",
    "mu": "momentum",
    "param_groups": "groups",
    "rho": "momentum",
    "step_size": "lr",
    "wd": "weight_decay",
}

_LARGEST = sys.float_info.max
_ABOVE_ZERO = 5e-324


def check_number(
    name: str,
    value: Any,
    lower: float = 0.0,
    upper: float = _LARGEST,
    *,
    below_upper: bool = False,
    otherwise: str = "",
) -> float:
    """The value as a float in [lower, upper], or below upper; raises a message that names it.

    ``otherwise`` is what else the caller takes, as in ", or None".
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:  # of an int
        number = math.inf
    if lower <= number <= upper and not (below_upper and number == upper):
        return number
    expected = range_in_words(lower, upper, below_upper)
    raise ValueError(f"{name} must be {expected}{otherwise}, not {number:g}")


def range_in_words(lower: float, upper: float, below_upper: bool) -> str:
    """What a number must be: "in [0, 1)", "finite and at least 0" or "finite"."""
    if upper < _LARGEST:
        begin = "(0" if lower == _ABOVE_ZERO else f"[{lower:g}"
        return f"in {begin}, {upper:g}{')' if below_upper else ']'}"
    if lower == _ABOVE_ZERO:
        return "greater than 0" if upper == math.inf else "finite and greater than 0"
    return "finite" if lower == -_LARGEST else f"finite and at least {lower:g}"


def check_finite(name: str, value: Any) -> float:
    """The value as a finite float of either sign."""
    return check_number(name, value, -_LARGEST)


def check_positive(name: str, value: Any) -> float:
    """The value as a finite float above 0."""
    number = check_number(name, value)
    if number == 0.0:
        raise ValueError(f"{name} must be greater than 0, not 0")
    return number


def check_scalar(name: str, value: Any) -> float:
    """The value as a float, NaN and infinities too: a number, or an array of one element."""
    number = value
    if hasattr(value, "item") and not hasattr(value, "mask"):  # of NumPy, CuPy, torch and others
        with suppress(TypeError, ValueError, RuntimeError):  # more than one element
            number = value.item()
    if isinstance(number, (bool, str, bytes)) or hasattr(number, "shape"):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        return float(number)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {value!r}") from None
    except OverflowError:  # of an int
        raise ValueError(f"{name} must be a number that a float can hold") from None


def check_whole(name: str, value: Any, lower: int, upper: int = 2**63 - 1) -> int:
    """The value as an int in [lower, upper]."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number = int(value)
    if not lower <= number <= upper:
        limit = "" if upper == 2**63 - 1 else f" and at most {upper}"
        raise ValueError(f"{name} must be at least {lower}{limit}, not {value!r}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """The value if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_list(name: str, value: Any, fewest: int) -> Any:
    """The value if it is a list, a tuple or an array of at least that length."""
    if isinstance(value, (str, Mapping)) or not hasattr(value, "__len__"):
        raise TypeError(f"{name} must be a list, not {value!r}")
    if len(value) < fewest:
        raise ValueError(f"{name} must hold at least {fewest}, not {len(value)}")
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """The value if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def check_rising(name: str, values: Any) -> list[float]:
    """The values as a list of floats above 0, each greater than the one before."""
    entries = enumerate(check_list(name, values, 0))
    numbers = [check_positive(f"{name}[{i}]", value) for i, value in entries]
    if any(a >= b for a, b in pairwise(numbers)):
        raise ValueError(f"{name} must rise from each number to the next, not {list(values)}")
    return numbers


def nearest(name: str, known: Iterable[str]) -> str:
    """What an error says after an unknown name: the known one that was meant, or all of them."""
    known = list(known)
    # by another library's name, also if that is misspelt itself
    meant = [*get_close_matches(name.lower(), known, 1), *get_close_matches(name, _ELSEWHERE, 1)]
    if name in _ELSEWHERE:
        meant.insert(0, name)
    for found in (_ELSEWHERE.get(entry, entry) if entry not in known else entry for entry in meant):
        if found in known:
            return f"; did you mean {found!r}?"
    return f"; known are {', '.join(known)}"


@overload
def named_arguments(initialize: Initializer) -> Initializer: ...
@overload
def named_arguments(*, hints: Mapping[str, str]) -> Callable[[Initializer], Initializer]: ...
def named_arguments(
    initialize: Initializer | None = None, *, hints: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """For ``__init__``: an argument that there is not is refused with the nearest that there is.

    ``hints`` tells what to write instead of some names.
    """
    if initialize is None:
        return functools.partial(named_arguments, hints=hints)
    _, *parameters = inspect.signature(initialize).parameters.values()
    known = [parameter.name for parameter in parameters]
    unnamed = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    needed = sum(parameter.default is parameter.empty for parameter in unnamed)

    @functools.wraps(initialize)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        check_named(
            type(self).__name__, known, args, given, len(unnamed), needed=needed, hints=hints
        )
        initialize(self, *args, **given)

    return checked


def check_named(
    kind: str,
    known: Sequence[str],
    args: Sequence[Any],
    given: Mapping[str, Any],
    positional: int = 1,
    *,
    needed: int = 1,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises TypeError for arguments that a constructor of ``kind`` does not take.

    ``positional`` is how many of the known ones may come without a name, ``needed`` how many of
    these must come.
    """
    for name in given:
        if name not in known:
            instead = f": use {hints[name]}" if name in hints else nearest(name, known)
            raise TypeError(f"{kind} has no argument {name!r}{instead}")
    taken = known[:positional]
    if len(args) > positional:
        if positional == len(known):
            raise TypeError(f"{kind} takes {', '.join(taken)}, not {len(args)} arguments")
        raise TypeError(
            f"{kind} takes {' and '.join(taken)} without a name, all else with one, as in "
            f"{kind}({', '.join(taken)}, {known[positional]}=...)"
        )
    for i, name in enumerate(taken):
        if (i < len(args)) + (name in given) != 1 and (i < needed or name in given):
            raise TypeError(f"{kind} needs {name}, once")
