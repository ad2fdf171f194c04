"""The time of one step of every rule, beside its floor and the libraries that have it.

The floor of a rule is the time of the streaming limit for the bytes that its step must move.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

import fusestep as fs

from . import contestants as who
from . import report
from .agreement import ADAMW, FACTORS, SMALL, TOLERANCE, Contestant, Disagreement
from .limit import Limit
from .measure import Effort, in_turns
from .models import Array, Model, Problem
from .peers import Jitted, Torch, first_line, optax_absent, torch_absent
from .report import Column, Table

_MODELS = ("1e5", "1e7", "resnet50", "100x100", "1000x100")
_LIMIT_BYTES = 28  # for each parameter, as stream.c moves them
_SECONDS = 0.4  # of the effort for one comparison: there are many

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class RuleRow:
    """A rule with its settings, and who else has it: under which name, with which settings."""

    title: str
    build: Callable[[Any], fs.Optimizer]
    bytes_moved: int  # for each float32 parameter
    torch: tuple[str, Settings] | None = None
    fused: bool = False  # whether torch has it in one pass on a CPU
    others: Mapping[str, tuple[str, Settings]] = field(default_factory=dict)
    optax: Callable[[Any], Any] | None = None


class _Own(Contestant):
    def __init__(self, problem: Problem, row: RuleRow, bound: bool) -> None:
        self.parameters = problem.fresh_parameters()
        self.optimizer = row.build(self.parameters)
        self.step = functools.partial(self.optimizer.step, problem.gradients)
        if bound:
            self.optimizer.bind(problem.gradients)
            self.step = self.optimizer.step

    def parameter(self, i: int) -> Array:
        return self.parameters[i]


class _OfTorch(Torch):
    """An optimizer with torch's interface; timm's LARS writes its gradients."""

    def __init__(self, problem: Problem, make: Callable[[Any], Any]) -> None:
        super().__init__(problem, writes_gradients=True)
        optimizer = make(self.parameters)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedulefree's, which otherwise refuses a step
        self.step = optimizer.step


def _module_absent(name: str) -> Callable[[], str]:
    @functools.cache
    def absent() -> str:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a torchvision that does not fit may raise
            return first_line(error)
        return ""

    return lambda: torch_absent() or absent()


BOUND = "fusestep bound"
PEERS: dict[str, Callable[[], str]] = {
    "torch foreach": torch_absent,
    "torch fused": torch_absent,
    "timm": _module_absent("timm.optim"),
    "schedulefree": _module_absent("schedulefree"),
    "optimi": _module_absent("optimi"),
    "optax": optax_absent,
}
_MODULES = {"timm": "timm.optim", "schedulefree": "schedulefree", "optimi": "optimi"}


def _makers(row: RuleRow) -> dict[str, Callable[[Problem], Contestant]]:
    """Who has the rule, by name."""
    makers: dict[str, Callable[[Problem], Contestant]] = {
        "fusestep": lambda problem: _Own(problem, row, bound=False),
        BOUND: lambda problem: _Own(problem, row, bound=True),
    }

    def add(peer: str, module: str, entry: tuple[str, Settings], **more: Any) -> None:
        if not PEERS[peer]():
            name, settings = entry
            kind = getattr(importlib.import_module(module), name)
            make = functools.partial(kind, **settings, **more)
            makers[peer] = lambda problem: _OfTorch(problem, make)

    if row.torch is not None:
        add("torch foreach", "torch.optim", row.torch, foreach=True)
        if row.fused:
            add("torch fused", "torch.optim", row.torch, fused=True)
    for peer, entry in row.others.items():
        add(peer, _MODULES[peer], entry)
    transform = row.optax
    if transform is not None and not PEERS["optax"]():
        makers["optax"] = lambda problem: Jitted(problem, transform)
    return makers


def _assert_agreement(
    problem: Problem, row: RuleRow, contestants: Mapping[str, Contestant]
) -> dict[str, float]:
    """Lets fresh contestants take three steps and compares them with fusestep in float64.

    Its bits are those of the NumPy oracles of the tests. Returns the largest deviation of each.
    """
    exact = [p.astype(np.float64) for p in problem.parameters]
    optimizer = row.build(exact)
    for factor in FACTORS:
        _scale(problem.gradients, factor)
        optimizer.step([g.astype(np.float64) for g in problem.gradients])
        for contestant in contestants.values():
            contestant.refresh()
            contestant.step()
        _scale(problem.gradients, 1 / factor)
    worst = {}
    for name, contestant in contestants.items():
        contestant.refresh()
        worst[name] = max(
            float(np.max(np.abs(contestant.parameter(i) - p) / np.maximum(np.abs(p), SMALL)))
            for i, p in enumerate(exact)
        )
        if not worst[name] <= TOLERANCE:
            raise Disagreement(
                f"{row.title}, {problem.model.title}: {name} is off by {worst[name]:.1e} after "
                f"{len(FACTORS)} steps; at most {TOLERANCE:.0e}"
            )
    return worst


def _scale(gradients: Sequence[Array], factor: float) -> None:
    for gradient in gradients:
        gradient *= factor


def times(models: Sequence[Model], effort: Effort) -> Table:
    """Every rule, gradients passed and bound."""
    effort = replace(effort, seconds=_SECONDS * effort.seconds)
    rows: list[dict[str, Any]] = []
    worst: dict[str, float] = {}
    has_limit = not who.LIMIT.absent()
    for model in (model for model in models if model.name in _MODELS):
        problem = Problem(model)
        for row in RULES:
            print(f"rules: {row.title}, {model.title}", file=sys.stderr, flush=True)
            contestants = {name: make(problem) for name, make in _makers(row).items()}
            for name, deviation in _assert_agreement(problem, row, contestants).items():
                worst[name] = max(worst.get(name, 0.0), deviation)
            if has_limit:
                contestants[who.LIMIT.name] = Limit(problem, ADAMW)
            timings = in_turns({name: c.step for name, c in contestants.items()}, effort)
            del contestants
            rows.append(_row(model, row, {name: t.median for name, t in timings.items()}))
            rows[-1]["timings"] = {name: asdict(timing) for name, timing in timings.items()}
    absent = {name: reason for name, why in PEERS.items() if (reason := why())}
    columns = [
        Column("model", "model"),
        Column("rule", "rule"),
        Column("bytes", "bytes"),
        *report.time_columns(["fusestep", BOUND], {}),
        Column("floor", "floor", report.seconds),
        Column("share", "floor / bound", report.percent),
        *report.time_columns(list(PEERS), absent),
        Column("best", "best peer"),
        Column("ratio", "best peer / fusestep", report.ratio),
    ]
    if not rows:
        return Table("rules", "Every rule: none of these models", columns, rows)
    largest = max(worst, key=lambda name: worst[name])
    notes = [
        *report.absences(absent),
        f"All agree with fusestep in float64 after {len(FACTORS)} steps: largest deviation "
        f"{worst[largest]:.0e} ({largest}), allowed {TOLERANCE:.0e}. Floor: the streaming limit's "
        f"time for so many bytes a parameter; in the cache of a core more is possible.",
    ]
    return Table("rules", "Every rule, float32: time of one step", columns, rows, notes)


def _row(model: Model, row: RuleRow, times: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": model.title,
        "rule": row.title,
        "bytes": row.bytes_moved,
        **{name: time for name, time in times.items() if name != who.LIMIT.name},
    }
    if who.LIMIT.name in times:
        found["floor"] = times[who.LIMIT.name] * row.bytes_moved / _LIMIT_BYTES
        found["share"] = 100 * found["floor"] / times[BOUND]
    if peers := {name: times[name] for name in PEERS if name in times}:
        found["best"] = min(peers, key=lambda name: peers[name])
        found["ratio"] = peers[found["best"]] / times["fusestep"]
    return found


def _with_decay(optax: Any, rule: Any, decay: float = 0.1) -> Any:
    """Weight decay as a part of the gradient."""
    return optax.chain(optax.add_decayed_weights(decay), rule)


# Not for rules that divide by the size of a gradient to which it is added: where the two nearly
# cancel, float32 leaves few digits.
_DECAY = {"weight_decay": 0.1}
_LR = {"lr": 1e-3}
_BOTH = {**_LR, **_DECAY}
_FREE = {"lr": 2.5e-3, **_DECAY, "warmup_steps": 0}

RULES: tuple[RuleRow, ...] = (
    RuleRow(
        "SGD, momentum",
        lambda p: fs.SGD(p, momentum=0.9, **_BOTH),
        20,
        torch=("SGD", {**_BOTH, "momentum": 0.9}),
        fused=True,
        optax=lambda o: _with_decay(o, o.sgd(1e-3, momentum=0.9)),
    ),
    RuleRow(
        "Lion",
        lambda p: fs.Lion(p, **_BOTH),
        20,
        others={"timm": ("Lion", _BOTH)},
        optax=lambda o: o.lion(1e-3, **_DECAY),
    ),
    RuleRow(
        "Adagrad",
        lambda p: fs.Adagrad(p, **_LR),
        20,
        torch=("Adagrad", _LR),
        fused=True,
    ),
    RuleRow(
        "RMSprop",
        lambda p: fs.RMSprop(p, **_LR),
        20,
        torch=("RMSprop", _LR),
        optax=lambda o: o.rmsprop(1e-3, 0.99, eps_in_sqrt=False),
    ),
    RuleRow(
        "RMSprop, centred, momentum",
        lambda p: fs.RMSprop(p, **_LR, centered=True, momentum=0.9),
        36,
        torch=("RMSprop", {**_LR, "centered": True, "momentum": 0.9}),
    ),
    RuleRow(
        "Adadelta",
        lambda p: fs.Adadelta(p, **_LR),
        28,
        torch=("Adadelta", _LR),
        optax=lambda o: o.adadelta(1e-3),
    ),
    RuleRow("Rprop", lambda p: fs.Rprop(p, **_LR), 28, torch=("Rprop", _LR)),
    RuleRow(
        "Adamax",
        lambda p: fs.Adamax(p, **_LR),
        28,
        torch=("Adamax", _LR),
        optax=lambda o: o.adamax(1e-3),
    ),
    RuleRow(
        "AdamW",
        lambda p: fs.AdamW(p, **_BOTH),
        28,
        torch=("AdamW", _BOTH),
        fused=True,
        optax=lambda o: o.adamw(1e-3, **_DECAY),
    ),
    RuleRow(
        "AdamW, nesterov",
        lambda p: fs.AdamW(p, **_BOTH, nesterov=True),
        28,
        others={"timm": ("NAdamW", _BOTH)},
    ),
    RuleRow(
        "AdamW, cautious",
        lambda p: fs.AdamW(p, **_BOTH, cautious=True),
        40,
        others={"timm": ("AdamWLegacy", {**_BOTH, "caution": True})},
    ),
    RuleRow(
        "AdaBelief",
        lambda p: fs.AdaBelief(p, **_LR),
        28,
        optax=lambda o: o.adabelief(1e-3),
    ),
    RuleRow("NAdam", lambda p: fs.NAdam(p, **_LR), 28, torch=("NAdam", _LR)),
    RuleRow("RAdam", lambda p: fs.RAdam(p, **_LR), 28, torch=("RAdam", _LR)),
    RuleRow(
        "ADOPT",
        lambda p: fs.ADOPT(p, **_LR),
        28,
        others={"timm": ("Adopt", {**_LR, "clip_exp": 0.25})},
        optax=lambda o: o.contrib.adopt(1e-3),
    ),
    RuleRow(
        "AdEMAMix",
        lambda p: fs.AdEMAMix(p, **_BOTH),
        36,
        optax=lambda o: o.contrib.ademamix(1e-3, **_DECAY),
    ),
    RuleRow(
        "Schedule-Free SGD",
        lambda p: fs.ScheduleFreeSGD(p, **_FREE),
        20,
        others={"schedulefree": ("SGDScheduleFree", _FREE)},
    ),
    RuleRow(
        "Schedule-Free AdamW",
        lambda p: fs.ScheduleFreeAdamW(p, **_FREE),
        28,
        others={"schedulefree": ("AdamWScheduleFree", _FREE)},
    ),
    RuleRow(
        "StableAdamW",
        lambda p: fs.StableAdamW(p, **_BOTH),
        36,
        others={"optimi": ("StableAdamW", _BOTH)},
    ),
    RuleRow(
        "LARS",
        lambda p: fs.LARS(p, **_BOTH, momentum=0.9),
        28,
        others={"timm": ("Lars", {**_BOTH, "momentum": 0.9})},
    ),
    RuleRow(
        "LAMB",
        lambda p: fs.LAMB(p, **_BOTH),
        40,
        others={"timm": ("Lamb", {**_BOTH, "max_grad_norm": None})},
        optax=lambda o: o.lamb(1e-3, **_DECAY),
    ),
)
