"""What a class of optimizers declares: each setting once, as an argument and an attribute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from numbers import Real
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    get_args,
    overload,
)

import numpy as np

from ..arguments import check_choice, check_number
from ..expression import Expression, function

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

# a number, an expression, or a function of the step
Number: TypeAlias = "float | Expression | Callable[[Any], float]"
NonFinite: TypeAlias = Literal["propagate", "skip", "raise"]

Read = TypeVar("Read")
Assigned = TypeVar("Assigned")
OneGroup = TypeVar("OneGroup", bound="Declared", covariant=True)

_IN_WORDS = {2: "two", 3: "three"}
# the smallest size and the largest that float32 holds
FLOAT32 = (2.0**-149, float(np.finfo(np.float32).max))


class Column(NamedTuple):
    """A number that the native step reads, as the rule declares it."""

    name: str
    lower: float
    upper: float
    below_upper: bool
    is_flag: bool


class Argument:
    """What the constructor takes and the optimizer has as an attribute."""

    name: str
    annotation: str
    default: Any = Parameter.empty

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Setting(Argument, Generic[Read, Assigned]):
    """A hyper-parameter: one column of the native table, or some."""

    was = ""  # an earlier name
    is_fixed = False  # when the optimizer is built: it decides the arithmetic itself
    is_global = False  # of the whole optimizer, not of its groups
    float32: tuple[float, float] | None = FLOAT32  # the sizes that a float32 parameter allows

    def __init__(self, default: Any, *columns: str) -> None:
        self.default = default
        self.columns = columns

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.columns = self.columns or (name,)
        if self.was:
            setattr(owner, self.was, Earlier(name, self.was))

    @overload
    def __get__(self, holder: None, owner: type) -> Setting[Read, Assigned]: ...
    @overload
    def __get__(self, holder: Declared, owner: type) -> Read: ...
    def __get__(self, holder: Declared | None, owner: type) -> Any:
        return self if holder is None else holder._settings.get(self.name, holder._index)

    def __set__(self, holder: Declared, value: Assigned) -> None:
        holder._settings.set(self.name, value, holder._index)

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        """The value as it is kept: numbers, expressions, choices; raises what is wrong with it."""
        raise NotImplementedError

    def numbers(self, value: Any) -> dict[str, Any]:
        """A checked value by columns: numbers and expressions."""
        return {self.columns[0]: value}


# None is rare enough that type checkers need not insist: it is read before the first step alone, of
# an expression that reads what only a step is told
class Scalar(Setting["float | Any", Number]):
    """A number, or an expression that gives one.

    ``zero`` says why it must not be 0, where that is not obvious; ``kept_by`` is a flag of the rule
    for a column that an expression may take through 0, where its state must go on.
    """

    annotation = "Number"

    def __init__(self, default: Number, *, zero: str = "", kept_by: str = "") -> None:
        super().__init__(default)
        self._zero = zero
        self._kept_by = kept_by

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        if self._zero and isinstance(value, Real) and value == 0:
            raise ValueError(f"{self.name} must be greater than 0, not 0, or {self._zero}")
        return _checked_number(self.name, value, columns[self.columns[0]])

    def numbers(self, value: Any) -> dict[str, Any]:
        kept = {self._kept_by: float(isinstance(value, Expression))} if self._kept_by else {}
        return {self.columns[0]: value, **kept}


class _Several(Setting[Read, Assigned]):
    """Some of them."""

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) != len(self.columns):
            count, names = _IN_WORDS[len(self.columns)], ", ".join(self.columns)
            raise TypeError(f"{self.name} must be {count} numbers ({names}), not {value!r}")
        return tuple(
            _checked_number(f"{self.name}[{i}]", number, columns[column])
            for i, (number, column) in enumerate(zip(value, self.columns, strict=True))
        )

    def numbers(self, value: Any) -> dict[str, Any]:
        return dict(zip(self.columns, value, strict=True))


class Pair(_Several["tuple[float, float] | Any", "tuple[Number, Number]"]):
    """Two of them."""

    annotation = "tuple[Number, Number]"


class Triple(_Several["tuple[float, float, float] | Any", "tuple[Number, Number, Number]"]):
    """Three of them."""

    annotation = "tuple[Number, Number, Number]"


class Limit(Setting["float | None", "Number | None"]):
    """A number or an expression, of the whole optimizer or its groups; or None.

    ``unset`` is what the native step reads for None.
    """

    annotation = "Number | None"

    def __init__(
        self,
        default: float | None = None,
        *,
        unset: float,
        float32: tuple[float, float] | None = None,
        is_global: bool = True,
    ) -> None:
        super().__init__(default)
        self._unset = unset
        self.float32 = float32
        self.is_global = is_global

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        if value is None:
            return None
        return _checked_number(self.name, value, columns[self.columns[0]], ", or None")

    def numbers(self, value: Any) -> dict[str, Any]:
        return {self.columns[0]: self._unset if value is None else value}


class _Flag(Setting[bool, bool]):
    annotation = "bool"
    is_fixed = True

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self.name} must be True or False, not {value!r}")
        return bool(value)

    def numbers(self, value: Any) -> dict[str, Any]:
        return {self.columns[0]: float(value)}


class _Choice(Setting[str, str]):
    is_fixed = True

    def __init__(self, default: str, column: str, choices: Sequence[str]) -> None:
        super().__init__(default, column)
        self._choices = choices
        self.annotation = f"Literal[{', '.join(map(repr, choices))}]"

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        return check_choice(self.name, value, self._choices)

    def numbers(self, value: Any) -> dict[str, Any]:
        return {self.columns[0]: float(self._choices.index(value))}


# To type checkers these two give values: an attribute that is Final takes no assignment.
def flag(default: bool, *, column: str = "", was: str = "") -> Any:
    """True or False, fixed when the optimizer is built.

    ``column`` is that of the rule where it has another name, ``was`` an earlier name.
    """
    declared = _Flag(default, *([column] if column else []))
    declared.was = was
    return declared


def choice(choices: Any, default: str, *, column: str) -> Any:
    """One of the names of a Literal, fixed when the optimizer is built: 0, 1, ... in the column."""
    return _Choice(default, column, get_args(choices))


class Params(Argument):
    """The arrays to update, in the constructor; their paths and arrays, as an attribute."""

    annotation = "Any"

    def __init__(self, *, kw_only: Literal[False]) -> None:
        pass

    @overload
    def __get__(self, holder: None, owner: type) -> Params: ...
    @overload
    def __get__(self, holder: Declared, owner: type) -> dict[str, Any]: ...
    def __get__(self, holder: Any, owner: type) -> Any:
        """The parameters by path: the arrays themselves, not copies."""
        return self if holder is None else dict(holder._parameters)

    def __set__(self, holder: Declared, value: Any) -> None:
        raise AttributeError("params can't be assigned: rebind(params) goes on with other arrays")


class Groups(Argument, Generic[OneGroup]):
    """Dicts, in the constructor; groups of a class of their own, as an attribute."""

    annotation = "Sequence[Mapping[str, Any]]"
    default = ()

    def __init__(self, kind: type[OneGroup]) -> None:
        self.kind = kind

    @overload
    def __get__(self, holder: None, owner: type) -> Groups[OneGroup]: ...
    @overload
    def __get__(self, holder: Declared, owner: type) -> tuple[OneGroup, ...]: ...
    def __get__(self, holder: Any, owner: type) -> Any:
        return self if holder is None else holder._groups

    def __set__(self, holder: Declared, value: Sequence[Mapping[str, Any]]) -> None:
        raise AttributeError("groups can't be assigned: add_group(params) adds one")


class AtNonFinite(Argument):
    """What happens at a gradient with NaN or infinity."""

    annotation = "Literal['propagate', 'skip', 'raise']"

    def __init__(self, default: NonFinite) -> None:
        self.default = default

    @overload
    def __get__(self, holder: None, owner: type) -> AtNonFinite: ...
    @overload
    def __get__(self, holder: Declared, owner: type) -> NonFinite: ...
    def __get__(self, holder: Any, owner: type) -> Any:
        return self if holder is None else holder._plan.nonfinite

    def __set__(self, holder: Any, value: NonFinite) -> None:
        holder._plan.nonfinite = value


class Earlier:
    """An earlier name of an attribute: whoever uses it is told the present one."""

    def __init__(self, present: str, name: str = "") -> None:
        self._present = present
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: object, owner: type) -> Earlier:
        if holder is None:
            return self
        raise AttributeError(f"{owner.__name__}.{self._name} is called {self._present} now")

    def __set__(self, holder: object, value: Any) -> None:
        self.__get__(holder, type(holder))


if not TYPE_CHECKING:

    def dataclass_transform(**options: Any) -> Any:
        return lambda kind: kind


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(Params,))
class Declared:
    """What declares arguments in its body: type checkers see the constructor that takes them.

    Whatever else is annotated there would be an argument to them, too.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        _settings: Any  # Settings, a room above
        _index: int | None  # of a group

    def __dir__(self) -> list[str]:
        hidden = {n for n in super().__dir__() if isinstance(getattr(type(self), n, None), Earlier)}
        shown = (name for name in super().__dir__() if name[0] != "_" or name.startswith("__"))
        return [name for name in shown if name not in hidden]


