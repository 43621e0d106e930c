"""Jet images: what turns, mirrors or shifts a jet leaves its image, and what smearing and reweighting do to pixels."""

import numpy as np
import pytest
from elsewhere.models.networks.jet_images import image_table, jet_images, smearing
from scipy.ndimage import gaussian_filter

PIXELS, REACH = 40, 0.7


def jets(n, seed, prongs=3, size=20):
    """Constituents (n, size, 3) around prongs of different pT, by falling pT; the last ones are empty."""
    rng = np.random.default_rng(seed)
    axes, share = rng.uniform(-0.35, 0.35, (n, prongs, 2)), rng.dirichlet([2, 2, 2][:prongs], n)
    which = rng.integers(prongs, size=(n, size))
    pt = rng.exponential(20, (n, size)) * np.take_along_axis(share, which, 1)
    place = np.take_along_axis(axes, which[:, :, None], 1) + 0.03 * rng.normal(size=(n, size, 2))
    pt[:, -4:] = 0
    out = np.concatenate([pt[:, :, None], place * (pt > 0)[:, :, None]], axis=2)
    return np.take_along_axis(out, np.argsort(-pt, axis=1)[:, :, None], 1)


def images(table, sigma=2.0, power=1.0, pixels=PIXELS):
    return jet_images(table.reshape(len(table), -1), pixels, REACH, sigma, power).reshape(-1, pixels, pixels)


def changed(table, matrix=((1, 0), (0, 1)), phi=0.0):
    out = table.copy()
    there = out[:, :, 0] > 0
    out[there, 1:] = out[there, 1:] @ np.array(matrix)
    out[there, 2] = (out[there, 2] + phi + np.pi) % (2 * np.pi) - np.pi
    return out


ANGLE = 1.1
TURN = ((np.cos(ANGLE), np.sin(ANGLE)), (-np.sin(ANGLE), np.cos(ANGLE)))


@pytest.mark.parametrize(
    "change",
    [
        {"matrix": TURN},
        {"matrix": ((-1, 0), (0, 1))},
        {"matrix": ((1, 0), (0, -1))},
        {"matrix": ((-1, 0), (0, -1))},
        {"phi": 3.0},
    ],
)
def test_a_turned_mirrored_or_shifted_jet_has_the_same_image(change):
    table = jets(200, 1)
    before, after = images(table), images(changed(table, **change))
    distance = np.abs(before - after).sum(axis=(1, 2))
    # a constituent at a pixel's edge may fall on its other side
    assert np.quantile(distance, 0.97) < 1e-4
    assert distance.max() < 0.5
    other = np.abs(before - images(jets(200, 2))).sum(axis=(1, 2))
    assert np.median(other) > 0.5


def test_the_axis_is_vertical_and_most_pt_is_at_the_upper_right():
    table = jets(300, 3)
    table[:, :, 1:] *= 0.6  # all in reach, wherever the centroid is
    image = images(table, sigma=0.0).astype(float)
    centre = (np.arange(PIXELS) + 0.5) / PIXELS * 2 * REACH - REACH
    across, up = image.sum(axis=1), image.sum(axis=2)
    assert np.abs(across @ centre).max() < REACH / PIXELS + 0.02
    assert np.abs(up @ centre).max() < REACH / PIXELS + 0.02
    assert ((up @ centre**2) > (across @ centre**2) - 1e-3).all()
    mixed = np.einsum("nij,i,j->n", image, centre, centre)
    assert np.abs(mixed).max() < 4e-3  # the second moments have no part off the diagonal
    h = PIXELS // 2
    quadrants = np.stack([image[:, i : i + h, j : j + h].sum(axis=(1, 2)) for i in (0, h) for j in (0, h)], 1)
    assert (quadrants.argmax(axis=1) == 3).all()


