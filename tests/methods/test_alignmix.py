"""AlignMix: feature maps are aligned before they are mixed."""

import pytest
import timm
import torch
from torch import nn

from hf_mixup import Net, load
from hf_mixup.methods.alignmix import alignmix

KINDS = ("cnn", "vit")
OPTIONS = {"eps": 0.1, "rounds": 100, "threshold": 0.1}
HERE, THERE = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
PARTNER = torch.tensor([1, 2, 0])


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


GOLDEN = {  # the first two channels of three maps
    True: [0.338538, 0.052125, -0.439545, 0.358229, -0.275318, -0.009025, 0.464739, -0.394605]
    + [-0.103506, 0.377958, -0.420858, 0.032133, 0.171302, -0.388869, 0.466698, -0.029396]
    + [-0.230885, 0.758671, -0.1281, -0.108522, 0.282209, -0.703745, 0.034769, 0.157076],
    False: [0.005084, 0.37991, -0.444661, 0.329516, 0.049444, -0.426663, 0.458504, -0.255227]
    + [-0.398248, 0.449855, -0.162696, -0.051776, 0.442781, -0.447493, 0.122705, 0.155605]
    + [0.420575, -0.13749, -0.293089, 0.499262, -0.364199, 0.039458, 0.373602, -0.487987],
}


@pytest.mark.parametrize("align_partner", [True, False])
def test_the_result_matches_the_authors(align_partner):
    """shashankvkt/AlignMixup_CVPR22 at ec01a68, cifar10_100/models/resnet18_classifier.py: mixup_aligned(f, y, 0.3) for
    this f, where np.random.permutation gave [1, 2, 0] and random.randint 0 for the own places, 1 for the partner's."""
    features = 0.5 * pattern((3, 4, 2, 2), 2.3)
    mixed, mix = alignmix(features, torch.full((3,), 0.3), PARTNER, HERE if align_partner else THERE, **OPTIONS)
    torch.testing.assert_close(mixed[:, :2].flatten(), torch.tensor(GOLDEN[align_partner]), atol=1e-5, rtol=0)
    torch.testing.assert_close(mix.lam, torch.full((3,), 0.3))


@pytest.mark.parametrize("lam", [0.0, 0.4])
def test_a_shuffled_map_is_aligned_exactly(lam):
    """The partner's map is the own map with shuffled positions: after alignment both are equal."""
    own = 3 * torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(0))
    moved = own.flatten(1)[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))].reshape(own.shape)
    features, partner, lam = torch.stack([own, moved]), torch.tensor([1, 0]), torch.full((2,), lam)
    options = OPTIONS | {"rounds": 500, "threshold": 1e-4}
    mixed, _ = alignmix(features, lam, partner, torch.ones(2, dtype=torch.bool), **options)
    torch.testing.assert_close(mixed, features, atol=1e-3, rtol=0)
    mixed, _ = alignmix(features, lam, partner, torch.zeros(2, dtype=torch.bool), **options)
    torch.testing.assert_close(mixed, features[partner], atol=1e-3, rtol=0)


@pytest.mark.parametrize("align_partner", [HERE, THERE])
def test_lam_one_gives_exactly_the_own_map(align_partner):
    features = torch.randn(3, 4, 2, 3)
    assert torch.equal(alignmix(features, torch.ones(3), PARTNER, align_partner, **OPTIONS)[0], features)


@pytest.mark.parametrize("align_partner, expected", [(HERE, 1), (THERE, 0)])
def test_gradients_flow_to_both_maps_and_not_through_the_plan(align_partner, expected):
    """If the plan is a permutation, the gradient is that of a weighted sum of two maps, whatever the plan."""
    features = (4 * torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    options = OPTIONS | {"rounds": 1000, "threshold": 1e-5}
    mixed, _ = alignmix(features, torch.full((3,), 0.25), PARTNER, align_partner, **options)
    mixed[0].sum().backward()
    torch.testing.assert_close(features.grad[0], torch.full((8, 2, 2), 0.25), atol=1e-2, rtol=0)
    torch.testing.assert_close(features.grad[1], torch.full((8, 2, 2), 0.75), atol=1e-2, rtol=0)
    assert not features.grad[2].any()


@pytest.mark.parametrize("kind", KINDS)
def test_aligned_prob_zero_is_exactly_mixup(kind, make_net, images, one_hot, rng):
    net = make_net(kind)
    net.model.eval()
    method, plain = load("alignmix", aligned_prob=0.0), load("mixup", alpha=2.0)
    method.build(net)
    state = rng.get_state()
    torch.rand((), generator=rng)  # consume the draw of `aligned_prob`
    expected = plain(net, images(), one_hot(), rng)["mix"]
    rng.set_state(state)
    assert torch.equal(method(net, images(), one_hot(), rng)["mix"], expected)


@pytest.mark.parametrize("kind, layer", [("cnn", "layer4"), ("vit", "blocks.1")])
def test_only_the_chosen_layer_is_changed(kind, layer, make_net, images, one_hot, rng):
    net, x, clean, seen = make_net(kind), images(size=(64, 64)), [], []
    net = make_net(kind, (64, 64))
    net.model.eval()
    method = load("alignmix", aligned_prob=1.0)
    method.build(net)
    assert method.layer_name == layer
    modules = [known.module for known in net.architecture.layers]
    handles = [m.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True) for m in modules]
    net(x)
    clean, seen[:] = list(seen), []
    method(net, x, one_hot(), rng)
    for handle in handles:
        handle.remove()
    # these hooks run before the edit, so that they record the clean output of the edited layer
    last = [known.name for known in net.architecture.layers].index(layer)
    assert [torch.equal(a, b) for a, b in zip(seen, clean)] == [i <= last for i in range(len(modules))]


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_batches_are_aligned(kind, make_net, images, one_hot, rng):
    net, hooked = make_net(kind), []
    method = load("alignmix")
    method.build(net)
    module = net.layer(method.layer_name).module
    module.register_forward_hook(lambda module, *_: hooked.append(len(module._forward_hooks) - 1))
    for _ in range(60):
        method(net, images(2), one_hot(2), rng)
    assert len(hooked) == 60 and abs(sum(hooked) / 60 - 0.5) < 5 * (0.25 / 60) ** 0.5


