"""What torch and fusestep call the same: settings and states of one update rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from .. import _core
from ..expression import Expression
from ..optim import Optimizer
from ..optim.expressions import Expressions
from ..optim.settings import Place, Settings

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """An optimizer of torch as fusestep has it.

    ``numbers`` and ``flags`` have torch's names of what a group sets, with fusestep's; ``columns``
    have flags that fusestep's class decides, with the column of the native rule. ``states`` have
    the rule's names of state arrays, with torch's and in their order. ``counts`` is whether torch's
    state has "step"; ``value`` is what torch calls the number that the rule hands from update to
    update, if there is one; ``begins_from_lr`` is whether the first update fills a state with lr.
    """

    rule: type[Optimizer]
    numbers: Mapping[str, str]
    flags: Mapping[str, str]
    states: Mapping[str, str]
    columns: Mapping[str, str] = _NOTHING
    value: str = ""
    counts: bool = True
    begins_from_lr: bool = False

    @property
    def name(self) -> str:
        """The native rule."""
        return self.rule._rule

    def numbers_of(self, group: Mapping[str, Any]) -> tuple[float, ...]:
        """The numbers that a group has now, in the order of `targets`."""
        found: list[float] = []
        for name in self.numbers:
            value = group[name]
            if isinstance(value, (tuple, list)):
                found.extend(map(_number, value))
            else:
                found.append(_number(value))
        return tuple(found)

    def has_tensors(self, group: Mapping[str, Any]) -> bool:
        """Whether a number of the group is that of a tensor."""
        for name in self.numbers:
            value = group[name]
            if isinstance(value, torch.Tensor) or (
                isinstance(value, (tuple, list)) and any(isinstance(x, torch.Tensor) for x in value)
            ):
                return True
        return False

    def flags_of(self, group: Mapping[str, Any]) -> tuple[bool, ...]:
        """What decides the arithmetic itself, and where it is done."""
        names = (*self.flags, *self.columns, "differentiable", "capturable")
        return tuple(bool(group.get(name, False)) for name in names)

    def settings(
        self, groups: Sequence[Mapping[str, Any]], narrow: Sequence[str | None]
    ) -> Settings:
        """The native table for these groups; raises ValueError or TypeError where one is refused.

        ``narrow`` has the path of a parameter of float32 for each group, or None.
        """
        rule = self.rule._declared
        values = {Place(name): field.default for name, field in rule.fields.items()}
        for g, group in enumerate(groups):
            for torch_name, name in self.numbers.items():
                value = group[torch_name]
                many = isinstance(value, (tuple, list))
                values[Place(name, g)] = tuple(map(_number, value)) if many else _number(value)
            for torch_name, name in self.flags.items():
                values[Place(name, g)] = bool(group.get(torch_name, False))
        settings = Settings(rule, values, narrow, Expressions())
        at = list(rule.columns)
        for torch_name, column in self.columns.items():
            for g, group in enumerate(groups):
                settings.table[g, at.index(column)] = float(bool(group.get(torch_name, False)))
        return settings

    def targets(self, settings: Settings) -> _core.Targets:
        """Where the numbers of all groups go, one group after the other."""
        found = []
        for g in range(len(settings.table)):
            for torch_name, name in self.numbers.items():
                field = settings.rule.fields[name]
                for column in field.columns:
                    found.append(settings.target(field, column, g, f"{torch_name} of group {g}"))
        return _core.Targets(found)


def same(*names: str) -> dict[str, str]:
    """What both call the same."""
    return {name: name for name in names}


def _number(value: Any) -> float:
    """A number, or that of a tensor with one element."""
    return float(value.item() if isinstance(value, torch.Tensor) else value)


def refuse_expressions(settings: Any) -> None:
    """Raises TypeError for one: with torch, what follows a schedule is written by a scheduler."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if isinstance(value, Expression):
            raise TypeError(
                f"{name} must be a number or a tensor: fusestep.schedules.as_scheduler(opt, "
                "expression) makes a scheduler of an expression"
            )
