"""AttentiveMix: the cells with the highest teacher activation are pasted onto the partner."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.attentivemix import attentivemix

SMALL = {"teacher": "test_resnet", "teacher_pretrained": False, "teacher_size": 112}


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


# The authors have not published code. Westlake-AI/openmixup, augments/attentivemix.py at 37e1372, attentivemix(images,
# features=pattern((3, 2, 4, 4), 0.9), return_mask=True), with partners [1, 2, 0], with top_k 3, and with top_k None
# and lam 0.3: the 16 cells kept of each of three images.
CELLS = {
    3: ["#......#......#.", "...#.....##.....", ".....##.....#..."],
    None: ["#......#.....##.", "..##.....##.....", ".....##.....##.."],
}


@pytest.mark.parametrize("top_k", CELLS)
def test_the_cells_kept_match_openmixup(top_k, monkeypatch):
    x, features, partner = pattern((3, 2, 8, 8), 1.7), pattern((3, 2, 4, 4), 0.9), torch.tensor([1, 2, 0])
    method = load("attentivemix", top_k=top_k)
    monkeypatch.setattr(method, "draw", lambda *_: (torch.full((3,), 0.3), partner))
    monkeypatch.setattr(method, "activation", lambda net, x: features.mean(1))
    mixed, mix = method.mix(None, x, torch.eye(3), torch.Generator())
    kept = torch.tensor([[cell == "#" for cell in row] for row in CELLS[top_k]])
    mask = kept.view(3, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(mix.mask, mask.float()) and torch.equal(mixed, torch.where(mask, x, x[partner]))
    assert mix.lam.tolist() == [0.1875 if top_k else 0.25] * 3


def test_six_of_49_cells_are_an_eighth(images, rng):
    activity = torch.rand(3, 7, 7, generator=rng)
    x, partner = images(3, (28, 28)), torch.tensor([1, 2, 0])
    mixed, mix = attentivemix(x, activity, torch.tensor([6]), partner)
    torch.testing.assert_close(mix.lam, torch.full((3,), 0.12245), atol=1e-5, rtol=0)
    kept = mix.mask[:, 0, ::4, ::4].flatten(1)
    for i in range(3):
        assert sorted(kept[i].nonzero().flatten().tolist()) == sorted(activity[i].flatten().topk(6).indices.tolist())
    assert torch.equal(mixed, torch.where(mix.mask == 1, x, x[partner]))


def test_each_row_may_have_its_own_number_of_cells(images, rng):
    _, mix = attentivemix(images(3), torch.rand(3, 4, 4, generator=rng), torch.tensor([1, 8, 16]), torch.arange(3))
    assert mix.lam.tolist() == [1 / 16, 0.5, 1.0]


def test_cells_of_different_sizes_are_weighted_by_their_pixels(images, rng):
    _, mix = attentivemix(images(6, (32, 32)), torch.rand(6, 7, 7, generator=rng), torch.tensor([6]), torch.arange(6))
    assert torch.equal(mix.lam, mix.mask.mean((1, 2, 3))) and len(mix.lam.unique()) > 1


def built(make_net, **changes):
    net = make_net("vit")
    method = load("attentivemix", **changes)
    method.build(net)
    return method.train(), net


def test_a_drawn_share_is_rounded_down_to_cells_but_at_least_one(make_net, images, one_hot, seeded):
    method, net = built(make_net, **SMALL, top_k=None, per_image=True)
    for seed in range(5):
        _, mix = method.mix(net, images(), one_hot(), seeded(seed))
        lam, _ = method.draw(images(), method.alpha, seeded(seed))
        torch.testing.assert_close(mix.lam, (16 * lam).floor().clamp(min=1) / 16)


def test_the_teacher_is_frozen_and_in_eval_mode(make_net, images, one_hot, rng):
    method, net = built(make_net, **SMALL)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(net, images(), one_hot(), rng)["mix"].backward()
    assert not any(module.training for module in method.eye.modules()) and method.training
    assert before and all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in method.parameters())


def test_without_a_teacher_the_initial_network_is_used(make_net, images, one_hot, rng):
    method, net = built(make_net, teacher=None)
    x, before = images(), method.activation(net, images())
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.zero_()
    assert torch.equal(method.activation(net, x), before) and before.shape == (6, 4, 4)
    assert method.mix(net, x, one_hot(), rng)[1].lam.tolist() == [6 / 16] * 6


def test_build_does_not_change_the_global_random_state(make_net):
    net, method = make_net("vit"), load("attentivemix", **SMALL)
    before = torch.get_rng_state()
    method.build(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_teacher_is_rejected(make_net):
    with pytest.raises(ValueError, match="resnet_of_mine"):
        load("attentivemix", teacher="resnet_of_mine").build(make_net())


@pytest.mark.parametrize("changes", [{"top_k": 0}, {"teacher_size": 0}])
def test_invalid_numbers_are_rejected(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        load("attentivemix", **changes)


def test_a_teacher_that_could_not_be_loaded_raises_an_error_with_a_solution(make_net):
    with pytest.raises(ValueError, match="teacher 'resnet18'.*teacher: null"):
        load("attentivemix", teacher="resnet18").build(make_net("cnn", (16, 16), 5))