@pytest.mark.parametrize("align_partner, tolerance", [(HERE, 1e-5), (THERE, 1e-2)])
def test_alignment_does_not_change_the_mean_of_the_mixed_map(align_partner, tolerance):
    """Columns of the plan sum to exactly one, rows after convergence: the mean over positions does not change."""
    features = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    options = OPTIONS | {"rounds": 1000, "threshold": 1e-3}
    mixed, _ = alignmix(features, torch.full((3,), 0.3), PARTNER, align_partner, **options)
    mean = features.mean((2, 3))
    torch.testing.assert_close(mixed.mean((2, 3)), 0.3 * mean + 0.7 * mean[PARTNER], atol=tolerance, rtol=0)


def test_aligned_logits_are_not_those_of_plain_mixing(make_net, images, one_hot, seeded):
    """Mixing the layer in place, as in Manifold Mixup, gives a different loss."""
    net = make_net("vit", (64, 64))
    net.model.eval()
    x, y = images(size=(64, 64)), one_hot()
    method = load("alignmix", aligned_prob=1.0)
    method.build(net)
    aligned = method(net, x, y, seeded(1))["mix"]
    rng = seeded(1)
    torch.rand((), generator=rng)
    lam, partner = method.draw(x, 2.0, rng)
    with net.editing(method.layer_name, lambda h: h * lam[0] + h[partner] * (1 - lam[0])):
        plain = net.loss(net(x), lam[0] * y + (1 - lam[0]) * y[partner])
    assert (aligned - plain).abs() > 1e-6


def test_class_tokens_are_mixed_without_alignment(make_net, images, one_hot, seeded):
    """After the last block only the class token is used, so the result is Manifold Mixup of that layer."""
    net = make_net("vit")
    method = load("alignmix", aligned_prob=1.0, layer=-1)
    method.build(net)
    loss = method(net, images(), one_hot(), seeded(1))["mix"]
    rng = seeded(1)
    torch.rand((), generator=rng)
    lam, partner = method.draw(images(), 2.0, rng)
    with net.editing(-1, lambda h: h * lam[0] + h[partner] * (1 - lam[0])):
        expected = net.loss(net(images()), lam[0] * one_hot() + (1 - lam[0]) * one_hot()[partner])
    torch.testing.assert_close(loss, expected)


def test_the_plan_is_float32_under_autocast(make_net, images, one_hot, rng):
    net = make_net("cnn", (64, 64))
    net.precision = torch.bfloat16
    method = load("alignmix", aligned_prob=1.0)
    method.build(net)
    loss = method(net, 100 * images(size=(64, 64)), one_hot(), rng)["mix"]
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())


def test_maps_of_swin_are_aligned(images, one_hot, rng):
    torch.manual_seed(0)
    args = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
    net = Net(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **args))
    method = load("alignmix", aligned_prob=1.0)
    method.build(net)
    assert method.layer_name == net.architecture.layers[-1].name
    method(net, images(size=(32, 32)), one_hot(), rng)["mix"].backward()


@pytest.mark.parametrize("wrong", [{"eps": 0.0}, {"rounds": 0}, {"aligned_prob": 1.5}])
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        load("alignmix", **wrong)


def test_a_network_without_stages_is_rejected_with_its_name():
    with pytest.raises(ValueError, match="alignmix requires a list of stages.*Sequential"):
        load("alignmix").build(Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 5))))
