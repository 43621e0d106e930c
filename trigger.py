"""The trigger study: a score learnt from zero bias, its firmware in the stream, and the rate of both."""

from __future__ import annotations

from typing import Any

import numpy as np

from .models.methods import build
from .models.store import load, save
from .stages import Progress, Search
from .workspace import Table, write_json


def names_with(search: Search, role: str) -> list[str]:
    """The datasets of a role, in the order of search.yaml."""
    return [n for n, d in search.config.events.datasets.items() if d.role == role]
