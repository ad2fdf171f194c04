"""Values that follow the loss: traces computed by hand, torch's Plateau, saved state."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import control, schedules

NAN, INF = math.nan, math.inf


def trace(leaf: fs.control.Control, losses: Sequence[float]) -> list[float]:
    """The value after each loss."""
    values = []
    for loss in losses:
        leaf.observe(loss)
        values.append(leaf.value)
    return values


LINE = schedules.linear(start=1.0, end=0.0, length=10)
# name, the leaf, losses, the value after each of them
TRACES: list[tuple[str, Any, list[float], list[float]]] = [
    (
        "patience counts losses that are not better",
        lambda: control.Plateau(factor=0.5, patience=1),
        [1.0, 0.9, 0.9, 0.95, 0.8, 0.8, 0.8, 0.8, 0.8],
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125],
    ),
    (
        "losses during the cooldown are not counted",
        lambda: control.Plateau(factor=0.5, patience=0, cooldown=2),
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [1.0, 0.5, 0.5, 0.5, 0.25, 0.25],
    ),
    (
        "a score that should rise, down to the least value",
        lambda: control.Plateau(factor=0.5, patience=0, mode="max", lower=0.3),
        [1.0, 2.0, 1.0, 1.0, 3.0],
        [1.0, 1.0, 0.5, 0.3, 0.3],
    ),
    (
        "an improvement must exceed the threshold",
        lambda: control.Plateau(factor=0.5, patience=0, threshold=0.1),
        [1.0, 0.95, 0.9, 0.89],
        [1.0, 0.5, 0.25, 0.25],
    ),
    (
        "the threshold is on the right side of negative losses",
        lambda: control.Plateau(factor=0.5, patience=0, threshold=0.1),
        [-1.0, -1.0, -1.05, -1.2],
        [1.0, 0.5, 0.25, 0.25],
    ),
    (
        "NaN and an infinite loss are never the best",
        lambda: control.Plateau(factor=0.5, patience=0),
        [NAN, INF, 1.0, NAN, 0.5, INF],
        [0.5, 0.25, 0.25, 0.125, 0.125, 0.0625],
    ),
    (
        "the value backs off from a loss that rises and comes back with it",
        lambda: control.LossBackoff(),
        [2.0, 1.0, 2.0, 4.0, 2.0, 1.0],
        [1.0, 1.0, 0.5, 0.25, 0.5, 1.0],
    ),
    (
        "the first loss over the present one, within bounds",
        lambda: control.LossBackoff(lower=0.5, upper=4.0),
        [8.0, 4.0, 1.0, 2.0, 64.0, NAN, INF, 32.0],
        [1.0, 2.0, 4.0, 2.0, 0.5, 0.5, 0.5, 1.0],
    ),
    (
        "worse losses in a row shrink again and again",
        lambda: control.Rollback(shrink=0.5),
        [1.0, 2.0, 2.0, 0.5, 0.6],
        [1.0, 0.5, 0.25, 0.25, 0.125],
    ),
    (
        "the bold driver grows, and goes back to the value of the best loss",
        lambda: control.Rollback(shrink=0.5, grow=2.0, upper=16.0),
        [1.0, 0.9, 0.8, 0.85, 0.7, 0.6],
        [2.0, 4.0, 8.0, 2.0, 4.0, 8.0],
    ),
    (
        "within the tolerance nothing happens, NaN is worse, negative losses are losses",
        lambda: control.Rollback(shrink=0.5, tolerance=0.5, lower=0.2),
        [-1.0, -0.6, -0.4, NAN, INF, -2.0],
        [1.0, 1.0, 0.5, 0.25, 0.2, 0.2],
    ),
    (
        "the gap to a number",
        lambda: control.LossGap(reference=1.0),
        [4.0, 2.0, 1.0, 0.5, NAN, INF],
        [0.75, 0.5, 0.05, 0.05, 1.0, 1.0],
    ),
    (
        "the gap to the best loss so far",
        lambda: control.LossGap(lower=0.25),
        [NAN, 1.0, 2.0, 0.5, 1.0],
        [1.0, 0.25, 0.5, 0.25, 0.5],
    ),
    (
        "the article's form is decided by its bounds above the reference",
        lambda: control.LossGap(reference=2.0, form="article"),
        [4.0, 2.0, 1.0, 0.5, NAN],
        [0.05, 0.05, 0.5, 0.75, 0.05],
    ),
    (
        "shrinks after rises in a row, grows after falls in a row",
        lambda: control.ReduceThenGrow(
            shrink=0.5, grow=1.5, patience_bad=1, patience_good=2, smoothing=0.0
        ),
        [5.0, 6.0, 7.0, 6.0, 5.0, 4.0, 4.0, 5.0, NAN],
        [1.0, 1.0, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.375],
    ),
    (
        "losses are smoothed: 8, then 8 and 0 half each, and so on",
        lambda: control.ReduceThenGrow(shrink=0.5, patience_bad=0, smoothing=0.5),
        [8.0, 0.0, 3.0, 5.0, -5.0],
        [1.0, 1.0, 1.0, 0.5, 0.5],
    ),
    (
        "the curve begins anew where the loss falls below the threshold",
        lambda: control.RestartBelow(LINE, threshold=0.5),
        [0.9, 0.6, 0.4, 0.3, 0.7, NAN, 0.4],
        [0.9, 0.8, 1.0, 0.9, 0.8, 0.7, 1.0],
    ),
    (
        "or the value becomes a number",
        lambda: control.RestartBelow(LINE, threshold=-0.5, reset_to=0.25, lower=0.85),
        [0.9, 0.6, -0.4, -0.6, 0.0],
        [0.9, 0.85, 0.85, 0.85, 0.85],
    ),
    (
        "each curve is tried, the best is kept, and the trials begin anew",
        lambda: control.BestOf([0.1, 0.2, 0.3], trial=2),
        [9.0, 8.0, 7.0, 5.0, 5.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0],
        [0.1, 0.2, 0.2, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.2],
    ),
    (
        "a round begins with the loss that ended the one before, or the first that is a number",
        lambda: control.BestOf([0.1, 0.2], trial=1),
        [5.0, 3.0, 9.0, INF, 8.0, 9.0, 1.0, 1.0, 7.0, 8.0],
        [0.2, 0.2, 0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.2, 0.2],
    ),
    (
        "a score that should rise is never the best where it is infinite",
        lambda: control.Plateau(factor=0.5, patience=0, mode="max"),
        [INF, 1.0, INF, 2.0, -INF],
        [0.5, 0.5, 0.25, 0.25, 0.125],
    ),
    (
        "a trial that ends with NaN is the worst, and so is the one after it",
        lambda: control.BestOf([0.1, 0.2, 0.3], trial=1),
        [1.0, NAN, 0.5, 0.4],
        [0.2, 0.3, 0.1, 0.1],
    ),
]


@pytest.mark.parametrize(("make", "losses", "expected"), [t[1:] for t in TRACES], ids=lambda x: "")
def test_the_value_follows_the_loss_as_computed_by_hand(
    make: Any, losses: list[float], expected: list[float]
) -> None:
    assert trace(make(), losses) == pytest.approx(expected, rel=1e-15)


def test_every_control_has_a_trace() -> None:
    traced = {type(make()).__name__ for _, make, _, _ in TRACES}
    assert traced == set(control.__all__) - {"Control"}


@pytest.mark.parametrize(("make", "losses"), [t[1:3] for t in TRACES], ids=lambda x: "")
def test_a_run_that_was_saved_at_any_loss_goes_on_as_if_it_never_stopped(
    make: Any, losses: list[float]
) -> None:
    whole = trace(make(), losses)
    for stop in range(len(losses) + 1):
        first = make()
        begun = trace(first, losses[:stop])
        state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
        second = fs.expression.from_json(first.to_json())
        assert isinstance(second, control.Control)
        second.load_state_dict(state)
        assert second.value == first.value
        assert begun + trace(second, losses[stop:]) == whole


@pytest.mark.parametrize("make", [t[1] for t in TRACES], ids=lambda x: "")
def test_state_that_does_not_fit_is_refused_and_nothing_changes(make: Any) -> None:
    leaf = make()
    trace(leaf, [2.0, 1.0, 3.0])
    before, value = leaf.state_dict(), leaf.value
    for name in before:
        for bad in ("text", [1, "x"], None if name in ("seen", "value") else "x"):
            with pytest.raises(fs.StateError, match=rf"fit {type(leaf).__name__}.*\n  {name}"):
                leaf.load_state_dict({**before, name: bad})
    for state, message in (
        ({}, "  seen: not saved"),
        (None, "it must be a dict of seen, value"),
        ({**before, "other": 1}, "  other: unknown"),
    ):
        with pytest.raises(fs.StateError, match=message):
            leaf.load_state_dict(state)
    assert (leaf.state_dict(), leaf.value) == (before, value)


def test_plateau_equals_torch_on_random_traces() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    for _ in range(100):
        options = {
            "factor": float(random.choice([0.1, 0.5, 0.9])),
            "patience": int(random.integers(0, 5)),
            "threshold": float(random.choice([0.0, 1e-4, 0.05])),
            "mode": str(random.choice(["min", "max"])),
            "cooldown": int(random.integers(0, 4)),
        }
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        low = float(random.choice([0.0, 0.2]))
        peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=low, eps=0.0, **options)
        own = control.Plateau(lower=low, **options)
        losses = np.round(np.cumprod(random.choice([0.9, 1.0, 1.05, 1.001], size=60)), 4)
        losses[random.random(60) < 0.03] = np.nan
        for loss in losses.tolist():
            peer.step(loss)
            own.observe(loss)
            assert own.value == optimizer.param_groups[0]["lr"], options


BAD = [
    (lambda: control.Plateau(factor=1.0), "factor must be in"),
    (lambda: control.Plateau(factor=0.0), "factor must be greater than 0"),
    (lambda: control.Plateau(patience=-1), "patience must be at least 0, not -1"),
    (lambda: control.Plateau(patience=1.5), "patience must be a whole number, not 1.5"),
    (lambda: control.Plateau(mode="low"), "mode must be one of min, max, not 'low'"),
    (lambda: control.Plateau(threshold=NAN), "threshold must be finite and at least 0, not nan"),
    (lambda: control.LossBackoff(lower=2.0), "bounds must be 0 <= lower <= upper, not 2.0 and 1.0"),
    (lambda: control.LossBackoff(start=3.0), "begins at 3.0, outside of"),
    (lambda: control.Rollback(shrink=1.0), "shrink must be in"),
    (lambda: control.Rollback(grow=0.5), "grow must be finite and at least 1, not 0.5"),
    (lambda: control.LossGap(reference=0.0), "reference must be greater than 0, not 0"),
    (lambda: control.LossGap(form="ratio"), "form must be one of gap, article, not 'ratio'"),
    (lambda: control.ReduceThenGrow(smoothing=1.0), "smoothing must be in"),
    (lambda: control.RestartBelow(LINE, threshold=INF), "threshold must be finite, not inf"),
    (lambda: control.RestartBelow("x", threshold=1), "made of numbers and expressions, not 'x'"),
    (lambda: control.BestOf([LINE], trial=2), "curves must hold at least 2, not 1"),
    (lambda: control.BestOf([LINE, 0.1], trial=0), "trial must be at least 1, not 0"),
    (lambda: control.LossBackoff().observe(0.0), r"loss must be above 0 for LossBackoff\(\)"),
    (lambda: control.LossGap().observe(-1.0), r"loss must be above 0 for LossGap\(\), not -1.0"),
    (lambda: control.Plateau().observe("low"), "loss must be a number, not 'low'"),
    (lambda: control.Plateau().observe(None), "loss must be a number, not None"),
    (lambda: control.Plateau().observe(np.ones(3)), "loss must be a number, not array"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_and_losses_are_named(bad: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        bad()


def test_a_copy_of_a_control_follows_losses_of_its_own() -> None:
    leaf = control.Plateau(factor=0.5, patience=0)
    trace(leaf, [1.0, 1.0])
    for other in (copy.deepcopy(LINE * leaf), pickle.loads(pickle.dumps(LINE * leaf))):
        other._operands[1].observe(1.0)
        assert (other(0), leaf.value) == (0.25, 0.5)


def test_in_arrays_a_control_has_its_present_value() -> None:
    leaf = control.Plateau(factor=0.5, patience=0)
    lr = LINE * leaf
    trace(leaf, [1.0, 1.0])
    assert lr([0, 5, 10]).tolist() == [0.5, 0.25, 0.0]


def test_a_curve_in_a_control_keeps_the_inputs_of_the_clock_that_are_no_step() -> None:
    leaf = control.RestartBelow(LINE + fs.expression.epoch, threshold=0.5)
    leaf.observe(1.0)
    leaf.observe(0.4)
    assert leaf(step=4, epoch=2.0) == pytest.approx(0.8 + 2.0)
    both = control.BestOf([LINE, LINE.shifted(5)], trial=3)
    assert (both.value, both(step=3)) == (1.0, 0.7)


@pytest.mark.parametrize("step", [-1, 2**53, 1.5, "x"])
def test_a_step_that_no_clock_tells_is_refused(step: Any) -> None:
    leaf = control.Plateau()
    with pytest.raises((TypeError, ValueError), match=r"^step must be "):
        leaf.observe(1.0, step=step)
    assert leaf.state_dict()["seen"] == 0


def test_a_bad_curve_is_named_by_its_argument() -> None:
    with pytest.raises(TypeError, match=r"^curves\[1\]: .* not 'x'"):
        control.BestOf([0.1, "x"], trial=1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^curve: .* not None"):
        control.RestartBelow(None, threshold=1.0)  # type: ignore[arg-type]
