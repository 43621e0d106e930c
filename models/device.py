"""Where networks are trained: on the processor, or on a GPU for as long as `on` says so.

A GPU adds in another order than a processor, so the same seed gives the same network on one kind of machine only, and
agrees to rounding between kinds. Nothing uses a GPU unless it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from ..errors import ConfigError

Device = Literal["cpu", "cuda"]
_CHOSEN: ContextVar[Device] = ContextVar("device", default="cpu")


def chosen() -> Device:
    """The device of the trainings that begin now."""
    return _CHOSEN.get()


@contextmanager
def on(device: Device) -> Iterator[None]:
    """Train on ``device`` inside the ``with``; a `ConfigError` for "cuda" where torch sees no GPU."""
    import torch

    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device: found '{device}', expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, and torch sees no GPU here; use cpu")
    token = _CHOSEN.set(device)
    try:
        yield
    finally:
        _CHOSEN.reset(token)
