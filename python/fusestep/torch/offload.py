"""An optimizer whose state and float32 masters are on the CPU, wherever the parameters are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_not
from typing import Any, NoReturn

import torch

from .. import _core
from ..arguments import check_flag
from ..engines import StepInfo
from ..optim import Optimizer
from .arrivals import Arrivals
from .masters import Masters, check_parameter, check_rule
from .rows import refuse_expressions

_OF_SCALERS = "grad_scale", "found_inf"
_REFUSED = {
    "params": "they come first",
    "groups": "give torch's form, a list of dicts",
    "copies": "the parameters are what masters are copied to",
    "ema": "its average would be of the masters; torch.optim.swa_utils.AveragedModel averages",
    "ema_every": "there is no ema",
    "agc": "it can't be updated in parts of a step",
    "agc_eps": "there is no agc",
    "agc_axis": "there is no agc",
    "max_lr": "schedulers of torch write one of their own into the groups",
}


class Offload(torch.optim.Optimizer):  # type: ignore[misc]
    """Updates parameters of a GPU, or of bfloat16, from float32 masters and state on the CPU.

    Gradients are brought to float32 memory of the CPU as backward produces them, and a thread of
    its own updates the masters of what has arrived, while backward goes on. ``step()`` waits for
    it and gives the parameters their new values, the masters' rounded to nearest, ties to even.
    Until then parameters stay as they are, so backward, checkpointing and shared parameters see
    one value. Masters have the bits of the rule over float32 arrays in reverse order of the
    parameters, with the gradients as float32.

    Args:
        params: parameters, or groups of them: of bfloat16, float16 or float32, all on the CPU or
            all on one CUDA device. Those that don't require a gradient may be among them.
        rule: `fusestep.AdamW` or another class of optimizers, but for the Schedule-Free ones.
        overlap: whether masters may be updated before ``step()``. The first step updates within
            ``step()``, and so do all with ``clip_norm`` or a ``nonfinite`` other than "propagate",
            which read all gradients first. So do those after a step that found that what it needs
            changes after backward: gradients (clipped or unscaled by torch), a setting, or a
            parameter, or that a scaler of gradients is used; see `overlaps`.
        offload_gradients: whether each gradient is freed once it was brought, as the field ``grad``
            tells. Inside `accumulate` they are then added up in float32 on the CPU.
        settings: those of the rule, as numbers. What a group may set is in ``param_groups``, where
            schedulers write it.

    Raises:
        TypeError, ValueError: a parameter that can't be served, by group and number, or a setting.

    A backward that raises changes no parameter. What it has brought is part of the next step: those
    masters that are updated by then leave out the gradients of the next backward, the others use
    these. Gradients of a whole backward can be dropped where ``overlaps`` is False.

    Memory of the CPU for each element, beside the parameter's own: 4 bytes of master, 4 of
    gradient, 4 for each array of state; with a GPU also 2 that are pinned (4 of float32). The path
    for a GPU has been run with a stand-in for one.

    Example:
        >>> import torch, fusestep as fs
        >>> from fusestep.torch import Offload
        >>> w = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        >>> opt = Offload([w], fs.SGD, lr=0.001)
        >>> for _ in range(5):
        ...     opt.zero_grad()
        ...     w.sum().backward()
        ...     opt.step()
        >>> w.tolist(), opt.state[w]["master"].numpy().round(6)   # 0.999 in bfloat16 is 1
        ([0.99609375, 0.99609375], array([0.995, 0.995], dtype=float32))
    """

    _step_supports_amp_scaling = True  # a scaler of gradients sets grad_scale and found_inf

    def __init__(
        self,
        params: Any,
        rule: type[Optimizer],
        *,
        overlap: bool = True,
        offload_gradients: bool = False,
        **settings: Any,
    ) -> None:
        check_rule(rule)
        for name, reason in _REFUSED.items():
            if name in settings:
                raise TypeError(f"Offload takes no {name}: {reason}")
        refuse_expressions(settings)
        check_flag("overlap", overlap)
        check_flag("offload_gradients", offload_gradients)
        self._names = [name for name in rule._declared.group_names if name not in _REFUSED]
        defaults = {name: rule._arguments[name].default for name in self._names}
        defaults |= {name: settings.pop(name) for name in self._names if name in settings}
        self._masters: Masters | None = None
        super().__init__(params, defaults)
        if not any(group["params"] for group in self.param_groups):
            raise ValueError("params: there is no parameter in any group")
        for g, group in enumerate(self.param_groups):
            self._check(g, group["params"])
        self._written = [self._settings_of(group) for group in self.param_groups]
        lists = [group["params"] for group in self.param_groups]
        self._masters = Masters(rule, list(zip(lists, self._written, strict=True)), settings)
        reads_all = any(
            settings.get(name, default) != default
            for name, default in (("clip_norm", None), ("nonfinite", "propagate"))
        )
        this = weakref.ref(self)
        self._arrivals = Arrivals(
            self._masters,
            lambda: this()._follow_settings(),  # type: ignore[union-attr]
            overlap=overlap and not reads_all,
            frees=offload_gradients,
        )
        self._arrivals.listen(self._masters.leaves)
        self._show_state()

    # Parameters

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with settings of their own, between two steps."""
        refuse_expressions(param_group)
        if self._masters is None:
            super().add_param_group(param_group)
            return
        self._require_no_step("add_param_group")
        super().add_param_group(param_group)
        group, known = self.param_groups[-1], len(self._masters.leaves)
        try:
            self._check(len(self.param_groups) - 1, group["params"])
            settings = self._settings_of(group)
            self._masters.add_group(group["params"], settings)
        except BaseException:
            self.param_groups.pop()
            raise
        self._written.append(settings)
        self._arrivals.listen(self._masters.leaves[known:])
        self._show_state()

    def _check(self, g: int, parameters: Sequence[Any]) -> None:
        device = next(p.device for group in self.param_groups for p in group["params"])
        for i, p in enumerate(parameters):
            check_parameter(f"parameter {i} of group {g}", p, device)

    def _show_state(self) -> None:
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self.state.clear()
        self.state.update(self._held.state())

    @property
    def _held(self) -> Masters:
        assert self._masters is not None
        return self._masters

    # Settings

    def _settings_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _plain(group[name]) for name in self._names}

    def _differing(self) -> Iterator[tuple[int, str, Any]]:
        """Groups, settings and values where the groups say something else than before."""
        for g, (group, written) in enumerate(zip(self.param_groups, self._written, strict=True)):
            for name, before in written.items():
                value = _plain(group[name])
                if value != before:
                    yield g, name, value

    def _follow_settings(self) -> None:
        """Sets what the groups say now."""
        now = [p for group in self.param_groups for p in group["params"]]
        if len(now) != len(self._parameters) or any(map(is_not, now, self._parameters)):
            raise _core.StateError(
                "the parameters of a group were exchanged: build a new Offload, or add them with "
                "add_param_group"
            )
        for g, name, value in [*self._differing()]:
            refuse_expressions({name: value})
            setattr(self._held.own.groups[g], name, value)
            self._written[g][name] = value

    # Gradients

    @property
    def overlaps(self) -> bool:
        """Whether the next backward is going to update masters."""
        return self._arrivals.overlaps

    @property
    def info(self) -> StepInfo | None:
        """Of the last step: ``lr``, ``grad_norm``, ``applied``; see `fusestep.AdamW.step`."""
        return self._held.info

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """For every backward but the last one before a step: its gradients are added up.

        In the fields ``grad``, as ever, or with ``offload_gradients`` in float32 on the CPU.

        Example::

            with opt.accumulate():
                loss(first_half).backward()
            loss(second_half).backward()
            opt.step()
        """
        arrivals = self._arrivals
        before, arrivals.is_accumulating = arrivals.is_accumulating, True
        try:
            yield
        finally:
            arrivals.is_accumulating = before

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As ever; also forgets gradients that were brought and freed.

        Raises StateError where an update has begun with those of a whole backward.
        """
        self._arrivals.forget()
        super().zero_grad(set_to_none)

    # A step

    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.

        Returns:
            What the closure does, or None.

        Raises:
            ValueError: a gradient is not finite, with ``nonfinite="raise"``; or a setting is out of
                range. Nothing was updated.
            StateError: what the update needs was changed after a backward that had begun it. The
                step was taken as that backward had it, and later ones are updated in ``step()``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _step(self) -> None:
        masters, arrivals = self._held, self._arrivals
        changed = self._changed()
        if changed:
            arrivals.trusts = False
        scale, found_inf = (self.__dict__.get(name) for name in _OF_SCALERS)
        if masters.is_begun:
            self._finish()
            if changed:
                raise _core.StateError(
                    f"{changed} after the backward in which the update began. The step was taken "
                    "as that backward had it; from now on updates begin in step(), as with "
                    "overlap=False"
                )
            return
        if found_inf is not None and found_inf > 0:
            arrivals.begin_anew()
            return
        try:
            arrivals.follow()
            arrivals.receive_others()
            if any(leaf.has_arrived for leaf in masters.leaves):
                for leaf in masters.leaves:
                    leaf.is_expected = leaf.has_arrived
                masters.wait()  # all gradients are there
                masters.begin(1.0 if scale is None else float(scale))
                self._finish()
                arrivals.trusts = arrivals.trusts is not False
        finally:
            if not masters.is_begun:  # else the next step goes on with it
                arrivals.begin_anew()

    def _changed(self) -> str:
        """What was changed, or used, since backward began; nothing where that is nothing."""
        if any(self.__dict__.get(name) is not None for name in _OF_SCALERS):
            return "a scaler of gradients was used"
        if self._arrivals.have_changed():
            return "a gradient was changed"
        if self._arrivals.is_prepared:
            if any(self._differing()):
                return "a setting was changed"
            if self._held.changed_parameters():
                return "a parameter was changed"
        return ""

    def _finish(self) -> None:
        """Ends a step that has begun, where one has."""
        masters = self._held
        if not masters.is_begun:
            return
        self._arrivals.receive_others()
        masters.finish()
        for leaf in masters.leaves:
            leaf.is_expected = leaf.has_arrived
        self._arrivals.begin_anew()

    # Saved state

    def _require_no_step(self, call: str) -> None:
        if self._held.is_begun:
            raise _core.StateError(f"{call}: backward has begun an update, which step() ends")

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's form, as copies: of each parameter its master, too.

        Raises StateError between a backward that has begun an update and its step.
        """
        self._require_no_step("state_dict")
        self._show_state()
        packed: dict[str, Any] = super().state_dict()
        packed["state"] = {
            i: {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in entry.items()}
            for i, entry in packed["state"].items()
        }
        plan = self._held.own._plan
        packed["offload"] = {
            "rule": type(self._held.own).__name__,
            "attempted": plan.attempted,
            "applied": plan.applied,
        }
        return packed

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``; parameters become its masters, rounded.

        Later steps have the bits of the run that never stopped. Parameters may be on another device
        or of another dtype. What backward has begun is dropped.

        Raises:
            StateError, ValueError: the state is not of this rule and these parameters. Nothing has
                changed, but a step that backward had begun has ended.
        """
        masters = self._held
        self._finish()
        saved, groups = state_dict["state"], state_dict["param_groups"]
        if [len(group["params"]) for group in groups] != [
            len(group["params"]) for group in self.param_groups
        ]:
            raise ValueError("the state has other groups of parameters than this optimizer")
        of = state_dict.get("offload")
        if not isinstance(of, Mapping) or of.get("rule") != type(masters.own).__name__:
            raise _core.StateError(
                f"the state is not one of Offload with fusestep.{type(masters.own).__name__}: "
                "only that has masters"
            )
        leaves = {leaf.parameter: leaf for leaf in masters.leaves}
        masters.load(
            [
                (leaves[p], f"parameter {i} of group {g}", saved.get(key, {}))
                for g, (group, there) in enumerate(zip(self.param_groups, groups, strict=True))
                for i, (p, key) in enumerate(zip(group["params"], there["params"], strict=True))
            ],
            of["attempted"],
            of["applied"],
        )
        self._arrivals.begin_anew()
        super().load_state_dict({"state": {}, "param_groups": groups})
        self._show_state()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "Offload can't be copied or pickled: it writes parameters that others hold; build a "
            "new one and load_state_dict(state_dict())"
        )


def _plain(value: Any) -> Any:
    """A setting as a number, or several."""
    if isinstance(value, torch.Tensor):
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
