"""Compiled splines and the inverse of autoregressive flows against zuko's, and against finite differences."""

import math
from typing import Any

import pytest
import torch
import zuko
from elsewhere.models.networks.flow_modules import build_flow, inverted
from elsewhere.models.networks.flows import FlowSettings
from elsewhere.models.networks.spline import spline, spline_inverses, spline_values

BOUND = 3.0
#: 37 rows of 3: no whole number of blocks.
SHAPE = (37, 3)


def toy(bins: int, dtype: Any = torch.float64) -> tuple[Any, Any, Any]:
    """Raw entries, places of which a tenth lies beyond the bounds, weights of a loss."""
    draw = torch.Generator().manual_seed(bins)
    raw = 3 * torch.randn(*SHAPE, 3 * bins - 1, generator=draw, dtype=torch.float64)
    x = 2 * torch.randn(*SHAPE, generator=draw, dtype=torch.float64)
    assert 0.05 < (x.abs() > BOUND).double().mean() < 0.3
    weights = torch.randn(2, *SHAPE, generator=draw, dtype=torch.float64).to(dtype)
    return raw.to(dtype).requires_grad_(), x.to(dtype).requires_grad_(), weights


def zukos(raw: Any) -> Any:
    bins = (raw.shape[-1] + 1) // 3
    return zuko.transforms.MonotonicRQSTransform(*raw.split([bins, bins, bins - 1], -1), bound=BOUND)


def with_slopes(made: tuple[Any, ...], raw: Any, x: Any, weights: Any) -> tuple[Any, ...]:
    loss = sum((w * value).sum() for w, value in zip(weights, made, strict=False))
    return *made, *torch.autograd.grad(loss, [raw, x])


def close(found: tuple[Any, ...], wanted: tuple[Any, ...], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bins", [2, 4, 8, 11])
def test_values_and_slopes_are_zukos(bins):
    raw, x, weights = toy(bins)
    wanted = with_slopes(zukos(raw).call_and_ladj(x), raw, x, weights)
    close(with_slopes(spline(raw, BOUND).call_and_ladj(x), raw, x, weights), wanted, 1e-9)
    close(with_slopes(spline_values(raw, x, BOUND), raw, x, weights), wanted, 1e-9)


@pytest.mark.parametrize("bins", [2, 4, 8, 11])
def test_inverse_and_its_slopes_are_zukos(bins):
    raw, y, weights = toy(bins)
    wanted = with_slopes((zukos(raw).inv(y),), raw, y, weights)
    close(with_slopes((spline(raw, BOUND).inv(y),), raw, y, weights), wanted, 1e-7)
    close(with_slopes((spline_inverses(raw, y, BOUND),), raw, y, weights), wanted, 1e-7)
    torch.testing.assert_close(spline(raw, BOUND)(spline(raw, BOUND).inv(y)), y, rtol=0, atol=1e-10)


def test_slopes_are_those_of_finite_differences():
    raw, x, _ = toy(4)
    raw, x = (t.detach()[:4, :1].clone().requires_grad_() for t in (raw, x))
    assert torch.autograd.gradcheck(lambda r, v: spline(r, BOUND).call_and_ladj(v), (raw, x))
    assert torch.autograd.gradcheck(lambda r, v: spline(r, BOUND).inv(v), (raw, x))


def test_single_precision_is_as_good_as_zukos():
    exact, found = (toy(8, dtype) for dtype in (torch.float64, torch.float32))
    truth = zukos(exact[0]).call_and_ladj(exact[1])
    for mine, other, true in zip(
        spline(found[0], BOUND).call_and_ladj(found[1]),
        zukos(found[0]).call_and_ladj(found[1]),
        truth,
        strict=True,
    ):
        assert mine.dtype == torch.float32
        assert (mine - true).abs().max() < 3 * (other - true).abs().max() + 1e-6


def test_a_value_does_not_depend_on_its_company():
    raw, x = (t.detach() for t in toy(8, torch.float32)[:2])
    whole = spline(raw, BOUND).call_and_ladj(x)
    alone = spline(raw[36:, 2:], BOUND).call_and_ladj(x[36:, 2:])
    assert [w[36, 2].item() for w in whole] == [a[0, 0].item() for a in alone]


def test_beyond_the_bounds_it_is_the_identity_and_what_is_no_number_stays_none():
    raw = torch.ones(4, 11)
    y, change = spline(raw, BOUND).call_and_ladj(torch.tensor([-BOUND, 3.5, math.nan, math.inf]))
    assert y[[0, 1, 3]].tolist() == [-BOUND, 3.5, math.inf]
    assert math.isnan(y[2])
    assert change.tolist() == [0, 0, 0, 0]
    assert math.isnan(spline(torch.full((1, 11), math.nan), BOUND)(torch.zeros(1))[0])


def test_precisions_and_shapes_meet_and_half_precision_is_computed_in_single():
    raw, x = (t.detach() for t in toy(4)[:2])
    one = spline(raw[0, 0].bfloat16(), BOUND).call_and_ladj(x[:, 0].float())
    assert one[0].dtype == torch.float32
    close(one, spline(raw[0, 0].bfloat16().float().expand(37, -1), BOUND).call_and_ladj(x[:, 0].float()), 0)


@pytest.mark.parametrize("of", [lambda s, x: s(x), lambda s, x: s.inv(x)])
def test_it_cannot_be_differentiated_twice(of):
    raw, x, _ = toy(4)
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(of(spline(raw, BOUND), x).sum(), x, create_graph=True)


@pytest.mark.parametrize("kind", ["maf", "nsf"])
@pytest.mark.parametrize(("features", "context"), [(1, 1), (1, 0), (5, 2), (4, 0)])
def test_inverse_of_a_flow_is_zukos(kind, features, context):
    flow = build_flow(FlowSettings(kind, 3, (16,)).network(features, context, 1)).double().flow
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    z = torch.randn(20, features, generator=draw, dtype=torch.float64)
    c = torch.randn(20, context, generator=draw, dtype=torch.float64) if context else None
    v = inverted(flow, z, c)
    assert (v - z).abs().max() > 0.1
    torch.testing.assert_close(v, flow.transform(c).inv(z), rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.transform(c)(v), z, rtol=0, atol=1e-9)
