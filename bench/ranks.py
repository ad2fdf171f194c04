"""What every rank of `python -m bench distributed` runs: `mpiexec -n 2 python -m bench.ranks ...`.

All ranks time the contestants in turns, beginning together; the slowest rank counts. Rank 0 writes
what was found.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

import fusestep as fs
from fusestep import distributed
from fusestep.distributed import plan

from .agreement import ADAMW, Contestant, Rule, assert_agreement
from .contestants import adamw
from .measure import FULL, QUICK, Effort, Timing, timing
from .models import MODELS, Array, Problem
from .models import QUICK as QUICK_MODELS
from .numpy_steps import NumPy

WORLD = MPI.COMM_WORLD


def cut(flat: Any, problem: Problem) -> list[Any]:
    """One array as those of a model."""
    sizes = [p.size for p in problem.parameters]
    ends = list(itertools.accumulate(sizes))
    return [
        flat[end - size : end].reshape(p.shape)
        for end, size, p in zip(ends, sizes, problem.parameters, strict=True)
    ]


class Sharded(Contestant):
    """One leaf on every rank; parameters in one piece of memory."""

    exact_norm = True
    flat = True

    def __init__(self, problem: Problem, rule: Rule) -> None:
        parameters = problem.fresh_parameters()
        self.parameters = distributed.flatten(parameters) if self.flat else parameters
        self.gradients = problem.gradients
        self.optimizer = distributed.Sharded(
            fs.AdamW,
            self.parameters,
            group=distributed.mpi(WORLD),
            leaves=WORLD.size,
            lr=rule.lr,
            betas=rule.betas,
            eps=rule.eps,
            weight_decay=rule.weight_decay,
        )

    def step(self) -> None:
        self.optimizer.accumulate(self.gradients, 1)
        self.optimizer.step()

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i])


class Scattered(Sharded):
    """Every parameter in memory of its own."""

    flat = False


class _Allreduce(Contestant):
    """Gradients are copied into one array, which MPI adds."""

    def __init__(self, problem: Problem) -> None:
        self.own = np.empty(sum(p.size for p in problem.parameters), np.float32)
        self.total = np.empty_like(self.own)
        self.gradients = problem.gradients
        self.rooms = cut(self.own, problem)

    def reduce(self) -> None:
        for room, gradient in zip(self.rooms, self.gradients, strict=True):
            room[...] = gradient
        WORLD.Allreduce(self.own, self.total)


class Fused(_Allreduce):
    """Every rank updates all parameters in one fused step."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem)
        self.parameters = problem.fresh_parameters()
        self.optimizer = adamw(self.parameters, rule)
        self.sums = cut(self.total, problem)

    def step(self) -> None:
        self.reduce()
        self.optimizer.step(self.sums, grad_scale=float(WORLD.size))

    def parameter(self, i: int) -> Array:
        return self.parameters[i]


