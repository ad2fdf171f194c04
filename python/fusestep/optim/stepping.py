"""What an optimizer does with gradients: steps, and those bound or accumulated for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _core, foreign, trees
from ..arguments import check_positive, check_whole
from ..clock import Clock
from ..control.base import tell_unseen
from ..engines import CudaPlan, Plan, StepInfo
from ..gradients import GradientStatistics
from ..memory import Changes, claimed
from .accumulation import Accumulator
from .groups import Division
from .schedule import Schedule


class Stepping:
    """The part of `Optimizer` that takes gradients."""

    __slots__ = ()

    _accumulator: Accumulator
    _division: Division
    _plan: Plan
    _schedule: Schedule
    _structure: trees.Structure

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
        schedule = self._schedule
        if loss is None and schedule.controls:
            tell_unseen(schedule.controls, clock, self.applied)
        try:
            if statistics is None and not schedule.controls and not schedule.functions:
                return self._plan.step(grads, grad_scale, clock)  # all in native code
            return self._step(grads, clock, loss, grad_scale, statistics)
        except TypeError:
            if (taken := self._taken(grads)) is None:
                raise
            return self._step(taken, clock, loss, grad_scale, statistics)

    def _taken(self, grads: Sequence[Any] | None) -> list[Any] | None:
        """The gradients with those of other libraries in NumPy's form; None if none is."""
        if grads is None or isinstance(self._plan, CudaPlan):
            return None
        return foreign.take_gradients(self._structure.paths, grads)

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
        if not self._schedule.functions and (loss is None or not self._schedule.controls):
            return self._plan.step(grads, grad_scale, clock)
        with self._plan.held():
            now, changes = self._schedule.before(clock, loss)
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
        with self._plan.held(), claimed("optimizer", self._schedule.owner, (statistics,)):
            samples, micro_batches, squares, _ = self._plan.accumulated
            if not micro_batches:
                raise _core.StateError(
                    "statistics learn from accumulated gradients: accumulate(grads, samples) for "
                    "two or more micro-batches, then step(statistics=...)"
                )

            def learn(norm: float) -> Changes:
                scaled = squares / grad_scale / grad_scale
                return statistics.after_sums(scaled, samples, micro_batches, norm * norm)

            now, changes = self._schedule.before(clock, loss)
            return self._plan.step(grads, grad_scale, now, True, changes, learn)

    def bind(self, grads: Any) -> None:
        """Takes gradient arrays that later ``step()`` calls read: for loops that reuse the arrays.

        They are checked now and kept alive; if one is refused, those bound before stay.
        ``bind(None)`` lets go of them.
        """
        if grads is not None:
            grads = self._structure.leaves(grads, "grads")
        try:
            self._plan.bind(grads)
        except TypeError:
            if (taken := self._taken(grads)) is None:
                raise
            self._plan.bind(taken)

    def prepare_replays(
        self, steps: int, *, clocks: Sequence[Clock] | None = None, grad_scale: float = 1.0
    ) -> None:
        """Evaluates the settings of the next steps, for a step that a CUDA graph replays.

        For CuPy arrays with gradients bound. It comes before the capture, and again whenever so
        many replays were launched, or anything was done without the graph or set to another value;
        a replay beyond updates nothing, which the next question for counts or state tells with
        StateError. Schedules advance with the updates applied;
        clipping and ``nonfinite="skip"`` work as ever. Waits for the device. Keep the optimizer as
        long as the graph.

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
        if not isinstance(self._plan, CudaPlan):
            raise TypeError("prepare_replays is for parameters of CuPy")
        count = check_whole("steps", steps, 1)
        check_positive("grad_scale", grad_scale)
        if clocks is not None and len(clocks) != count:
            raise ValueError(f"clocks must be {count}, one for each step, not {len(clocks)}")
        if self._schedule.functions or self._schedule.controls:
            raise _core.StateError(
                "prepare_replays: Python functions and values that follow the loss can't be "
                "evaluated ahead"
            )
        self._plan.prepare_replays(count, clocks, grad_scale)

    def accumulate(self, grads: Any, samples: float) -> Any:
        """Adds the gradients of one micro-batch to those that the next ``step()`` uses.

        ``step()`` divides the sum of ``samples * grads`` by all samples, so that micro-batches of
        any sizes give the gradient of the whole batch, to rounding, and forgets the sum; also if
        it skips the update for NaN or infinity. The arrays may be reused at once.

        Args:
            grads: the mean over the micro-batch, in the form of ``step``. None in place of an array
                counts as zero; a parameter that has None in every micro-batch is left alone.
            samples: how many examples (or tokens) the mean is over; a number from 2^-53 to 2^53.

        Returns:
            The squared norm of these gradients together, in double. It is taken in the same pass
            over the memory and does not depend on threads, instruction set or split; infinite
            where it is beyond double, which `GradientStatistics` then leaves out. With CuPy arrays
            it is an array without shape, on the device.

        Raises:
            TypeError, ValueError, StateError: nothing was added.

        Sums have the dtype of the parameters, in as much memory again, which the first call
        allocates. Multiplied by their samples, float32 gradients must stay below 3.4e38.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> w = np.zeros(2)
            >>> opt = fs.SGD(w, lr=1.0)
            >>> opt.accumulate(np.array([3.0, 4.0]), samples=3)
            25.0
            >>> opt.accumulate(np.array([-1.0, 0.0]), samples=1)
            1.0
            >>> info = opt.step()
            >>> w
            array([-2., -3.])
        """
        grads = self._structure.leaves(grads, "grads")
        try:
            return self._accumulator.add(grads, samples)
        except TypeError:
            if (taken := self._taken(grads)) is None:
                raise
            return self._accumulator.add(taken, samples)

    def discard_accumulated(self) -> None:
        """Forgets the gradients accumulated since the last step."""
        self._plan.discard_accumulated()

    @property
    def accumulated(self) -> float:
        """The samples accumulated since the last step; 0.0 if there are none."""
        return self._plan.accumulated_samples

    @property
    def attempted(self) -> int:
        """How many steps were taken, skipped ones included."""
        return self._plan.attempted

    @property
    def applied(self) -> int:
        """How many steps updated the parameters."""
        return self._plan.applied

    @property
    def skipped(self) -> int:
        """How many steps were skipped for a non-finite gradient."""
        return self.attempted - self.applied
