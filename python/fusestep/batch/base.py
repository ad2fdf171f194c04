"""What all batch-size policies share."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from .._core import StateError
from ..arguments import check_number
from ..clock import Clock
from ..expression import Expression
from ..expression.cells import Cell
from ..expression.nodes import Named
from ..expression.vocabulary import plain
from .rounding import LARGEST, Options, Rounding

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
T = TypeVar("T", bound="Policy")


class Policy:
    """Decides the size of the next batch. `fixed`, `polynomial`, `noise_scale` and others are.

    A rule wants a real number; the options below make it a size, in this order:

    1. It is moved into [minimum, maximum].
    2. It is rounded to the nearest multiple of ``multiple_of``, up from the middle, to no multiple
       outside of the limits.
    3. The size from before stays if the new one is smaller and ``monotone`` is set, if the change
       is at most ``threshold`` times the old size, or if fewer than ``dwell`` samples have passed
       since the last change. What is left of a growth is cut to ``max_growth`` times the old size
       (but not below one multiple more, or a batch of 1 could never grow).

    Args:
        minimum: the smallest size, at least 1.
        maximum: the largest size, or None. A rule that gives infinity gets the maximum.
        multiple_of: for example micro-batch times workers; at least 1.
        threshold: at least 0; the change that is wanted must exceed it, as a part of the old size.
        monotone: True never shrinks.
        max_growth: the largest factor of one change, above 1, or None.
        dwell: in samples, at least 0; above 0 the clock must tell ``samples``.
        overflow: what the maximum cuts off is lost with "clip"; with "lr" it goes to the learning
            rate: ``policy.overflow`` is then ``maximum / wanted``.

    ``next_size`` is called once for each batch, with the clock before it.

    Another rule is a class with ``wanted(clock)``, or a function given to `expression`.

    Raises:
        ValueError, TypeError: an option is out of its range.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch
        >>> policy = batch.exponential(start=20, rate=2, every=10, multiple_of=8, maximum=128)
        >>> [policy.next_size(fs.Clock(step=t)) for t in (0, 10, 20, 30)]
        [24, 40, 80, 128]
        >>> policy
        batch.exponential(start=20, rate=2, every=10, multiple_of=8, maximum=128)
    """

    # attributes that are its state beside the size, as they begin; None becomes a number later
    _remembers: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Unpack[Options]) -> None:
        self._rounding = Rounding(**options)
        self._typed: tuple[str, dict[str, Any]] = (type(self).__name__, {**options})
        self._size: int | None = None
        self._changed_at: float | None = None
        self._share = Cell(1.0)
        for name, first in self._remembers.items():
            setattr(self, name, first)

    def wanted(self, clock: Clock) -> float | None:
        """The number that the rule wants for the batch after this clock; None keeps the size."""
        raise NotImplementedError

    @property
    def size(self) -> int | None:
        """The last size decided; None before the first."""
        return self._size

    @property
    def overflow(self) -> Expression:
        """A factor for the learning rate: 1, or what ``overflow="lr"`` says, for the last size."""
        return self._live("overflow", self._share)

    def next_size(self, clock: Clock) -> int:
        """The size of the next batch.

        Args:
            clock: ``step``, ``samples`` and ``epoch`` before that batch, as far as the rule reads
                them; a batch size in it is ignored.

        Raises:
            ValueError: the rule gives NaN, or more than the limit of 2^53 without a maximum; or
                the clock lacks what the rule or ``dwell`` reads. Nothing has changed.
            TypeError: the rule gives no number. Nothing has changed.
        """
        if not isinstance(clock, Clock):
            raise TypeError(f"clock must be a fusestep.Clock, not {clock!r}")
        now = clock._replace(batch_size=None)
        samples = None if now.samples is None else check_number("samples", now.samples)
        if self._rounding.dwell > 0 and samples is None:
            raise ValueError(f"{self!r} has dwell in samples: its clock must tell samples")
        wanted = self.wanted(now)
        known = wanted if wanted is not None or self._size is None else float(self._size)
        number = self._checked(known)
        since = None
        if samples is not None and self._changed_at is not None:
            since = samples - self._changed_at
        size = self._rounding.settled(self._rounding.nearest(number), self._size, since)
        if wanted is not None:
            self._share.memory[0] = self._rounding.share(number)
        if size != self._size:
            self._size, self._changed_at = size, samples
        return size

    def observe(self, *, loss: Any = None, lr: Any = None) -> None:
        """Shows the policy what a step has told; most policies read nothing of it.

        Args:
            loss: the mean loss of the batch: a number. NaN and infinity are passed over.
            lr: the learning rate used, at least 0.

        Raises:
            TypeError, ValueError: one of them can't be observed. Nothing has changed.
        """
        seen = _loss(loss)
        self._observe(seen, None if lr is None else check_number("lr", lr))

    def _observe(self, loss: float | None, lr: float | None) -> None:
        """Takes in a finite loss and a rate, each None where there is nothing new."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers: JSON values."""
        own = {name.lstrip("_"): getattr(self, name) for name in self._remembers}
        share = float(self._share.memory[0])
        return {"size": self._size, "changed_at": self._changed_at, "overflow": share, **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``. StateError where it does not fit; nothing has changed.

        The options stay those of this policy: a saved size outside of them is left at once.
        """
        self.check_state(state)
        self._size, self._changed_at = state["size"], state["changed_at"]
        self._share.memory[0] = state["overflow"]
        for name in self._remembers:
            setattr(self, name, state[name.lstrip("_")])

    def check_state(self, state: Any) -> None:
        """Raises StateError unless ``load_state_dict`` would take the state."""
        own = {name.lstrip("_"): first for name, first in self._remembers.items()}
        names = ["size", "changed_at", "overflow", *own]
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise StateError(
                f"the state of {self!r} must be a dict of {', '.join(names)}, not {state!r}"
            )
        size, changed_at, overflow = (state[name] for name in names[:3])
        fits = {
            "size": size is None
            or (isinstance(size, int) and _is_finite(size) and 1 <= size <= LARGEST),
            "changed_at": changed_at is None or (_is_finite(changed_at) and changed_at >= 0),
            "overflow": _is_finite(overflow) and 0 <= overflow <= 1,
            **{k: _is_finite(state[k]) or state[k] is own[k] is None for k in own},
        }
        for name in names:
            if not fits[name]:
                raise StateError(f"the state of {self!r} can't have {name}={state[name]!r}")

    def __repr__(self) -> str:
        name, arguments = self._typed
        return f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"

    def _live(self, name: str, body: Expression) -> Expression:
        """An expression that this policy changes, under a name that a saved setting can have."""
        return Named(f"{self._typed[0]}.{name}", None, body)

    def _checked(self, wanted: Any) -> float:
        if not isinstance(wanted, Real) or isinstance(wanted, bool):
            raise TypeError(f"{self!r} must give a number, not {wanted!r}")
        try:
            number = float(wanted)
        except OverflowError:
            raise ValueError(f"{self!r} must give a number that a float can hold") from None
        if math.isnan(number) or number == -math.inf:
            raise ValueError(f"{self!r} must give a finite number, not {number}")
        if number > LARGEST and self._rounding.maximum is None:
            raise ValueError(f"{self!r} gives {number:g}: it needs a maximum")
        return number


def typed(build: Callable[P, T]) -> Callable[P, T]:
    """Makes what a function builds keep the function's name and its arguments, for ``repr``."""
    signature = inspect.signature(build)
    defaults = {name: p.default for name, p in signature.parameters.items()}

    @functools.wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        policy = build(*args, **kwargs)
        given = dict(signature.bind(*args, **kwargs).arguments)
        options = given.pop("options", {})
        own = {name: value for name, value in given.items() if not _is_same(value, defaults[name])}
        arguments = {name: plain(value) for name, value in {**own, **options}.items()}
        policy._typed = (f"batch.{build.__name__}", arguments)
        return policy

    return call


def _is_same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _loss(value: Any) -> float | None:
    """A loss as a float, or None where it tells nothing."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, bool)):
        raise TypeError(f"loss must be a number, not {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"loss must be a number, not {value!r}") from None
    return number if math.isfinite(number) else None
