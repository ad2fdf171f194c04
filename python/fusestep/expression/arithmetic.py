"""The operators of expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .nodes import Expression


class Arithmetic:
    """Turns every operator into a call of ``_combine(name, *operands)``."""

    __slots__ = ()

    def _combine(self, name: str, *operands: Any) -> Expression:
        """The operation of these operands, or NotImplemented where one is of another kind."""
        raise NotImplementedError

    def _itself(self) -> Expression:
        raise NotImplementedError

    def __add__(self, other: Any) -> Expression:
        return self._combine("add", self, other)

    def __radd__(self, other: Any) -> Expression:
        return self._combine("add", other, self)

    def __sub__(self, other: Any) -> Expression:
        return self._combine("subtract", self, other)

    def __rsub__(self, other: Any) -> Expression:
        return self._combine("subtract", other, self)

    def __mul__(self, other: Any) -> Expression:
        return self._combine("multiply", self, other)

    def __rmul__(self, other: Any) -> Expression:
        return self._combine("multiply", other, self)

    def __truediv__(self, other: Any) -> Expression:
        return self._combine("divide", self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return self._combine("divide", other, self)

    def __pow__(self, other: Any) -> Expression:
        return self._combine("power", self, other)

    def __rpow__(self, other: Any) -> Expression:
        return self._combine("power", other, self)

    def __floordiv__(self, other: Any) -> Expression:
        return self._combine("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> Expression:
        return self._combine("floor_divide", other, self)

    def __mod__(self, other: Any) -> Expression:
        return self._combine("remainder", self, other)

    def __rmod__(self, other: Any) -> Expression:
        return self._combine("remainder", other, self)

    def __neg__(self) -> Expression:
        return self._combine("negative", self)

    def __pos__(self) -> Expression:
        return self._itself()

    def __abs__(self) -> Expression:
        return self._combine("absolute", self)

    def __lt__(self, other: Any) -> Expression:
        return self._combine("less", self, other)

    def __le__(self, other: Any) -> Expression:
        return self._combine("less_equal", self, other)

    def __gt__(self, other: Any) -> Expression:
        return self._combine("less", other, self)

    def __ge__(self, other: Any) -> Expression:
        return self._combine("less_equal", other, self)