def test_known_pixels():
    """Two constituents, 3 to 1: the heavier sits 0.1 above the centroid, the lighter 0.3 below."""
    table = np.array([[[3.0, 0.3, 0.1], [1.0, -0.1, 0.1]]])
    image = images(table, sigma=0.0)[0]
    step = 2 * REACH / PIXELS
    heavy, light = (int((REACH + at) / step) for at in (0.1, -0.3))
    lit = [tuple(p) for p in np.argwhere(image > 0)]
    assert sorted(p[0] for p in lit) == sorted([heavy, light])
    assert image[heavy].sum() == pytest.approx(0.75)
    assert image[light].sum() == pytest.approx(0.25)
    assert all(p[1] in (PIXELS // 2 - 1, PIXELS // 2) for p in lit)


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_against_a_slow_reference(power):
    """Frame by the eigenvectors of the covariance, pixels by numpy's histogram, smearing by scipy."""
    table = jets(50, 4)
    for jet, image in zip(table, images(table, power=power), strict=True):
        pt, at = jet[jet[:, 0] > 0, 0], jet[jet[:, 0] > 0, 1:]
        at = at - np.average(at, axis=0, weights=pt)
        _, axes = np.linalg.eigh((at * pt[:, None]).T @ at)
        at = at @ axes  # the larger moment last: vertical
        quadrant = np.array([pt[((at * sign) > 0).all(axis=1)].sum() for sign in _SIGNS])
        at = at * _SIGNS[int(quadrant.argmax())]
        edges = np.linspace(-REACH, REACH, PIXELS + 1)
        flat, _, _ = np.histogram2d(at[:, 1], at[:, 0], bins=(edges, edges), weights=pt)
        flat = np.where(flat > 0, flat / flat.sum(), 0) ** power * (flat > 0)
        expected = gaussian_filter(flat / flat.sum(), 2.0, truncate=4.0, mode="reflect")
        assert np.abs(image - expected).sum() < 1e-4


_SIGNS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])


def test_images_sum_to_one_and_empty_jets_stay_zero():
    table = jets(20, 5)
    table[3] = 0
    table[4, :, 1:] *= 1e3  # all out of reach
    found = images(table)
    total = found.sum(axis=(1, 2))
    assert np.isfinite(found).all()
    assert total[3] == 0
    assert total[4] == 0
    assert np.delete(total, (3, 4)) == pytest.approx(1, abs=1e-5)
    one = images(np.array([[[5.0, 0.1, -0.2]]]))[0]
    assert one.sum() == pytest.approx(1, abs=1e-5)


def test_smearing_has_the_width_asked_for():
    one = images(np.array([[[5.0, 0.1, -0.2]]]))[0].astype(float)
    place = np.arange(PIXELS)
    for axis in (0, 1):
        line = one.sum(axis=axis)
        mean = line @ place
        assert np.sqrt(line @ (place - mean) ** 2) == pytest.approx(2.0, rel=0.01)
    assert smearing(10, 2.0).sum(axis=0) == pytest.approx(1)
    assert np.array_equal(smearing(5, 0.0), np.eye(5))


def test_a_small_power_lifts_soft_pixels():
    table = np.array([[[9.0, 0.3, 0.0], [1.0, -0.3, 0.0]]])
    light = [np.sort(images(table, sigma=0.0, power=p)[0].ravel())[-2] for p in (1.0, 0.5)]
    assert light == pytest.approx([0.1, 0.25], rel=1e-5)


def test_an_image_knows_no_other_event_nor_the_order_of_columns():
    table = jets(40, 6).reshape(40, -1).astype(np.float32)
    whole = jet_images(table, PIXELS, REACH, 2.0, 1.0)
    assert np.array_equal(jet_images(table[7:8], PIXELS, REACH, 2.0, 1.0)[0], whole[7])
    columns = np.arange(60).reshape(20, 3)
    shuffled = np.random.default_rng(1).permutation(60)
    place = np.argsort(shuffled)
    found = image_table(table[:, shuffled], place[columns], pixels=PIXELS, reach=REACH, sigma=2.0, power=1.0)
    assert np.array_equal(found, whole)
