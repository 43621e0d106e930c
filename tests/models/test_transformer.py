"""The set encoder: empty slots and order change nothing, soft and collinear objects little, seeds are explicit."""

import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.models.networks.transformer import build_set_encoder

CONFIG = {"features": 3, "width": 16, "heads": 4, "layers": 2, "feedforward": 32, "out": 8, "seed": 3}


def sets(n=40, slots=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(n, slots, 3, generator=generator)
    table[:, :, 0] = table[:, :, 0].abs() * 20
    there = torch.arange(slots) < torch.randint(1, slots, (n, 1), generator=generator)
    return table * there[:, :, None], there


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_padding_order_and_company_do_not_matter(safe, training):
    network = build_set_encoder({**CONFIG, "safe": safe}).train(training)
    table, there = sets()
    wanted = network(table, there)
    junk = torch.where(there[:, :, None], table, 1e3 * torch.randn(table.shape))
    torch.testing.assert_close(network(junk, there), wanted, atol=1e-5, rtol=1e-5)
    order = torch.randperm(10)
    torch.testing.assert_close(network(table[:, order], there[:, order]), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(table[7:8], there[7:8]), wanted[7:8], atol=1e-5, rtol=1e-5)
    more = torch.nn.functional.pad(table, (0, 0, 0, 5)), torch.nn.functional.pad(there, (0, 5))
    torch.testing.assert_close(network(*more), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3


@pytest.mark.parametrize("safe", [False, True])
def test_a_set_without_objects_is_finite_with_its_gradient(safe):
    network = build_set_encoder({**CONFIG, "safe": safe})
    table, there = sets(4)
    there[2] = False
    out = network.represent(table, there)
    assert torch.equal(out[2], torch.zeros(16))
    network(table, there).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_safe_attention_does_not_see_an_object_without_pt():
    network = build_set_encoder({**CONFIG, "safe": True}).eval()
    table, there = sets()
    soft = there.clone()
    soft[:, 9] = True
    changed = table.clone()
    changed[:, 9] = torch.tensor([0.0, 5.0, -3.0])
    torch.testing.assert_close(network(changed, soft), network(table, there), rtol=1e-4, atol=1e-5)
    plain = build_set_encoder(CONFIG).eval()
    assert (plain(changed, soft) - plain(table, there)).abs().max() > 1e-2


def test_safe_attention_is_that_of_the_formula_in_training_and_evaluation():
    """0.5 ln pT on the logits, pT times the outputs (2108.04253), against torch's own layers, which take such a mask in training."""
    network = build_set_encoder({**CONFIG, "safe": True})
    table, there = sets()
    there[5] = False
    pt = torch.where(there, table[:, :, 0], 0.0)
    mask = (0.5 * torch.log(pt))[:, None, None, :].expand(-1, 4, 10, -1).flatten(0, 1)
    mask[20:24] = 0.0
    x = network.embed(torch.where(there[:, :, None], table, 0.0))
    for layer in network.layers:
        x = layer.train()(x, src_mask=mask)
    wanted = (x * pt[:, :, None]).sum(dim=1)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(network.represent(table, there), wanted, **close)
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            torch.testing.assert_close(network.eval().represent(table, there), wanted, **close)
    torch.testing.assert_close(
        network.represent(2 * table, there).norm(), 2 * wanted.norm(), rtol=0.5, atol=0
    )


def test_seeds_are_explicit_and_global_randomness_is_left_alone():
    before = torch.random.get_rng_state()
    one, same, other = (build_set_encoder({**CONFIG, "seed": s}) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(ConfigError, match="width: 16 is no multiple of heads 3"):
        build_set_encoder({**CONFIG, "heads": 3})


def test_it_learns_a_function_of_the_set():
    """The scalar sum of pT of a set, which no single object tells."""
    table, there = sets(400)
    table[:, :, 0] /= 20
    y = (table[:, :, 0] * there).sum(dim=1, keepdim=True)
    network = build_set_encoder({**CONFIG, "out": 8})
    last = torch.nn.Linear(8, 1)
    torch.nn.init.zeros_(last.weight)
    adam = torch.optim.Adam([*network.parameters(), *last.parameters()], lr=3e-3)
    for _ in range(150):
        adam.zero_grad()
        loss = (last(network(table, there)) - y).square().mean()
        loss.backward()
        adam.step()
    assert loss < 0.03 * y.var()
