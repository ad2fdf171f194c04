"""fusestep.torch with accelerate and the Trainer of transformers: saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")

# what these libraries and torch say about machines without an accelerator and about themselves
pytestmark = pytest.mark.filterwarnings("ignore")
INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def test_accelerate_prepares_accumulates_saves_and_resumes(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")

    def build() -> list[Any]:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network()
        opt = native.AdamW(model.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.9)
        return [accelerator, *accelerator.prepare(model, opt, scheduler)]

    def train(parts: list[Any], first: int) -> None:
        accelerator, model, opt, scheduler = parts
        for i in range(first, first + 6):
            with accelerator.accumulate(model):
                accelerator.backward(model(INPUTS[4 * i % 24 :][:4]).pow(2).mean())
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()
                scheduler.step()
                opt.zero_grad()

    whole = build()
    train(whole, 0)
    whole[0].save_state(tmp_path)
    train(whole, 6)
    resumed = build()
    resumed[0].load_state(tmp_path)
    train(resumed, 6)
    for p, q in zip(whole[1].parameters(), resumed[1].parameters(), strict=True):
        assert torch.equal(p, q)
    assert whole[2].optimizer._engine._strangers == []
    assert whole[2].param_groups[0]["lr"] == resumed[2].param_groups[0]["lr"] < 0.05


class Model(torch.nn.Module):  # type: ignore[misc]
    """As a Trainer wants it: gives the loss first."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Any) -> dict[str, Any]:
        return {"loss": self.network(x).pow(2).mean()}


def test_the_trainer_of_transformers_saves_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    try:
        kind = transformers.Trainer
    except (ImportError, RuntimeError) as error:  # something that it needs is of another version
        pytest.skip(f"transformers has no Trainer: {error}")
    data = [{"x": row} for row in INPUTS]

    def trained(folder: str, resume: str | None) -> tuple[Any, Any]:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / folder),
            max_steps=6,
            per_device_train_batch_size=4,
            save_steps=3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            seed=1,
        )
        model = Model()
        opt = native.AdamW(model.parameters(), lr=0.05)
        trainer = kind(model=model, args=arguments, train_dataset=data, optimizers=(opt, None))
        trainer.train(resume_from_checkpoint=resume)
        return model, opt

    whole, opt = trained("whole", None)
    resumed, other = trained("resumed", str(tmp_path / "whole" / "checkpoint-3"))
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    assert {float(state["step"]) for state in other.state.values()} == {6.0}
    assert opt._engine._strangers == []