class MpiAdam(_Allreduce):
    """As OpenAI's baselines: one flat vector, in NumPy's own operations."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem)
        self.whole = NumPy(_Whole(problem, self.total), rule)
        self.parameters = cut(self.whole.parameters[0], problem)

    def step(self) -> None:
        self.reduce()
        self.total /= WORLD.size
        self.whole.step()

    def parameter(self, i: int) -> Array:
        return self.parameters[i]


class _Whole(Problem):
    """A model as one array, with the gradients given."""

    def __init__(self, problem: Problem, gradient: Array) -> None:
        super().__init__(problem.model)
        self.__dict__["gradients"] = [gradient]
        self._parameters = [np.concatenate([p.reshape(-1) for p in problem.parameters])]

    def fresh_parameters(self) -> list[Array]:
        return self._parameters


class Zero(Contestant):
    """torch: gradients in one tensor, as a bucket of DDP, added by gloo; ZeRO with fused AdamW."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(fs.get_num_threads())
        self.process_group: Any = importlib.import_module("torch.distributed")
        if not self.process_group.is_initialized():
            folder = WORLD.bcast(tempfile.mkdtemp() if WORLD.rank == 0 else None)
            self.process_group.init_process_group(
                "gloo",
                init_method=Path(folder, "store").as_uri(),
                rank=WORLD.rank,
                world_size=WORLD.size,
            )
        self.problem = problem
        self.bucket = self.torch.empty(sum(p.size for p in problem.parameters))
        self.grads = cut(self.bucket, problem)
        self.parameters = [
            self.torch.nn.Parameter(self.torch.tensor(p)) for p in problem.parameters
        ]
        self.sources = [self.torch.from_numpy(g) for g in problem.gradients]
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            parameter.grad = grad
        optim: Any = importlib.import_module("torch.distributed.optim")
        self.optimizer = optim.ZeroRedundancyOptimizer(
            self.parameters,
            self.torch.optim.AdamW,
            parameters_as_bucket_view=True,
            lr=rule.lr,
            betas=rule.betas,
            eps=rule.eps,
            weight_decay=rule.weight_decay,
            fused=True,
        )

    def step(self) -> None:
        # the backward pass writes into the bucket: here a copy stands for it, as for the others
        self.torch._foreach_copy_(self.grads, self.sources)
        self.bucket /= WORLD.size
        self.process_group.all_reduce(self.bucket)
        self.optimizer.step()

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i].detach().numpy())


CONTESTANTS: dict[str, Callable[[Problem, Rule], Contestant]] = {
    "fusestep": Sharded,
    "apart": Scattered,
    "Allreduce": Fused,
    "MpiAdam": MpiAdam,
    "ZeRO": Zero,
}


