"""The step that the classes have in common: native where it can be, else torch's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch

from ..arguments import check_choice
from .engine import Engine
from .rows import Row, refuse_expressions

_UNSUPPORTED = ("torch", "raise")


class NativeStep:
    """A class of torch.optim whose step is native.

    For a base beside one of torch.optim. Each step looks at param_groups, the state and the
    parameters, and follows what was changed, replaced or loaded there. (Where a state's tensor was
    given other memory through ``.data``, and parameters have fewer than 1500 elements in the mean,
    it is one of the next steps that notices, since they look at some of the states in turn.)

    Args:
        on_unsupported: "torch" has torch's own step update the parameters that can't be updated
            natively: those on a device, of another dtype or kind of tensor, with gaps in memory, or
            in a group with ``differentiable``, ``capturable`` or a number that fusestep refuses;
            and whatever has a gradient of another dtype or layout. "raise" raises ValueError that
            says why, with nothing changed. A dense gradient that lies in another order is copied
            first.

    torch's ``fused`` and ``foreach`` choose between torch's own steps alone.
    """

    _row: ClassVar[Row]
    _step_supports_amp_scaling = True  # a scaler of gradients sets grad_scale and found_inf
    _engine: Engine | None = None
    on_unsupported: Literal["torch", "raise"] = "torch"

    def __init__(
        self, *args: Any, on_unsupported: Literal["torch", "raise"] = "torch", **settings: Any
    ) -> None:
        check_choice("on_unsupported", on_unsupported, _UNSUPPORTED)
        self.on_unsupported = on_unsupported
        refuse_expressions({"lr": args[1] if len(args) > 1 else settings.get("lr")})
        super().__init__(*args, **settings)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__init__ is NativeStep.__init__:
            base = next(b for b in cls.__mro__ if b.__module__.startswith("torch.optim."))
            own = inspect.Parameter(
                "on_unsupported", inspect.Parameter.KEYWORD_ONLY, default="torch"
            )
            signature = inspect.signature(base)
            cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=[*signature.parameters.values(), own]
            )

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        return {**state, "on_unsupported": self.on_unsupported}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._engine = None
        super().__setstate__(state)  # type: ignore[misc]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._engine = None
        refuse_expressions(param_group)
        super().add_param_group(param_group)  # type: ignore[misc]

    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.

        Returns:
            What the closure does, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scaler = self.__dict__
        if "found_inf" in scaler and scaler["found_inf"] is not None and scaler["found_inf"] > 0:
            return loss
        engine = self._engine
        gradients = engine.gradients(self) if engine is not None else None
        if engine is None or gradients is None:
            self._engine = engine = Engine(self, self._row)
            gradients = engine.gradients(self)
            assert gradients is not None, "an engine is good for what it was built for"
        scale = scaler.get("grad_scale")
        if others := engine.others():
            self._step_of_torch(others, scale)
        while any(gradient is not None for gradient in gradients):
            try:
                if not engine.step(gradients, 1.0 if scale is None else float(scale)):
                    self._engine = None
                break
            except (TypeError, ValueError) as error:  # nothing was written
                if others := engine.mend(gradients, str(error)):
                    self._engine = None
                    self._step_of_torch(others, scale)
        return loss

    def _step_of_torch(self, others: Sequence[tuple[Any, str]], scale: Any) -> None:
        """Has torch update some parameters, or raises with the reason for the first."""
        groups: list[dict[str, Any]] = self.param_groups  # type: ignore[attr-defined]
        if self.on_unsupported == "raise":
            first, reason = others[0]
            places = (
                (g, i, p) for g, group in enumerate(groups) for i, p in enumerate(group["params"])
            )
            g, i = next((g, i) for g, i, p in places if p is first)
            raise ValueError(
                f"parameter {i} of group {g} can't be updated natively: {reason}. Nothing was "
                'updated; on_unsupported="torch" leaves it to torch'
            )
        chosen = {id(p) for p, _ in others}
        lists = [group["params"] for group in groups]
        # torch's own step multiplies by neither unless it is the fused one
        scaler = {name: self.__dict__.pop(name, None) for name in ("grad_scale", "found_inf")}
        try:
            for group in groups:
                group["params"] = [p for p in group["params"] if id(p) in chosen]
            if scale is not None:
                for p, _ in others:
                    p.grad.div_(scale.to(p.grad.device))
            with torch.set_grad_enabled(bool(self.defaults["differentiable"])):  # type: ignore[attr-defined]
                _torchs_step(type(self))(self)
        finally:
            for group, parameters in zip(groups, lists, strict=True):
                group["params"] = parameters
            self.__dict__.update({name: v for name, v in scaler.items() if v is not None})


def _torchs_step(kind: type) -> Callable[[Any], Any]:
    """The step of the class of torch.optim that this one derives from, without its hooks."""
    base = next(
        b for b in kind.__mro__ if b.__module__.startswith("torch.optim.") and "step" in vars(b)
    )
    step: Callable[[Any], Any] = inspect.unwrap(vars(base)["step"])
    return step
