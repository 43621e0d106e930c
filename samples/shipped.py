"""The samples that ship."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The path of a shipped file."""
    return Path(__file__).parent / "shipped" / name
