"""fusestep.torch under frameworks that train: interrupted, saved and resumed with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from tables.peer_modules import imported

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")

EPOCHS, BATCHES, SIZE = 4, 6, 8
ACCUMULATED = 2
STEPS = EPOCHS * BATCHES // ACCUMULATED
SETTINGS = {"lr": 0.01, "weight_decay": 0.1}

# what frameworks warn of is theirs, except that a step was not seen as one
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*lr_scheduler.step"),
]


class Ended(NamedTuple):
    """A run as it ended."""

    model: Any
    optimizer: Any
    rates: list[float]  # of its steps

    def numbers(self) -> dict[str, Any]:
        """Every number of the model and of the optimizer's state."""
        found = {f"param {name}": value for name, value in self.model.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            found |= {f"state {i} {name}": value for name, value in state.items()}
        return found


# of a module with AdamW, and a folder: to the end of a number of epochs, or from what lies there on
Train = Callable[..., Ended]


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def dataset() -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * SIZE, 5, generator=generator)
    return torch.utils.data.TensorDataset(x, x.sin().sum(1, keepdim=True))


def loss_of(model: Any, x: Any, y: Any) -> Any:
    return torch.nn.functional.mse_loss(model(x), y)


def with_accelerate(
    module: ModuleType, folder: Path, epochs: int = EPOCHS, resumes: bool = False
) -> Ended:
    accelerate = imported("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    net = model()
    opt = module.AdamW(net.parameters(), **SETTINGS)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
    loader = torch.utils.data.DataLoader(dataset(), SIZE, shuffle=True)
    net, wrapped, loader, scheduler = accelerator.prepare(net, opt, loader, scheduler)
    first = 0
    if resumes:
        accelerator.load_state(str(folder))
        first = EPOCHS // 2
    rates = []
    for epoch in range(first, epochs):
        accelerate.utils.set_seed(epoch)  # of the order of the samples
        for x, y in loader:
            with accelerator.accumulate(net):
                wrapped.zero_grad()
                accelerator.backward(loss_of(net, x, y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), 0.5)
                    rates.append(opt.param_groups[0]["lr"])
                wrapped.step()
                scheduler.step()
    if epochs < EPOCHS:
        accelerator.save_state(str(folder))
    return Ended(net, opt, rates)


def with_transformers(
    module: ModuleType, folder: Path, epochs: int = EPOCHS, resumes: bool = False
) -> Ended:
    imported("accelerate")
    trainer, transformers = imported("transformers.trainer"), imported("transformers")

    class Network(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            return {"loss": loss_of(self.net, x, labels)}

    class Stop(transformers.TrainerCallback):  # type: ignore[name-defined,misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_training_stop = state.epoch >= epochs

        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            rates.append(more["optimizer"].param_groups[0]["lr"])

    rates: list[float] = []
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE,
        gradient_accumulation_steps=ACCUMULATED,
        max_grad_norm=0.5,
        learning_rate=SETTINGS["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=2,
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    running = trainer.Trainer(
        Network(),
        arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in dataset()],
        optimizer_cls_and_kwargs=(module.AdamW, SETTINGS),
        callbacks=[Stop()],
    )
    running.train(resume_from_checkpoint=resumes or None)
    opt = running.optimizer
    return Ended(running.model.net, getattr(opt, "optimizer", opt), rates)


def with_lightning(
    module: ModuleType, folder: Path, epochs: int = EPOCHS, resumes: bool = False
) -> Ended:
    lightning = imported("lightning")

    class Network(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def training_step(self, batch: Any, index: int) -> Any:
            return loss_of(self.net, *batch)

        def configure_optimizers(self) -> Any:
            opt = module.AdamW(self.net.parameters(), **SETTINGS)
            # which writes betas too
            scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.02, total_steps=STEPS)
            return [opt], [{"scheduler": scheduler, "interval": "step"}]

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    class Shuffled(torch.utils.data.Sampler):  # type: ignore[name-defined,misc]
        """An order for each epoch, which Lightning says."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(np.random.default_rng(self.epoch).permutation(len(self)).tolist())

        def __len__(self) -> int:
            return BATCHES * SIZE

    rates: list[float] = []
    trainer = lightning.Trainer(
        accelerator="cpu",
        # else it looks for MPI, which may be half installed
        plugins=imported("lightning.pytorch.plugins.environments").LightningEnvironment(),
        max_epochs=epochs,
        accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    file, network = folder / "run.ckpt", Network()
    loader = torch.utils.data.DataLoader(dataset(), SIZE, sampler=Shuffled())
    trainer.fit(network, loader, ckpt_path=str(file) if resumes else None, weights_only=True)
    if epochs < EPOCHS:
        trainer.save_checkpoint(file)
    return Ended(network.net, trainer.optimizers[0], rates)


EACH_FRAMEWORK = pytest.mark.parametrize(
    "train", [with_accelerate, with_transformers, with_lightning], ids=lambda train: train.__name__
)


@EACH_FRAMEWORK
def test_an_interrupted_run_ends_with_the_bits_of_one_that_was_not(
    train: Train, tmp_path: Path
) -> None:
    whole = train(native, tmp_path / "whole")
    begun = train(native, tmp_path / "parts", epochs=EPOCHS // 2)
    resumed = train(native, tmp_path / "parts", resumes=True)
    assert len(whole.rates) == STEPS
    assert begun.rates + resumed.rates == whole.rates
    torch.testing.assert_close(resumed.numbers(), whole.numbers(), rtol=0, atol=0)
    for run in (whole, begun, resumed):
        assert type(run.optimizer) is native.AdamW
        assert run.optimizer._engine._strangers == []


@EACH_FRAMEWORK
def test_a_run_is_that_of_torch_or_goes_on_from_it(train: Train, tmp_path: Path) -> None:
    expected = train(torch.optim, tmp_path / "torch")
    train(torch.optim, tmp_path / "parts", epochs=EPOCHS // 2)
    for run in (train(native, tmp_path / "whole"), train(native, tmp_path / "parts", resumes=True)):
        assert run.rates == expected.rates[-len(run.rates) :]
        torch.testing.assert_close(run.numbers(), expected.numbers())