def arguments_of(kind: type, shared: Sequence[type]) -> dict[str, Argument]:
    """What a class declares, in the order of its signature.

    A class's own settings come first, then what the ``shared`` bases have for all.
    """
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for base in reversed(kind.__mro__):
        for name, argument in vars(base).items():
            if isinstance(argument, Argument):
                is_own = base not in shared and isinstance(argument, Setting)
                found[not is_own][name] = None
    names = dict.fromkeys(("params", *found[0], *found[1]))
    return {name: getattr(kind, name) for name in names}


def signature_of(arguments: Mapping[str, Argument]) -> Signature:
    """Of a constructor that takes the first of these without a name, all others with one."""
    kinds = [Parameter.POSITIONAL_OR_KEYWORD] + [Parameter.KEYWORD_ONLY] * (len(arguments) - 1)
    return Signature(
        [
            Parameter(name, kind, default=argument.default, annotation=argument.annotation)
            for (name, argument), kind in zip(arguments.items(), kinds, strict=True)
        ]
    )


def _checked_number(label: str, value: Any, column: Column, otherwise: str = "") -> Any:
    """A number in its range, or an expression, whose values are checked by each step."""
    if isinstance(value, Expression):
        return value
    if callable(value):
        return function(value)
    return check_number(
        label,
        value,
        column.lower,
        column.upper,
        below_upper=column.below_upper,
        otherwise=otherwise,
    )


def components(value: Any) -> tuple[Any, ...]:
    """Those of a pair or a triple, or one number or expression alone."""
    return value if isinstance(value, tuple) else (value,)


def is_scheduled(value: Any) -> bool:
    """Whether a setting is an expression, or a pair or a triple with one."""
    if isinstance(value, tuple):
        return any(isinstance(number, Expression) for number in value)
    return isinstance(value, Expression)
