"""The optimisers of a training, and which moments of theirs a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from .training_task import Optimizer, TrainSettings

#: What an optimiser remembers of a parameter, besides the number of steps.
MOMENTS: dict[Optimizer, tuple[str, ...]] = {
    "adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq"), "lars": ("velocity",),
}  # fmt: skip
_MOMENTUM, _TRUST = 0.9, 0.001


def optimiser(parameters: Sequence[Any], settings: TrainSettings, device: Any) -> Any:
    """The optimiser that ``settings`` ask for; on a GPU its steps can be recorded, and its learning rate is a tensor."""
    import torch

    on_gpu = device.type == "cuda"
    rate: Any = torch.tensor(settings.learning_rate, device=device) if on_gpu else settings.learning_rate
    decay = settings.weight_decay
    if settings.optimizer == "lars":
        return lars(parameters, settings.learning_rate, decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay, capturable=on_gpu)


def lars(parameters: Sequence[Any], rate: float, weight_decay: float) -> Any:
    """Layer-wise adapted rates (1708.03888): momentum 0.9, trust coefficient 0.001.

    Of a matrix w with gradient g: local rate = 0.001 |w| / (|g| + weight_decay |w|) (1 where |w| or |g| is 0), velocity =
    0.9 velocity + rate * local * (g + weight_decay w), w - velocity. Vectors (biases, scales of norms) have neither adaptation nor
    decay.
    """
    return _class()(parameters, {"lr": rate, "weight_decay": weight_decay})


@cache
def _class() -> Callable[..., Any]:
    import torch

    class Lars(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group["lr"], group["weight_decay"])

        def _move(self, parameter: Any, rate: float, decay: float) -> None:
            step, state = parameter.grad, self.state[parameter]
            if parameter.ndim > 1:
                size, slope = parameter.norm(), step.norm()
                local = torch.where(
                    (size > 0) & (slope > 0), _TRUST * size / (slope + decay * size), torch.ones_like(size)
                )
                step = (step + decay * parameter) * local
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(parameter)
            parameter -= state["velocity"].mul_(_MOMENTUM).add_(step, alpha=rate)

    return Lars
