"""Jets of energy-flow candidates by FastJet: anti-kT, N-subjettiness and soft drop (fjcontrib inside the wheel)."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from ..errors import ElsewhereError, InputError


def _fastjet() -> Any:
    try:
        with redirect_stdout(io.StringIO()):
            import fastjet
    except ImportError:
        raise ElsewhereError("jets need FastJet: pip install 'elsewhere[sim]'") from None
    return fastjet


@dataclass(frozen=True)
class Jets:
    """Jagged jets by falling pT: fields pt, eta, phi, mass (awkward, GeV and radians), and their constituents.

    ``inputs``, if asked for: the number of each constituent among its event's candidates.
    """

    p4: ak.Array
    constituents: ak.Array
    inputs: ak.Array | None = None


def _four_vectors(offsets: NDArray[np.int64], candidates: NDArray[np.float64]) -> ak.Array:
    pt, eta, phi = candidates.T
    parts = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta), "E": pt * np.cosh(eta)}
    counts = np.diff(offsets)
    return ak.zip({k: ak.unflatten(v, counts) for k, v in parts.items()}, with_name="Momentum4D")


def kinematics(p4: ak.Array) -> ak.Array:
    """px, py, pz, E to pt, eta, phi, mass; a mass squared below zero by rounding is zero."""
    pt = np.hypot(p4.px, p4.py)
    square = p4.E**2 - p4.px**2 - p4.py**2 - p4.pz**2
    mass = np.sqrt(ak.where(square > 0, square, 0.0))
    return ak.zip({"pt": pt, "eta": np.arcsinh(p4.pz / pt), "phi": np.arctan2(p4.py, p4.px), "mass": mass})


def cluster(
    offsets: NDArray[np.int64],
    candidates: NDArray[np.float64],
    radius: float,
    min_pt: float,
    most: int,
    numbered: bool = False,
) -> Jets:
    """Anti-kT jets (0802.1189) above ``min_pt`` GeV, the ``most`` hardest of each event; with ``inputs`` if ``numbered``."""
    fastjet = _fastjet()
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, radius)
    sequence = fastjet.ClusterSequence(_four_vectors(offsets, candidates), definition)
    found, inside = sequence.inclusive_jets(min_pt=min_pt), sequence.constituents(min_pt=min_pt)
    p4 = kinematics(found)
    order = ak.argsort(p4.pt, ascending=False)
    inside = ak.copy(ak.to_packed(inside[order][:, :most]))
    inputs = None
    if numbered:
        inputs = ak.copy(ak.to_packed(sequence.constituent_index(min_pt=min_pt)[order][:, :most]))
    return Jets(p4[order][:, :most], inside, inputs)


@dataclass(frozen=True)
class Substructure:
    """Per jet: tau (n_jets, 4), soft-drop mass (n_jets,) in GeV."""

    tau: NDArray[np.float64]
    softdrop_mass: NDArray[np.float64]


def substructure(constituents: ak.Array, radius: float) -> Substructure:
    """N-subjettiness (1011.2268; beta 1, one-pass kT axes, normalised) and soft drop (1402.2657; beta 0, z 0.1).

    ``constituents``: one list of candidates per jet, each jet on its own, which is how the features are defined.
    """
    fastjet = _fastjet()
    constituents = ak.to_packed(constituents)
    if len(constituents) == 0:
        return Substructure(np.zeros((0, 4)), np.zeros(0))
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 10.0)
    sequence = fastjet.ClusterSequence(constituents, definition)
    # np.array copies at once: what njettiness returns does not outlive the sequence.
    tau = np.array(ak.to_numpy(sequence.njettiness(njets=[1, 2, 3, 4], beta=1.0, R0=radius))).reshape(-1, 4)
    groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=0.1, R0=radius)
    mass = np.nan_to_num(np.array(ak.to_numpy(ak.flatten(groomed.msoftdrop, axis=None))))
    return Substructure(tau, np.maximum(mass, 0.0))


#: N-subjettiness of each level beyond the standard: (suffix of the name, beta, numbers of axes).
SHAPES: dict[str, tuple[tuple[str, float, tuple[int, ...]], ...]] = {
    "extended": (("", 1.0, (1, 2, 3, 4, 5)), ("_b2", 2.0, (1,))),
    "full": tuple((s, b, tuple(range(1, 10))) for s, b in (("", 1.0), ("_b05", 0.5), ("_b2", 2.0))),
}


def shapes(constituents: ak.Array, radius: float, level: str) -> dict[str, NDArray[np.float64]]:
    """N-subjettiness of jets, name -> (n_jets,): tauN at beta 1, tauN_b05 at 0.5, tauN_b2 at 2 (1011.2268).

    "extended": tau1 to tau5 and tau1_b2; "full": tau1 to tau9 at every beta, which costs five times as much. Axes and
    measure as in `substructure`. A jet with fewer constituents than axes has 0.
    """
    if level not in SHAPES:
        raise InputError(f"level '{level}' of substructure: expected {' or '.join(SHAPES)}")
    fastjet = _fastjet()
    packed = ak.to_packed(constituents)
    names = [f"tau{n}{suffix}" for suffix, _, axes in SHAPES[level] for n in axes]
    if len(packed) == 0:
        return {name: np.zeros(0) for name in names}
    sequence = fastjet.ClusterSequence(packed, fastjet.JetDefinition(fastjet.cambridge_algorithm, 10.0))
    found = [
        np.array(ak.to_numpy(sequence.njettiness(njets=list(axes), beta=beta, R0=radius))).reshape(
            -1, len(axes)
        )
        for _, beta, axes in SHAPES[level]
    ]
    return dict(zip(names, np.concatenate(found, axis=1).T, strict=True))


def tracks_inside(jets: Jets, tracks: NDArray[np.int64]) -> NDArray[np.int32]:
    """Charged constituents of every jet, flat (n_jets,). ``tracks`` (n,): the first so many candidates of an event are tracks."""
    if jets.inputs is None:
        raise InputError("the jets were clustered without numbered constituents; give cluster(numbered=True)")
    inside: Any = jets.inputs < tracks
    return ak.to_numpy(ak.flatten(ak.sum(inside, axis=2))).astype(np.int32)
