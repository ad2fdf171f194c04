"""Settings as attributes, of optimizers and of their groups."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, Protocol, TypeVar, overload

from .settings import Number

Read = TypeVar("Read")
Assigned = TypeVar("Assigned")


class _Holder(Protocol):
    def _get(self, name: str) -> Any: ...
    def _set(self, name: str, value: Any) -> None: ...


class Setting(Generic[Read, Assigned]):
    """A hyper-parameter as an attribute of an optimizer, or of one of its groups."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, holder: None, owner: type) -> Setting[Read, Assigned]: ...
    @overload
    def __get__(self, holder: _Holder, owner: type) -> Read: ...
    def __get__(self, holder: _Holder | None, owner: type) -> Any:
        return self if holder is None else holder._get(self._name)

    def __set__(self, holder: _Holder, value: Assigned) -> None:
        holder._set(self._name, value)


# None is rare enough that type checkers need not insist: it is read before the first step alone, of
# an expression that reads what only a step is told
class Scalar(Setting["float | Any", Number]):
    """A number, or an expression that gives one."""


class Pair(Setting["tuple[float, float] | Any", "tuple[Number, Number]"]):
    """Two of them."""


class Fixed(Setting[Read, NoReturn]):
    """What decides the arithmetic itself: fixed when the optimizer is built."""


class CommonSettings:
    """The settings that every optimizer has, and each of its groups."""

    __slots__ = ()

    lr = Scalar()
    weight_decay = Scalar()
    maximize = Fixed[bool]()
