"""Which data a classifier may learn from beside the sample of a reference."""

from __future__ import annotations

from typing import Any

from ...events import Events
from ..base import Bounded
from ..networks.domain import strictly_inside


def comparable(data: Events, reference: Any) -> Events:
    """The events of ``data`` that a fitted ``reference`` could have made; all of them, where it has no bounds (`Bounded`).

    The densities behind generated backgrounds live on open intervals between the extremes of what they learnt from (the masks of
    2109.00546). Values that data take exactly, above all 0 of a difference or a ratio, lie on their ends, where no event is ever drawn:
    a classifier that learns from such events finds them alone, and puts them above every signal. Four events in 10,000 so took a fifth to two
    fifths from CATHODE's largest significance improvement. They are left out of the training only: they are scored like any other event.
    """
    if not isinstance(reference, Bounded):
        return data
    return data.take(strictly_inside(data.x, *reference.bounds()))
