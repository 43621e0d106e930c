"""Unclustered energy: both spellings of NanoAOD, linear in nu."""

import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.processors.nuisances.base import Kinematic
from elsewhere.processors.nuisances.met import UnclusteredMET

from .conftest import identities

PT, PHI = np.array([30.0, 40.0, 5.0], np.float32), np.array([0.0, np.pi / 2, -3.0], np.float32)
X, Y = np.array([3.0, 0.0, -1.0], np.float32), np.array([4.0, -8.0, 0.5], np.float32)


def xy(columns, met):
    pt, phi = columns[f"{met}_pt"].astype(float), columns[f"{met}_phi"].astype(float)
    return np.array([pt * np.cos(phi), pt * np.sin(phi)])


def old() -> dict:
    return {"MET_pt": PT, "MET_phi": PHI, "MET_MetUnclustEnUpDeltaX": X, "MET_MetUnclustEnUpDeltaY": Y}


def new() -> dict:
    x, y = xy(old(), "MET") + np.array([X, Y])
    up = {"PuppiMET_ptUnclusteredUp": np.hypot(x, y), "PuppiMET_phiUnclusteredUp": np.arctan2(y, x)}
    return {"PuppiMET_pt": PT, "PuppiMET_phi": PHI, **up}


@pytest.mark.parametrize("nu", [1.0, -1.0, 0.25])
@pytest.mark.parametrize(("met", "make"), [("MET", old), ("PuppiMET", new)])
def test_the_vector_moves_by_nu_times_the_stored_change(met, make, nu):
    columns = make()
    nuisance = UnclusteredMET("unclustered", met)
    moved = nuisance.shift(columns, nu, identities(3))
    assert set(moved) == set(nuisance.touches) == {f"{met}_pt", f"{met}_phi"}
    np.testing.assert_allclose(xy(moved, met), xy(columns, met) + nu * np.array([X, Y]), atol=1e-5)
    assert moved[f"{met}_pt"].dtype == moved[f"{met}_phi"].dtype == np.float32


@pytest.mark.parametrize(("met", "make"), [("MET", old), ("PuppiMET", new)])
def test_at_zero_every_bit_stays(met, make):
    columns = make()
    moved = UnclusteredMET("unclustered", met).shift(columns, 0.0, identities(3))
    for branch, values in moved.items():
        assert values.tobytes() == columns[branch].tobytes()


def test_an_angle_of_pi_is_minus_pi():
    columns = {**old(), "MET_phi": np.zeros(3, np.float32), "MET_MetUnclustEnUpDeltaX": np.full(3, -50.0), "MET_MetUnclustEnUpDeltaY": np.zeros(3)}  # fmt: skip
    phi = UnclusteredMET("unclustered", "MET").shift(columns, 1.0, identities(3))["MET_phi"]
    np.testing.assert_array_equal(phi, np.float32(-np.pi))


def test_a_file_with_neither_spelling_is_refused():
    nuisance = UnclusteredMET("unclustered", "MET")
    assert isinstance(nuisance, Kinematic)
    assert nuisance.branches == ("MET_pt", "MET_phi")
    with pytest.raises(InputError, match=r"MET_MetUnclustEnUpDeltaX.*MET_ptUnclusteredUp.*has neither"):
        nuisance.shift({"MET_pt": PT, "MET_phi": PHI}, 1.0, identities(3))
