"""elsewhere: model-agnostic searches for new physics, from NanoAOD to a statement and to trigger firmware."""

from pathlib import Path as _Path

from .kernel_cache import forget_stale as _forget_stale

__version__ = "0.1.0"

_forget_stale(_Path(__file__).parent)
