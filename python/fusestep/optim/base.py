"""What all optimizers are: settings, groups, and the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from inspect import Signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from .. import _core, foreign, trees
from ..arguments import check_named, check_positive, check_whole
from ..clock import Clock
from ..control.base import tell_unseen
from ..engines import StepInfo, engine_for
from ..gradients import GradientStatistics
from ..memory import Changes, claimed
from .accumulation import Gradients
from .averages import Averages
from .expressions import Expressions
from .fields import (
    Argument,
    AtNonFinite,
    Earlier,
    Groups,
    Limit,
    Params,
    arguments_of,
    signature_of,
)
from .groups import Group, divide, one_group
from .outputs import Copies, Every, checked_copies
from .parameters import Parameters
from .rows import History, RowByRow
from .saved import Saved
from .settings import Place, Rule, Settings


class Optimizer(Group, Parameters, Saved, Gradients, RowByRow, Averages):
    """Updates parameters in place, all of them in one native call.

    Not used by itself: `SGD`, `Adam` and the others bring the rule. What stands here holds for all.

    Args:
        params: float32 or float64 arrays, C-contiguous and writeable, in any nesting of dicts and
            other mappings, lists, tuples, named tuples and instances of dataclasses and attrs
            classes, or one array; all of NumPy, or all of CuPy on the current device. Or torch's
            form, a list of dicts, each with such a tree under "params" and settings of its own;
            gradients are then a list of trees.
        maximize: follow the gradient up instead of down.
        groups: settings for some of the parameters: dicts with a pattern on the path (or a list of
            patterns) under "match", as in ``{"match": "*/b", "weight_decay": 0.0}``. ``*`` is any
            characters; a parameter belongs to the first group that matches its path.
        clip_norm: if the norm of all gradients together exceeds this, they are scaled down to it:
            multiplied by ``clip_norm / norm``. None: no clipping. ``math.inf`` clips nothing and
            reports the norm. Under a finite one an infinite gradient makes the finite ones 0, and a
            NaN makes all NaN, as in torch (see ``nonfinite``).
        clip_value: gradient elements are clamped to [-clip_value, clip_value], after ``clip_norm``.
        nonfinite: for a gradient that holds NaN or infinity: "propagate" it, "skip" the step, or
            "raise" ValueError. The last two read all gradients once more, and then change neither
            parameters nor state nor counts of updates. Finite gradients are finite however large
            their squares and their sum: the norm is then taken of gradients scaled down, and is
            infinite only if it is itself beyond double.
        agc: adaptive gradient clipping: a number above 0. The gradient ``g`` of each unit of a
            parameter, after ``clip_norm`` and ``clip_value``, has a norm of at most ``agc`` times
            that of the unit's elements ``p``: with ``limit = agc * max(norm(p), agc_eps)`` it is
            multiplied by ``limit / max(norm(g), 1e-6)`` unless ``norm(g) < limit``. A parameter of
            at most one dimension is one unit. None: none. It can be set later where the group was
            built with it. (Brock, De, Smith, Simonyan 2021, "High-Performance Large-Scale Image
            Recognition Without Normalization"; its authors leave out the last layer, which a group
            with ``"agc": None`` does.) Norms are of double: in float64 a unit is clipped to 0 where
            its gradient's is above 1e154.
        agc_eps: the least norm that a unit counts with, so that zeros can grow, at least 0.
        agc_axis: the dimension that enumerates units, counted from the end if negative: that of the
            outputs. Needed where a parameter with ``agc`` has more than one: 0 for (out, in, ...),
            as torch and timm have weights, -1 for (..., in, out). Fixed when the optimizer is
            built.
        ema: keeps an average of each parameter: ``a = a + (1 - ema) * (p - a)`` with the updated
            ``p``, in the same pass over the memory; from 0 to 1. The first time, or with 0, ``a``
            becomes ``p`` itself; 1 leaves it as it is. ``n / (n + 1)`` with ``n =
            fusestep.expression.step`` is the mean of all so far (SWA). None: no average. See
            `averaged`, and for evaluation `averaged_in_place`.
        ema_every: how many updates of a parameter make one that its average takes in, at least 1:
            with 10 the 10th, the 20th and so on.
        copies: arrays to which updated parameters are written out in the same pass, by path, as in
            ``{"dense1/w": array}``: float32 or float64, of the parameter's shape. Parameters that a
            step does not update are not written, nor is anything before the first.
        lazy: what becomes of rows that a gradient of `Rows` does not hold. "exact": the bits of a
            dense gradient with zeros there. A row catches up with the updates that it has missed
            when it is updated next or asked for: `fetch` the rows that a model is going to read;
            between steps others may be behind, until `flush`. "skip": such rows and their state
            stay as they are, as in torch's SparseAdam (which has ``eps_mode="hat"``). Not for rules
            that add up over whole arrays, nor for ``agc``.
        history: how many updates a row may miss, at least 1: after as many all rows catch up. With
            "exact" each parameter that `Rows` are given for takes 160 bytes for each of these
            updates, as they come, and 4 bytes for each row; where an update with a gradient of 0
            changes nothing, as with SGD without momentum and decay, or Adagrad, neither.

    A number that float32 makes 0 or infinite is refused where a parameter is float32: when it is
    set, or, for an expression, by the step that meets it, which then changes nothing.

    Every number may also be an expression (see `fusestep.schedules`), or a Python function of the
    step, which can't be saved. Each step evaluates it for the number of updates applied so far.

    Every setting is an attribute: assigning ``opt.lr`` between steps holds for all groups without a
    value of their own, assigning ``opt.groups[1].lr`` for that group. Reading gives what the last
    step used; before the first what that is going to, or None where only the step is told. A number
    does not end a schedule: ``opt.lr = opt.schedules["lr"] * 0.5`` goes on with another one, and
    ``opt.lr = schedules.constant(0.1)`` ends it. What decides the arithmetic itself (True or False,
    and ``eps_mode``) is fixed when the optimizer is built.

    Parameters are checked then, and kept alive. A step looks whether their dicts and lists still
    hold them, and raises StateError if not; `rebind` goes on with other arrays, `add_group` with
    more of them.

    Raises:
        TypeError, ValueError: a parameter that cannot be updated in place, or a setting out of
            range. No array has changed.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.full((2, 4), 0.5)                    # the norm of each row is 1
        >>> opt = fs.SGD(w, lr=1.0, agc=0.5, agc_axis=0)
        >>> info = opt.step(np.array([[2.0] * 4, [0.125] * 4]))     # norms 4 and 0.25
        >>> print(w)
        [[0.25  0.25  0.25  0.25 ]
         [0.375 0.375 0.375 0.375]]
    """

    __slots__ = (
        "__weakref__",
        "_accumulator",
        "_containers",
        "_copied",
        "_division",
        "_engine",
        "_expressions",
        "_groups",
        "_parameters",
        "_plan",
        "_states",
        "_structure",
    )

    __signature__: ClassVar[Signature | None]
    _arguments: ClassVar[Mapping[str, Argument]] = MappingProxyType({})
    _rule: ClassVar[str] = ""
    _fixed: ClassVar[Mapping[str, float]] = MappingProxyType({})
    _declared: ClassVar[Rule]

    params: Params = Params(kw_only=False)
    groups: Groups[Group] = Groups(Group)
    clip_norm: Limit = Limit(unset=math.nan)
    clip_value: Limit = Limit(unset=math.inf, float32=(2.0**-149, math.inf))
    nonfinite: AtNonFinite = AtNonFinite("propagate")
    ema_every: Final[int] = Every.of(1)
    copies: Copies = Copies()
    history: History = History(65536)

    def __init_subclass__(
        cls, *, rule: str = "", fixed: Mapping[str, float] = MappingProxyType({}), **options: Any
    ) -> None:
        """``rule`` is the native one, ``fixed`` has columns of it that the class decides."""
        super().__init_subclass__(**options)
        cls._rule = rule or cls._rule
        cls._fixed = {**cls._fixed, **fixed}
        cls._arguments = arguments_of(cls, (Optimizer, Group))
        if cls._rule:
            cls._declared = Rule(cls._rule, cls._arguments, cls._fixed, cls._check_together)
        cls._kind_of_group = one_group(cls.groups.kind)
        # what help() and completion show; a class that says its own is left to that
        is_inherited = cls.__init__ is Optimizer.__init__
        cls.__signature__ = signature_of(cls._arguments) if is_inherited else None

    if not TYPE_CHECKING:  # they see a constructor with what the class declares
        applied, attempted, skipped = map(
            Earlier, ("steps_applied", "steps_attempted", "steps_skipped")
        )

        def __init__(self, /, *args: Any, **given: Any) -> None:
            arguments, kind = self._arguments, type(self).__name__
            if not self._rule:
                raise TypeError(f"{kind} has no rule: use SGD, Adam or another of them")
            check_named(kind, list(arguments), args, given)
            given.update(zip(arguments, args, strict=False))
            self._build({name: given.get(name, a.default) for name, a in arguments.items()})

    def _build(self, given: dict[str, Any]) -> None:
        names = "params", "groups", "nonfinite", "copies", "history"
        params, groups, nonfinite, copies, history = (given.pop(name) for name in names)
        division = divide(params, groups, self._declared.group_names)
        structure, leaves = trees.flatten(division.tree)
        containers = division.containers(params)
        division = division._replace(tree=trees.snapshot(division.tree))
        foreign.check_parameters(structure.paths, leaves)
        values = {Place(name): value for name, value in given.items()}
        for g, own in enumerate(division.own):
            values |= {Place(name, g): value for name, value in own.items()}
        narrow = division.narrow(structure.paths, leaves)
        settings = Settings(self._declared, values, narrow, Expressions())
        settings.check_together()
        self._engine = engine_for(leaves)
        self._index = self._match = None
        self._states = {}
        self._copied = checked_copies(copies, structure.paths)
        for name, made in self._made(structure, leaves, division, containers, settings).items():
            setattr(self, name, made)
        self.nonfinite, self.history = nonfinite, history

    def step(
        self,
        grads: Any = None,
        *,
        clock: Clock | None = None,
        loss: Any = None,
        grad_scale: float = 1.0,
        statistics: GradientStatistics | None = None,
        params: Any = None,
    ) -> StepInfo:
        """Updates every parameter once.

        Args:
            grads: gradients in the nesting of the parameters, each with its parameter's shape and
                dtype, C-contiguous, in memory of its own. None in place of an array leaves that
                parameter, its state and its count of updates as they are. Without ``grads`` the
                accumulated ones are used, divided by their samples, or else the bound ones. Arrays
                of other libraries are taken where NumPy can read their memory without a copy.
                `Rows`, or a sparse matrix of SciPy, stand for zeros but in the rows they hold.
            clock: for schedules that read ``samples``, ``epoch`` or ``batch_size``. Its ``step``
                is the number of updates applied so far unless it is given.
            loss: for schedules that follow the loss (`fusestep.control`): they see it after the
                update, if there was one. Without it they stay as they are.
            grad_scale: what the loss was multiplied by; gradients are divided by it first.
            statistics: learns from the micro-batches accumulated for this update, if there was one.
            params: the tree of parameters, to have all of it looked at: StateError names an array
                that is not the one that steps update. Without it a step looks at a few entries of
                the dicts and lists that the optimizer was built with, in turn.

        Returns:
            ``lr`` that was used in the first group; ``grad_norm``, the norm of all gradients before
            clipping, or None where none of ``clip_norm``, ``nonfinite`` and ``statistics`` asks for
            it; ``applied``. With CuPy arrays the step is launched on the current stream, and
            whoever reads ``grad_norm`` or, with ``nonfinite="skip"``, the others waits for it.

        Raises:
            TypeError, ValueError, StateError: no array has changed, and what is accumulated stays.
                One is raised, too, where a schedule gives a value that the setting may not have.
        """
        if params is not None:
            params = self._structure.leaves(self._division.tree_of(params), "params")
            self._plan.check_same(list(params))
        if grads is not None:
            grads = self._structure.leaves(grads, "grads")
        expressions = self._expressions
        if loss is None and expressions.controls:
            tell_unseen(expressions.controls, clock, self.steps_applied)
        try:
            if statistics is None and not expressions.controls and not expressions.functions:
                return self._plan.step(grads, grad_scale, clock)  # all in native code
            return self._step(grads, clock, loss, grad_scale, statistics)
        except TypeError:
            if (taken := self._taken(grads)) is None:
                raise
            return self._step(taken, clock, loss, grad_scale, statistics)

    def _step(
        self,
        grads: Any,
        clock: Clock | None,
        loss: Any,
        grad_scale: float,
        statistics: GradientStatistics | None,
    ) -> StepInfo:
        if statistics is not None:
            return self._learning_step(statistics, grads, clock, loss, grad_scale)
        if not self._expressions.functions and (loss is None or not self._expressions.controls):
            return self._plan.step(grads, grad_scale, clock)
        with self._plan.held():
            now, changes = self._expressions.before(clock, loss)
            return self._plan.step(grads, grad_scale, now, False, changes)

    def _learning_step(
        self,
        statistics: GradientStatistics,
        grads: Any,
        clock: Clock | None,
        loss: Any,
        grad_scale: float,
    ) -> StepInfo:
        if not isinstance(statistics, GradientStatistics):
            raise TypeError(f"statistics must be a GradientStatistics, not {statistics!r}")
        with self._plan.held(), claimed("optimizer", self._expressions.owner, (statistics,)):
            samples, micro_batches, squares, _ = self._plan.accumulated
            if not micro_batches:
                raise _core.StateError(
                    "statistics learn from accumulated gradients: accumulate(grads, samples) for "
                    "two or more micro-batches, then step(statistics=...)"
                )

            def learn(norm: float) -> Changes:
                scaled = squares / grad_scale / grad_scale
                return statistics._adding(scaled, samples, micro_batches, norm * norm)

            now, changes = self._expressions.before(clock, loss)
            return self._plan.step(grads, grad_scale, now, True, changes, learn)

    def prepare_replays(
        self, steps: int, *, clocks: Sequence[Clock] | None = None, grad_scale: float = 1.0
    ) -> None:
        """Evaluates the settings of the next steps, for a step that a CUDA graph replays.

        For CuPy arrays with gradients bound. Call it before the capture, and again after ``steps``
        replays or any other call. Extra replays update nothing; the next read of counts or state
        raises StateError. Schedules advance with the updates applied; clipping and
        ``nonfinite="skip"`` work as ever. Synchronises with the device. Keep the optimizer as long
        as the graph.

        Args:
            steps: a whole number, at least 1; after the capture at most as many as before it.
            clocks: for schedules that read ``samples``, ``epoch`` or ``batch_size``: one for each
                of these steps.
            grad_scale: that of the captured ``step(grad_scale=...)``.

        Raises:
            TypeError: the parameters are not of CuPy.
            StateError: no gradients are bound, ``nonfinite`` is "raise", or a schedule is a Python
                function or follows the loss.

        Example::

            opt.bind(grads)
            opt.prepare_replays(100)
            with stream:
                stream.begin_capture()
                compute_gradients()          # writes the arrays in grads
                opt.step()
                graph = stream.end_capture()
                for _ in range(100):
                    graph.launch()
        """
        count = check_whole("steps", steps, 1)
        check_positive("grad_scale", grad_scale)
        if clocks is not None and len(clocks) != count:
            raise ValueError(f"clocks must be {count}, one for each step, not {len(clocks)}")
        if self._expressions.functions or self._expressions.controls:
            raise _core.StateError(
                "prepare_replays: Python functions and values that follow the loss can't be "
                "evaluated ahead"
            )
        self._plan.prepare_replays(count, clocks, grad_scale)

    @property
    def steps_attempted(self) -> int:
        """How many steps were taken, skipped ones included."""
        return self._plan.attempted

    @property
    def steps_applied(self) -> int:
        """How many steps updated the parameters."""
        return self._plan.applied

    @property
    def steps_skipped(self) -> int:
        """How many steps were skipped for a non-finite gradient."""
        return self.steps_attempted - self.steps_applied

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it writes arrays that others "
            "hold; build a new one and load_state_dict(state_dict())"
        )

    def __repr__(self) -> str:
        settings = self._settings.of(None)
        if settings["ema"] is None:
            del settings["ema_every"]
        if settings["agc"] is None:
            del settings["agc_eps"]
        if settings["lazy"] == "exact":
            del settings["lazy"]
        shown = ", ".join(f"{name}={v!r}" for name, v in settings.items() if v is not None)
        groups = f" in {len(self.groups)} groups" if len(self.groups) > 1 else ""
        return f"{type(self).__name__}({len(self._states)} parameters{groups}, {shown})"
