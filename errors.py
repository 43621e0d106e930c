"""The errors a user can meet, one small tree:

ElsewhereError
├── ConfigError    search.yaml or a command line asks for something that does not exist or cannot be
├── InputError     a file, tree, branch or column is missing, damaged, duplicated or of the wrong type
├── FeatureError   a model, table or firmware folder was made for other columns
├── LeakError      an event was about to be scored by a model that was trained on it
├── IncompleteError  events were lost, or counted twice
└── FitError       a fit did not converge, or was asked of a spectrum it cannot describe
"""


class ElsewhereError(Exception):
    """Base of every error raised on purpose; its text says what was found, expected, and what to do."""


class ConfigError(ElsewhereError, ValueError):
    """The configuration asks for something that does not exist or contradicts itself."""


class InputError(ElsewhereError, ValueError):
    """An input file, tree, branch or column cannot be used as it is."""


class FeatureError(ElsewhereError, ValueError):
    """Two feature sets that must agree differ."""


class LeakError(ElsewhereError, RuntimeError):
    """An event was about to be scored by a model that was trained on it."""


class IncompleteError(ElsewhereError, RuntimeError):
    """Not every event was counted exactly once."""


class FitError(ElsewhereError, RuntimeError):
    """A fit failed; no number that rests on it may be quoted."""
