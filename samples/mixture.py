"""The event set of the ADC2021 challenge (2107.02157): its mixture of processes, and four signals."""

from __future__ import annotations

from .card import load_card
from .parts import Part

#: Per thousand of the mixture, by card.
SHARES = {"adc_w": 592, "adc_qcd": 338, "adc_z": 67, "adc_tt": 3}
#: Events of the mixture.
EVENTS = 20_000
#: Signals by card, with their events.
SIGNALS = {"adc_a4l": 2000, "adc_lq": 2000, "adc_h0": 2000, "adc_hplus": 2000}


def mixture_sets() -> dict[str, tuple[Part, ...]]:
    """The set "adc", one part per process: background in the proportions of the challenge, then the signals."""
    counts = {card: EVENTS * share // 1000 for card, share in SHARES.items()} | SIGNALS
    return {"adc": tuple(Part.of(card, n, load_card(card).meaning) for card, n in counts.items())}
