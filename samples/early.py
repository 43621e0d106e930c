"""Hopeless events given up in the middle of their shower: most of the cost of a TeV dijet comes after its jets are known."""

from __future__ import annotations

from typing import Any

from .card import EarlyCut

RADIUS = 1.0
#: Partons beyond this |eta| make no jet.
MAX_ETA = 5.0


def early_veto(cut: EarlyCut, dry: bool = False) -> Any:
    """A Pythia user hook that drops events by the jets their partons make when the shower has come down to ``cut.scale``.

    The hook's ``started`` counts the hard processes tried. ``dry``: it drops none and notes in ``dropped`` (a list) which
    it would have. Keep a reference to it as long as its Pythia lives.
    """
    import pythia8mc

    class Veto(pythia8mc.UserHooks):
        """Anti-kT jets (0802.1189) of the partons; an event below the cut is dropped and the next one begun."""

        def __init__(self) -> None:
            super().__init__()
            # Own clustering of Pythia, which prints no banner: -1 is anti-kT, 1 all final partons with masses as they are.
            self.jets = pythia8mc.SlowJet(-1, RADIUS, 200.0, MAX_ETA, 1, 2, None, False)
            self.started = 0
            self.dropped: list[bool] = []

        def canVetoPT(self) -> bool:
            """Asked once: yes."""
            return True

        def scaleVetoPT(self) -> float:
            """The scale in GeV."""
            return cut.scale

        def doVetoPT(self, _: int, event: Any) -> bool:
            """Whether to give the event up."""
            self.started += 1
            hopeless = self._hopeless(event)
            if dry:
                self.dropped.append(hopeless)
            return hopeless and not dry

        def _hopeless(self, event: Any) -> bool:
            jets = self.jets
            if not jets.analyze(event) or jets.sizeJet() < 2 or jets.pT(0) < cut.min_pt:
                return True
            if cut.mass is None:
                return False
            mass = (jets.p(0) + jets.p(1)).mCalc()
            return not cut.mass[0] <= mass < cut.mass[1]

    return Veto()
