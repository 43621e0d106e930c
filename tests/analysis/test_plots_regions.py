import matplotlib as mpl
import numpy as np
import pytest
from elsewhere.analysis.plots_regions import (
    StudentScores,
    plot_region_maps,
    plot_student,
    region_maps,
)
from elsewhere.errors import InputError

RNG = np.random.default_rng(4)
X = RNG.integers(0, 20, (300, 252)).astype(np.float32)


def test_the_map_of_the_odd_is_theirs_by_weight():
    score, weight = RNG.normal(size=300), RNG.uniform(0, 2, 300)
    maps = region_maps(X, score, weight, threshold=1.5)
    odd = score > 1.5
    assert maps.passing == odd.sum() > 5
    np.testing.assert_allclose(maps.odd, np.average(X[odd], axis=0, weights=weight[odd]).reshape(18, 14) / 2)
    assert maps.usual[3, 5] == pytest.approx(np.average(X[:, 3 * 14 + 5], weights=weight) / 2)
    with pytest.raises(InputError, match="no crossing of 300 has a score above 9"):
        region_maps(X, score, weight, threshold=9.0)


def test_figures_show_the_numbers_and_leave_the_settings_alone():
    before = dict(mpl.rcParams)
    maps = region_maps(X, np.arange(300.0), np.ones(300), threshold=289.0)
    figure = plot_region_maps(maps, right="50 collisions")
    meshes = [ax.collections[0] for ax in figure.axes[:2]]
    np.testing.assert_allclose(np.asarray(meshes[1].get_array()).ravel(), maps.odd.ravel())
    assert [ax.get_title() for ax in figure.axes[:2]] == ["all 300 crossings", "10 with a score above 289"]
    teacher = RNG.uniform(50, 200, 300)
    figure = plot_student(
        {"zero bias": StudentScores(teacher, teacher + RNG.normal(size=300), 0.99)}, most=100
    )
    assert len(figure.axes[0].lines[0].get_xdata()) == 100
    assert "0.990" in figure.axes[0].get_legend().get_texts()[0].get_text()
    assert dict(mpl.rcParams) == before