def in_turns(steps: Mapping[str, Callable[[], object]], effort: Effort) -> dict[str, Timing]:
    """As `bench.measure.in_turns`, by all ranks together."""
    batches, turn_seconds = {}, 0.0
    for name, step in steps.items():
        _run(step, 1)
        once = min(_run(step, 1) for _ in range(3))
        batches[name] = max(1, round(effort.batch_seconds / once))
        turn_seconds += 1.1 * batches[name] * once
    rounds = int(min(max(effort.seconds / turn_seconds, effort.fewest), effort.most))
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            _run(steps[name], max(1, batches[name] // 10))
            seconds[name].append(_run(steps[name], batches[name]) / batches[name])
    return {name: timing(seconds[name], batches[name]) for name in names}


def _run(step: Callable[[], object], times: int) -> float:
    """Seconds of the slowest rank, the same on all."""
    WORLD.Barrier()
    begin = time.perf_counter()
    for _ in itertools.repeat(None, times):
        step()
    return float(WORLD.allreduce(time.perf_counter() - begin, MPI.MAX))


def rates() -> dict[str, float]:
    """Bytes a second between ranks and in memory, with all ranks at work, and the latency."""
    group = distributed.mpi(WORLD)
    big, other = np.zeros(1 << 24, np.uint8), np.ones(1 << 24, np.uint8)
    copied = min(_run(lambda: np.copyto(big, other), 5) / 5 for _ in range(5))
    found = {"bandwidth": 2 * big.nbytes / copied, "link": np.inf, "latency": 0.0}
    if WORLD.size > 1:
        ahead, behind = (WORLD.rank + 1) % WORLD.size, (WORLD.rank - 1) % WORLD.size

        def move(count: int) -> None:
            group.exchange([(ahead, 0, other[:count])], [(behind, 0, big[:count])])

        found["link"] = big.nbytes / min(_run(lambda: move(big.nbytes), 3) / 3 for _ in range(5))
        found["latency"] = min(_run(lambda: move(8), 50) / 50 for _ in range(5))
    return found


def times(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step of some contestants, which agree, and what the plan says."""
    model = next(m for m in (*MODELS, *QUICK_MODELS) if m.name == options.model)
    problem = Problem(model)
    contestants = {name: CONTESTANTS[name](problem, ADAMW) for name in options.contestants}
    deviations = assert_agreement(problem, ADAMW, contestants)
    gc.collect()
    effort = QUICK if options.quick else FULL
    measured = in_turns({name: c.step for name, c in contestants.items()}, effort)
    job = plan.Job(model.parameters, ranks=WORLD.size, leaves=WORLD.size)
    parts = plan.seconds(job, 0, **rates())
    del parts["norm"]  # these steps need none
    return {
        "timings": {name: asdict(one) for name, one in measured.items()},
        "deviations": deviations,
        "planned": sum(parts.values()),
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that two steps added to what the process holds, and what the plan says, by rank."""
    elements = int(float(options.model))
    parameters = {str(k): np.ones(elements // 8, np.float32) for k in range(8)}
    if not options.apart:
        parameters = distributed.flatten(parameters)
    gradients = {name: np.ones_like(array) for name, array in parameters.items()}
    gc.collect()
    before = _resident()
    opt = distributed.Sharded(
        fs.AdamW, parameters, group=distributed.mpi(WORLD), leaves=options.leaves, lr=1e-3
    )
    for _ in range(2):
        for _ in range(opt.share.begin, opt.share.end):
            opt.accumulate(gradients, 1)
        opt.step()
    gc.collect()
    used = WORLD.allgather(_resident() - before)
    job = plan.Job(elements, ranks=WORLD.size, leaves=options.leaves, flat=not options.apart)
    planned = [plan.memory(job, rank) for rank in range(WORLD.size)]
    given = ("parameters", "gradients")
    sums = [sum(size for part, size in one.items() if part not in given) for one in planned]
    return {"measured": max(used), "planned": max(sums)}


def overlap(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step over a link of so many bytes a second, and of what passes over it alone.

    The link is emulated: an exchange ends when it could have passed over it.
    """
    elements, link = int(float(options.model)), options.link
    gradients = {"w": np.ones(elements, np.float32)}
    steps: dict[str, Callable[[], object]] = {}
    for clips in (False, True):
        for buckets in options.buckets:
            parameters = distributed.flatten({"w": np.ones(elements, np.float32)})
            opt = distributed.Sharded(
                fs.AdamW,
                parameters,
                group=_over_link(distributed.mpi(WORLD), link),
                leaves=WORLD.size,
                lr=1e-3,
                clip_norm=1.0 if clips else None,
                buckets=buckets,
            )

            def step(opt: distributed.Sharded = opt) -> None:
                opt.accumulate(gradients, 1)
                opt.step()

            steps[f"{buckets} {'clipped' if clips else 'free'}"] = step
    measured = in_turns(steps, QUICK if options.quick else FULL)
    job = plan.Job(elements, ranks=WORLD.size, leaves=WORLD.size)
    return {
        "timings": {name: asdict(one) for name, one in measured.items()},
        "wire": sum(plan.sent(job, WORLD.rank).values()) / link,
    }


def _over_link(group: Any, link: float) -> Any:
    """The group, whose exchanges last as long as a link of so many bytes a second would take."""
    begin, end, free = group.begin, group.end, 0.0

    def beginning(sends: Any, receives: Any) -> Any:
        nonlocal free
        sizes = [sum(array.nbytes for _, _, array in some) for some in (sends, receives)]
        free = max(free, time.perf_counter()) + max(sizes) / link
        return begin(sends, receives), free

    def ending(begun: Any) -> None:
        end(begun[0])
        time.sleep(max(0.0, begun[1] - time.perf_counter()))

    group.begin, group.end = beginning, ending
    return group


def _resident() -> int:
    """Bytes of memory of its own that the process uses, on Linux."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


PARTS = {"times": times, "memory": memory, "overlap": overlap}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ranks")
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--contestants", nargs="+", default=[])
    parser.add_argument("--leaves", type=int, default=1)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--buckets", nargs="+", type=int, default=[])
    parser.add_argument("--link", type=float, default=0.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    found = PARTS[options.part](options)
    if WORLD.rank == 0:
        options.out.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
