"""The variational autoencoder: its divergence in closed form, its four scores, and what can become firmware."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, InputError
from elsewhere.models.base import Exportable
from elsewhere.models.networks.variational import (
    build_variational,
    divergence,
    heads,
    variational_loss,
)
from elsewhere.models.scores.variational_autoencoder import VariationalAutoencoder
from scipy.stats import norm, spearmanr

from .conftest import make

SMALL = {"hidden": (12, 8), "latent": 3, "epochs": 15, "batch": 128, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def fitted():
    reference = make(2000, 1)
    return VariationalAutoencoder(**SMALL, beta=0.05).fit(reference, reference)


def test_the_divergence_is_the_integral_it_stands_for():
    mean, log_variance = torch.tensor([[0.7, -1.2]]), torch.tensor([[-0.4, 0.9]])
    z = np.linspace(-20, 20, 400_001)
    slow = 0.0
    for m, s in zip(mean[0].numpy(), np.exp(0.5 * log_variance[0].numpy()), strict=True):
        slow += np.trapezoid(norm(m, s).pdf(z) * (norm(m, s).logpdf(z) - norm(0, 1).logpdf(z)), z)
    assert float(divergence(mean, log_variance)) == pytest.approx(slow, rel=1e-5)
    torch_one = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert float(divergence(mean, log_variance)) == pytest.approx(float(torch_one.sum()), rel=1e-6)


def test_the_loss_is_the_error_of_a_drawn_code_and_beta_times_the_divergence():
    network = build_variational({"widths": [4, 6], "latent": 2, "beta": 0.3, "seed": 1})
    x = torch.from_numpy(make(50, 1).x)
    found = variational_loss(network, x, None, torch.Generator().manual_seed(5))
    mean, log_variance = heads(network, x)
    drawn = mean + log_variance.exp().sqrt() * torch.randn(50, 2, generator=torch.Generator().manual_seed(5))
    error = ((network.decoder(drawn) - x) ** 2).sum(dim=1) / 4
    assert torch.allclose(found, error + 0.3 * divergence(mean, log_variance), rtol=1e-5)


def test_the_kinds_are_four_numbers_of_one_network(fitted):
    events = make(500, 3, 0.5)
    scores = {k: replace(fitted, kind=k).score(events) for k in ("mse", "mu2", "kl", "elbo")}
    w = {k: v.astype(float) for k, v in fitted.weights_.items()}

    def layer(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = fitted.scale(events.x).astype(float)
    hidden = np.maximum(layer(np.maximum(layer(x, "encoder.0"), 0), "encoder.2"), 0)
    mean, log_variance = layer(hidden, "mean"), layer(hidden, "log_variance")
    back = np.maximum(layer(np.maximum(layer(mean, "decoder.0"), 0), "decoder.2"), 0)
    error = ((layer(back, "decoder.4") - x) ** 2).sum(axis=1)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1)
    slow = {"mse": error, "mu2": (mean**2).sum(axis=1), "kl": kl, "elbo": error / 4 + 0.05 * kl}
    for kind, expected in slow.items():
        assert np.allclose(scores[kind], expected, rtol=1e-4, atol=1e-5), kind
    assert spearmanr(scores["mse"], scores["mu2"]).statistic < 0.9  # they rank differently


@pytest.mark.parametrize("kind", ["mse", "mu2"])
def test_the_network_is_the_score_in_operations_firmware_has(fitted, kind):
    score, events = replace(fitted, kind=kind), make(300, 4)
    assert isinstance(score, Exportable)
    network = score.network()
    with torch.no_grad():
        out = network(torch.from_numpy(score.scale(events.x))).numpy()
    assert out.shape == (300,)
    assert np.allclose(score.score(events), out, rtol=1e-5, atol=1e-6)
    assert {type(m).__name__ for m in network.modules() if not list(m.children())} == {"Linear", "ReLU"}
    graph = torch.fx.symbolic_trace(network).graph
    calls = {n.target.__name__ for n in graph.nodes if n.op == "call_function"}
    assert calls == ({"sub", "einsum"} if kind == "mse" else {"einsum"})


@pytest.mark.parametrize("kind", ["kl", "elbo"])
def test_an_exponential_is_no_firmware(fitted, kind):
    with pytest.raises(ConfigError, match="has an exponential"):
        replace(fitted, kind=kind).network()


def test_beta_pulls_the_code_to_the_prior(fitted):
    reference, events = make(2000, 1), make(500, 5)
    strong = VariationalAutoencoder(**SMALL, beta=20.0, kind="kl").fit(reference, reference)
    assert strong.score(events).mean() < 0.05
    assert replace(fitted, kind="kl").score(events).mean() > 0.5


def test_what_it_cannot_rebuild_is_odd(fitted):
    ordinary, odd = make(1000, 6), make(1000, 7, 1.0)
    assert np.median(fitted.score(odd)) > np.quantile(fitted.score(ordinary), 0.95)
    assert fitted.record_.train_loss[-1] < 0.7 * fitted.record_.train_loss[0]


def test_errors():
    with pytest.raises(ConfigError, match="kind: found 'mae'"):
        VariationalAutoencoder(kind="mae")
    with pytest.raises(ConfigError, match=r"beta 0\.0"):
        VariationalAutoencoder(beta=0.0)
    with pytest.raises(InputError, match="not been fitted"):
        VariationalAutoencoder().score(make(5, 1))
