"""elsewhere: model-agnostic searches for new physics, from NanoAOD to a statement and to trigger firmware."""

__version__ = "0.1.0"
