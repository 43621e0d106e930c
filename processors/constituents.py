"""The constituents of the leading large-radius jet as features: what networks of jets read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError
from ..events import Column, FeatureSet
from .features import Computed, flat_parts
from .kernels import hardest

#: Constituents of a jet that are kept, hardest first.
MOST = 50

_PARTS = (
    ("pt", "GeV", "pT of constituent {} by pT", 0.0, None),
    ("eta", "", "eta of constituent {} minus that of the jet", None, None),
    ("phi", "rad", "phi of constituent {} minus that of the jet", -math.pi, math.pi),
)
CONSTITUENTS = FeatureSet(
    "constituents",
    tuple(
        Column(f"Cand{i}_{part}", unit, meaning.format(i), low, high)
        for i in range(MOST)
        for part, unit, meaning, low, high in _PARTS
    ),
    Column("m_J", "GeV", "mass of the leading jet", 0.0),
    (
        Column("pt_J", "GeV", "pT of the leading jet"),
        Column("eta_J", "", "eta of the leading jet"),
        Column("n_J", "", "constituents of the leading jet with pT above 0, all that the file links to it"),
        Column("tau21_J", "", "tau2 / (tau1 + 1e-5) of the leading jet"),
        Column("tau32_J", "", "tau3 / (tau2 + 1e-5) of the leading jet"),
    ),
)


@nb.njit(cache=True, nogil=True)
def leading_jets(offsets: NDArray[np.int64], pt: NDArray[Any], out: NDArray[np.int64]) -> None:
    """Place in its event of the jet of highest pT into ``out`` (n,), -1 where there is none."""
    for i in range(len(offsets) - 1):
        best = -1
        for k in range(offsets[i], offsets[i + 1]):
            if best < 0 or pt[k] > pt[offsets[i] + best]:
                best = k - offsets[i]
        out[i] = best


@nb.njit(cache=True, nogil=True)
def outside(offsets: NDArray[np.int64], places: NDArray[Any], of: NDArray[np.int64], lowest: int) -> int:
    """The first event with a place below ``lowest`` or beyond the objects of its event (offsets ``of``), -1 if none has."""
    for i in range(len(offsets) - 1):
        for k in range(offsets[i], offsets[i + 1]):
            if places[k] < lowest or places[k] >= of[i + 1] - of[i]:
                return i
    return -1


@nb.njit(cache=True, nogil=True)
def constituent_kernel(
    lead: NDArray[np.int64], eta_j: NDArray[Any], phi_j: NDArray[Any],
    link: NDArray[np.int64], jet: NDArray[Any], place: NDArray[Any],
    offsets: NDArray[np.int64], pt: NDArray[Any], eta: NDArray[Any], phi: NDArray[Any],
    out: NDArray[np.float32], count: NDArray[np.int32],
) -> None:  # fmt: skip
    """Constituents of the jet ``lead`` (n,) of every event into ``out`` (n, 3 * most), their number into ``count`` (n,).

    ``eta_j``, ``phi_j`` (n,): the jet's axis. Links (offsets ``link``) name a jet and a candidate by their places in the event.
    """
    most = out.shape[1] // 3
    taken = np.empty(most, np.int64)
    use = np.zeros(len(pt), np.bool_)
    for i in range(len(lead)):
        count[i] = 0
        for k in range(link[i], link[i + 1]):
            at = offsets[i] + np.int64(place[k])
            if lead[i] >= 0 and jet[k] == lead[i] and pt[at] > 0 and not use[at]:
                use[at] = True
                count[i] += 1
        n = hardest(pt, use, offsets[i], offsets[i + 1], taken)
        for j in range(n):
            k = taken[j]
            out[i, 3 * j] = pt[k]
            out[i, 3 * j + 1] = np.float64(eta[k]) - np.float64(eta_j[i])
            turn = np.float64(phi[k]) - np.float64(phi_j[i])
            turn -= 2.0 * math.pi * math.floor((turn + math.pi) / (2.0 * math.pi))
            # The file's own precision must not put an angle at pi, which is -pi.
            out[i, 3 * j + 2] = turn if np.float32(turn) < np.float32(math.pi) else -math.pi
        out[i, 3 * n :] = 0.0


def _check(
    name: str, links: NDArray[np.int64], places: NDArray[Any], what: str, of: NDArray[np.int64], lowest: int
) -> None:
    lost = outside(links, places, of, lowest)
    if lost < 0:
        return
    event, there = places[links[lost] : links[lost + 1]].astype(np.int64), of[lost + 1] - of[lost]
    wrong = event[(event < lowest) | (event >= there)][0]
    raise FeatureError(
        f"{name}: found {wrong} in an event with {there} {what}; expected {lowest} to {there - 1}. "
        f"If {what} were thinned out after the links were made, make the links again"
    )


@dataclass(frozen=True)
class Constituents:
    """The 50 hardest constituents of the leading jet (PFNano's FatJet, PFCands, FatJetPFCands), relative to its axis.

    Columns ``Cand0_pt`` [GeV], ``Cand0_eta``, ``Cand0_phi`` and so on by falling pT, all three 0 where there is none; the mass is
    the jet's. Links may be in any order; those with jetIdx -1 belong to no jet. A constituent without pT is none.
    """

    features: FeatureSet = CONSTITUENTS
    optional: tuple[str, ...] = ()

    @property
    def branches(self) -> tuple[str, ...]:
        """Jets with N-subjettiness, candidates, and which belong to which."""
        jets = tuple(f"FatJet_{n}" for n in ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3"))
        candidates = tuple(f"PFCands_{n}" for n in ("pt", "eta", "phi"))
        return (*jets, *candidates, "FatJetPFCands_jetIdx", "FatJetPFCands_pFCandsIdx")

    def compute(self, columns: Mapping[str, Any]) -> Computed:
        """The 150 numbers, m_J and the carried ones; cut: one jet.

        Raises `FeatureError` where a link names a jet or a candidate that its event has not.
        """
        jets, (pt, eta, phi, mass, *taus) = flat_parts(
            columns, "FatJet", ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3")
        )
        offsets, (cand_pt, cand_eta, cand_phi) = flat_parts(columns, "PFCands", ("pt", "eta", "phi"))
        links, (jet, place) = flat_parts(columns, "FatJetPFCands", ("jetIdx", "pFCandsIdx"))
        _check("FatJetPFCands_jetIdx", links, jet, "FatJet", jets, -1)
        _check("FatJetPFCands_pFCandsIdx", links, place, "PFCands", offsets, 0)
        n = len(jets) - 1
        lead = np.empty(n, np.int64)
        leading_jets(jets, pt, lead)
        one = lead >= 0
        at = np.where(one, jets[:-1] + lead, 0) if len(pt) else np.zeros(n, np.int64)

        def of_jet(values: NDArray[Any]) -> NDArray[np.float64]:
            return values[at].astype(np.float64) if len(values) else np.zeros(n)

        x, count = np.empty((n, 3 * MOST), np.float32), np.empty(n, np.int32)
        axis = of_jet(eta), of_jet(phi)
        constituent_kernel(
            lead, axis[0], axis[1], links, jet, place, offsets, cand_pt, cand_eta, cand_phi, x, count
        )
        tau1, tau2, tau3 = (of_jet(v) for v in taus)
        carried = (of_jet(pt), of_jet(eta), count, tau2 / (tau1 + 1e-5), tau3 / (tau2 + 1e-5))
        extras = {
            c.name: (v if v.dtype == np.int32 else v.astype(np.float32))[one]
            for c, v in zip(self.features.extras, carried, strict=True)
        }
        return Computed(x[one], of_jet(mass)[one], {"one jet": one}, extras)
