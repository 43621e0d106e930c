"""The stored state of a method inside another: names get a prefix, so that neither can hide what the other keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .base import Storable

#: What `Storable.state` gives: JSON-ready dictionary, arrays by name, texts by name.
Stateful = tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]


def state_under(name: str, method: Any) -> Stateful:
    """The state of ``method`` with ``name.`` before every array's and text's name."""
    if not isinstance(method, Storable):
        raise InputError(f"{type(method).__name__} has no state() and restore(): it cannot be stored")
    info, arrays, texts = method.state()
    return (
        info,
        {f"{name}.{k}": np.asarray(v) for k, v in arrays.items()},
        {f"{name}.{k}": v for k, v in texts.items()},
    )


def restore_under(
    name: str, method: Any, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]
) -> Any:
    """``method`` with the state that `state_under` gave under ``name``."""
    prefix = f"{name}."
    mine = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    words = {k.removeprefix(prefix): v for k, v in texts.items() if k.startswith(prefix)}
    return method.restore(info, mine, words)
