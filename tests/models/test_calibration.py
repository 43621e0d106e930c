"""Temperature and expected calibration error on logits whose true probabilities are known."""

import numpy as np
import pytest
from elsewhere.models.calibration import (
    Calibration,
    best_temperature,
    calibration_error,
    negative_log_likelihood,
)
from scipy.special import log_softmax, softmax


def overlapping(n, seed):
    """Logits of three overlapping classes that are the posterior exactly, and the classes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    centres = 1.2 * np.array([[0, 0], [1, 0], [0, 1.0]])
    x = rng.normal(size=(n, 2)) + centres[label]
    return -0.5 * ((x[:, None] - centres) ** 2).sum(axis=2), label


def test_an_over_confident_classifier_is_calibrated():
    g, label = overlapping(40_000, 1)
    weight, first = np.random.default_rng(2).uniform(0.5, 1.5, len(g)), np.arange(len(g)) < 20_000
    found = Calibration.of(3 * g, label, weight, first)
    assert found.temperature == pytest.approx(3, rel=0.03)
    assert found.ece_before > 0.15
    assert found.ece_after < 2 * found.ece_floor < 0.02
    assert found.nll_after < found.nll_before - 0.1
    assert found.nll_after == pytest.approx(
        negative_log_likelihood(g[~first], label[~first], weight[~first]), abs=1e-3
    )
    assert found.events == 20_000
    unscaled = Calibration.of(3 * g, label, weight, first, scale=False)
    assert unscaled.temperature == 1
    assert unscaled.ece_after == unscaled.ece_before == found.ece_before
    slow = min(
        np.geomspace(2.5, 3.5, 100),
        key=lambda t: -(weight * log_softmax(3 * g / t, axis=1)[np.arange(len(g)), label]).sum(),
    )
    assert best_temperature(3 * g, label, weight) == pytest.approx(slow, rel=2e-3)


def test_the_calibration_error_is_its_definition_and_knows_its_floor():
    g, label = overlapping(3000, 3)
    weight = np.random.default_rng(4).uniform(0.5, 1.5, 3000)
    p = softmax(2 * g, axis=1)
    slow = 0.0
    for b in range(15):
        inside = (p.max(axis=1) >= b / 15) & (p.max(axis=1) < (b + 1) / 15)
        if inside.any():
            w = weight[inside]
            right = np.average(p.argmax(axis=1)[inside] == label[inside], weights=w)
            slow += w.sum() / weight.sum() * abs(right - np.average(p.max(axis=1)[inside], weights=w))
    assert calibration_error(2 * g, label, weight)[0] == pytest.approx(slow, rel=1e-9)
    rng, found = np.random.default_rng(5), []
    p = softmax(g, axis=1)
    for _ in range(300):  # labels that the probabilities are right about
        drawn = (rng.random((3000, 1)) > np.cumsum(p, axis=1)).sum(axis=1)
        found.append(calibration_error(g, drawn, weight))
    assert np.mean([f[0] for f in found]) == pytest.approx(found[0][1], rel=0.05)
