"""From the real number that a rule wants to a batch size: limits, rounding, hysteresis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from ..arguments import check_choice, check_flag, check_number, check_whole, nearest
from ..saved_state import LARGEST


class OtherOptions(TypedDict, total=False):
    """All keyword options of policies but the maximum."""

    minimum: int
    multiple_of: int
    threshold: float
    monotone: bool
    max_growth: float | None
    dwell: float
    overflow: Literal["clip", "lr"]


class Options(OtherOptions, total=False):
    """The keyword options of every policy; see `Policy` for what they mean."""

    maximum: int | None


@dataclass
class Rounding:
    """The options, checked, and what they do to a number."""

    minimum: int = 1
    maximum: int | None = None
    multiple_of: int = 1
    threshold: float = 0.0
    monotone: bool = False
    max_growth: float | None = None
    dwell: float = 0.0
    overflow: Literal["clip", "lr"] = "clip"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Rounding:
        """The options by name; TypeError with the one that was meant for one that there is not."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise TypeError(f"there is no option {name!r}{nearest(name, known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        self.minimum = check_whole("minimum", self.minimum, 1, LARGEST)
        self.multiple_of = check_whole("multiple_of", self.multiple_of, 1, LARGEST)
        if self.maximum is not None:
            self.maximum = check_whole("maximum", self.maximum, 1, LARGEST)
        if self.least > self.most:
            raise ValueError(
                f"from minimum={self.minimum} to maximum={self.maximum} there is no multiple of "
                f"multiple_of={self.multiple_of}"
            )
        self.threshold = check_number("threshold", self.threshold)
        check_flag("monotone", self.monotone)
        if self.max_growth is not None:
            self.max_growth = check_number("max_growth", self.max_growth)
            if self.max_growth <= 1:
                raise ValueError(f"max_growth must be greater than 1, not {self.max_growth:g}")
        self.dwell = check_number("dwell", self.dwell)
        check_choice("overflow", self.overflow, ("clip", "lr"))
        if self.overflow == "lr" and self.maximum is None:
            raise ValueError("overflow='lr' needs a maximum")

    @property
    def has_state(self) -> bool:
        """Whether a size depends on those before it, or shows in a learning rate."""
        hysteresis = self.threshold > 0 or self.monotone or self.max_growth is not None
        return hysteresis or self.dwell > 0 or self.overflow == "lr"

    @property
    def least(self) -> int:
        """The smallest size there is."""
        return -(-self.minimum // self.multiple_of) * self.multiple_of

    @property
    def most(self) -> int:
        """The largest size there is."""
        largest = LARGEST if self.maximum is None else self.maximum
        return largest // self.multiple_of * self.multiple_of

    def nearest(self, wanted: float) -> int:
        """The multiple in the limits that is nearest to a number; of two, the larger."""
        if wanted <= self.least:
            return self.least
        if wanted >= self.most:
            return self.most
        whole, rest = divmod(wanted, self.multiple_of)
        return (int(whole) + (2 * rest >= self.multiple_of)) * self.multiple_of

    def settled(self, new: int, old: int | None, since: float | None) -> int:
        """The old size, the new one or one between; ``since``: samples since the last change."""
        if old is None or old != self.nearest(old):
            return new  # the old size, from a saved state, is of other limits
        if self.monotone and new < old:
            return old
        if abs(new - old) <= self.threshold * old:
            return old
        if since is not None and since < self.dwell:
            return old
        if self.max_growth is None:
            return new
        # without the one multiple a small batch could never grow
        grown = int(min(self.max_growth * old, LARGEST)) // self.multiple_of * self.multiple_of
        return min(new, max(grown, old + self.multiple_of))

    def share(self, wanted: float) -> float:
        """The factor that ``overflow="lr"`` puts on the rate: maximum / wanted, or 1."""
        if self.overflow == "clip" or self.maximum is None or wanted <= self.maximum:
            return 1.0
        return self.maximum / wanted
