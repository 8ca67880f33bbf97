"""TransMix: labels are weighted by attention."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import Method, Mix, Net, load
from hf_mixup.methods.cutmix import cutmix
from hf_mixup.methods.transmix import attended_share
from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.ops.masks import box_mask

CUTMIX = {"name": "cutmix", "alpha": 1.0}
CLOSE = {"atol": 2e-6, "rtol": 0}


def mask_of(box, size=(16, 16)):
    return box_mask(torch.tensor([box]), size, torch.device("cpu"))


def test_uniform_attention_gives_the_area():
    mask = mask_of([4, 12, 0, 8])  # of whole patches of 4 pixels
    share = attended_share(mask, torch.full((3, 4, 4), 0.2))
    torch.testing.assert_close(share, mask.mean().expand(3))


def test_attention_inside_the_box_gives_a_share_of_zero():
    attention = torch.zeros(1, 4, 4)
    attention[0, 1:3, :2] = 0.25
    assert attended_share(mask_of([4, 12, 0, 8]), attention).tolist() == [0.0]
    assert attended_share(1 - mask_of([4, 12, 0, 8]), attention).tolist() == [1.0]


def test_attention_need_not_sum_to_one(rng):
    attention = torch.rand(2, 4, 4, generator=rng)
    mask = mask_of([4, 12, 0, 8])
    torch.testing.assert_close(attended_share(mask, 7 * attention), attended_share(mask, attention))


class Given:
    """A loss that records its targets."""

    def __call__(self, logits, y):
        self.y = y
        return soft_cross_entropy(logits, y)


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


@dataclass(eq=False)
class Fixed(Method):
    """CutMix with fixed draws."""

    def mix_batch(self, net, x, y, rng):
        return cutmix(x, torch.full((4,), 0.6), torch.arange(4).flip(0), torch.tensor([[7, 4]]))


class Looking(Net):
    """A network with fixed attention."""

    def forward(self, x):
        return torch.zeros(4, 5)

    @contextmanager
    def capturing_attention(self, for_method):
        yield lambda: (pattern((4, 16), 0.3).square() + 0.1).view(4, 4, 4)


def test_labels_match_the_authors():
    """Beckschen/TransMix, transmix.py at 0e4d31e: Mixup_transmix(label_smoothing=0.1, num_classes=5)(x, arange(4)),
    which was given lam 0.6 and the middle of the box, row 7 and column 4; then transmix_label(target, attention,
    x.shape) for the attention above. `x[:, 0, 7, ::5]` and the targets, smoothed."""
    pixels = [0.420434, -0.98806, 0.832658, -0.761816, 0.961121, 0.000582, -0.419405, -0.757077]
    pixels += [-0.1253, 0.98823, -0.961425, 0.529353, -0.999594, 0.302871, 0.124175, 0.9196]
    targets = [0.656046, 0.02, 0.02, 0.283954, 0.02, 0.02, 0.50685, 0.43315, 0.02, 0.02]
    targets += [0.02, 0.287365, 0.652635, 0.02, 0.02, 0.418757, 0.02, 0.02, 0.521243, 0.02]
    x, y, given = pattern((4, 3, 16, 16), 0.37), torch.eye(5)[:4], Given()
    method, net = load("transmix", base=Fixed()), Looking(torch.nn.Flatten(), loss=given, label_smoothing=0.1)
    method(net, x, y, None)
    torch.testing.assert_close(method.mix(net, x, y, None)[0][:, 0, 7, ::5].flatten(), torch.tensor(pixels), **CLOSE)
    torch.testing.assert_close(given.y.flatten(), torch.tensor(targets), **CLOSE)


def labels_of_a_step(make_net, images, seeded, **changes):
    given = Given()
    net = make_net("vit", classes=6, loss=given)
    net.model.eval()
    method = load("transmix", **changes)
    method.build(net)
    y = torch.eye(6)
    method(net, images(), y, seeded(5))
    mixed, mix = method.mix(net, images(), y, seeded(5))
    return net, mixed, mix, given.y


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_ratio_interpolates_lam_between_pixels_and_attention(ratio, make_net, images, seeded):
    net, mixed, mix, y = labels_of_a_step(make_net, images, seeded, ratio=ratio)
    share = attended_share(mix.mask, net.attention(mixed))  # attention of the mixed image
    lam = (1 - ratio) * mix.lam + ratio * share
    torch.testing.assert_close(y, Mix.pair(mix.partner, lam)(torch.eye(6)))


def test_by_default_attention_has_half_the_weight():
    assert load("transmix").ratio == 0.5


def test_each_row_has_its_own_lam(make_net, images, seeded):
    y = labels_of_a_step(make_net, images, seeded)[3]
    assert len(y.diagonal().unique()) > 1
    torch.testing.assert_close(y.sum(1), torch.ones(6))


def test_attention_only_inside_the_box_halves_lam(make_net, images, seeded):
    """The class token attends to black patches only, and the box is black."""
    net = make_net("vit")
    method = load("transmix")
    mixed, mix = method.mix(net, images(), torch.eye(6), seeded(5))
    attention = 1 - F.interpolate(mix.mask, size=(4, 4), mode="nearest")[:, 0]
    lam = (1 - method.ratio) * mix.lam + method.ratio * attended_share(mix.mask, attention.expand(6, -1, -1))
    torch.testing.assert_close(lam, mix.lam / 2)


def test_no_gradient_flows_through_attention(make_net, images, seeded):
    given = Given()
    net = make_net("vit", loss=given)
    load("transmix")(net, images(), torch.eye(5)[torch.arange(6) % 5], seeded(5))
    assert not given.y.requires_grad


def test_a_base_without_a_mask_keeps_its_labels(make_net, images, seeded):
    _, _, mix, y = labels_of_a_step(make_net, images, seeded, base={"name": "mixup", "alpha": 1.0})
    assert mix.mask is None and torch.equal(y, mix(torch.eye(6)))


def test_the_authors_choice_of_bases_works(make_net, images, one_hot, rng):
    base = {"name": "choice", "methods": [CUTMIX, {"name": "mixup", "alpha": 0.8}], "weights": [0.8, 0.2]}
    method, net = load("transmix", base=base, prob=0.9), make_net("vit")
    for _ in range(5):
        assert method(net, images(), one_hot(), rng)["mix"].isfinite()


def test_fused_attention_is_restored(make_net, images, one_hot, rng):
    net = make_net("vit")
    fused = [module.fused_attn for module in net.model.modules() if hasattr(module, "fused_attn")]
    load("transmix")(net, images(), one_hot(), rng)
    assert [module.fused_attn for module in net.model.modules() if hasattr(module, "fused_attn")] == fused


def test_attention_is_read_before_dropout(images, vit_model, seeded):
    """Attention is read before dropout: even with the largest dropout rate, labels use all patches."""
    targets = []
    for drop in (0.0, 0.9):
        given = Given()
        net = Net(vit_model(classes=6, attn_drop_rate=drop), loss=given).train()
        net.model.blocks[:-1].eval()  # so that the last block has the same input
        load("transmix", ratio=1.0)(net, images(), torch.eye(6), seeded(5))
        targets.append(given.y)
    torch.testing.assert_close(targets[1], targets[0])


def test_a_network_without_attention_is_rejected_with_its_name(make_net):
    with pytest.raises(ValueError, match="transmix requires attention.*resnet18.*ViT"):
        load("transmix").build(make_net("cnn"))


def test_a_base_that_needs_forward_is_rejected():
    with pytest.raises(ValueError, match="manifoldmix"):
        load("transmix", base={"name": "manifoldmix"})


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_an_invalid_ratio_is_rejected(ratio):
    with pytest.raises(ValueError, match="ratio"):
        load("transmix", ratio=ratio)


def test_column_0_need_not_be_the_row_itself(make_net, images, one_hot, seeded):
    net, base = make_net("vit"), {"name": "comixup", "part": 2, "beta": 0.05, "clean_weight": 0.0}
    method, alone = load("transmix", base=base, ratio=0.0), load(base)
    method.build(net)
    mixed, mix = alone.mix(net, images(), one_hot(), seeded(1))
    assert mix.index[:, 0].tolist() != list(range(6))
    found = method(net, images(), one_hot(), seeded(1))["mix"]
    torch.testing.assert_close(found, net.loss(net(mixed), mix(one_hot())))
