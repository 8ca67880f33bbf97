"""SnapMix: labels by the class activation inside the boxes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mixup import Net, load
from hf_mixup.methods.snapmix import paste_resized_boxes, semantic_maps, snapmix
from hf_mixup.ops.masks import box_mask

INTO, OUT_OF = [2, 6, 4, 12], [3, 13, 1, 7]  # 32 and 60 pixels


def box(corners, count=3):
    return torch.tensor([corners]).expand(count, -1)


def flat(count=3, size=(16, 16)):
    return torch.full((count, *size), 1 / (size[0] * size[1]))


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


class Given(nn.Module):
    """A stage with a constant output and a classifier, with the metadata of a timm network."""

    def __init__(self):
        super().__init__()
        self.stage, self.head = nn.Identity(), nn.Linear(4, 5)
        self.feature_info = [{"module": "stage"}]
        self.head.weight.data, self.head.bias.data = pattern((5, 4), 0.7), pattern((5,), 2.1)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.stage(pattern((3, 4, 4, 4), 0.9)).mean((2, 3)))


# Shaoli-Huang/SnapMix, utils/mixmethod.py at 245bda4, snapmix(pattern((3, 2, 16, 16), 1.7), [0, 3, 1], ...) with the
# map and the classifier of `Given`, its Beta draws being 0.6 and 0.7, its centres (5, 8) and (11, 14), its pairing
# [1, 2, 0]: both weights, and the fifth row of the second channel of the first two images.
OWN, OTHER = [0.655163, 0.611034, 0.667014], [0.155964, 0.178712, 0.184707]
FIFTH = [-0.997801, 0.062849, 0.981604, -0.177615, 0.38702, 0.741266, 0.253957, -0.214069]
FIFTH += [-0.65317, -0.468532, 0.131931, 0.4795, 0.763845, 0.999094, -0.170875, -0.95506]
FIFTH += [0.993675, -0.239461, -0.931978, 0.028519, -0.45278, -0.723894, -0.154271, 0.321285]
FIFTH += [0.655742, 0.396056, -0.259723, -0.523304, -0.688837, -0.9756, 0.343497, 0.887091]


def test_the_result_matches_the_authors(monkeypatch, rng):
    lams, centres = iter([0.6, 0.7]), iter([[5, 8], [11, 14]])
    monkeypatch.setattr("hf_mixup.methods.snapmix.beta", lambda *_: torch.tensor([next(lams)]))
    monkeypatch.setattr("hf_mixup.methods.snapmix.points", lambda *_: torch.tensor([next(centres)]))
    monkeypatch.setattr("hf_mixup.methods.snapmix.partners", lambda *_: torch.tensor([1, 2, 0]))
    y = torch.eye(5)[torch.tensor([0, 3, 1])]
    mixed, mix = load("snapmix").mix(Net(Given()), pattern((3, 2, 16, 16), 1.7), y, rng)
    torch.testing.assert_close(mix.weight.T, torch.tensor([OWN, OTHER]), atol=2e-6, rtol=0)
    torch.testing.assert_close(mixed[:2, 1, 4].flatten(), torch.tensor(FIFTH), atol=5e-6, rtol=0)


def test_a_flat_semantic_map_gives_the_area(images):
    _, mix = snapmix(images(3), flat(), torch.tensor([1, 2, 0]), box(INTO), box(OUT_OF))
    torch.testing.assert_close(mix.weight, torch.tensor([[1 - 32 / 256, 60 / 256]]).expand(3, -1))


def test_weights_are_the_remaining_and_the_pasted_semantic_shares(images, rng):
    meaning = semantic_maps(torch.rand(3, 16, 16, generator=rng), (16, 16))
    _, mix = snapmix(images(3), meaning, torch.tensor([1, 2, 0]), box(INTO), box(OUT_OF))
    lost, given = meaning[:, 2:6, 4:12].sum((1, 2)), meaning[:, 3:13, 1:7].sum((1, 2)).roll(-1)
    torch.testing.assert_close(mix.weight, torch.stack([1 - lost, given], 1))
    assert (mix.weight.sum(1) - 1).abs().min() > 1e-3


def test_the_box_holds_the_partners_box_resized(images):
    x = images(3)
    mixed, mix = snapmix(x, flat(), torch.tensor([1, 2, 0]), box(INTO), box(OUT_OF))
    crop = F.interpolate(x.roll(-1, 0)[..., 3:13, 1:7], (4, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(mixed[..., 2:6, 4:12], crop)
    outside_box = mix.mask.expand_as(x) == 1
    assert torch.equal(mixed[outside_box], x[outside_box])


@pytest.mark.parametrize("empty", [[4, 4, 2, 9], [0, 5, 3, 3]])
def test_an_empty_box_mixes_nothing(empty, images):
    x = images(3)
    for boxes in ((box(empty), box(OUT_OF)), (box(INTO), box(empty))):
        mixed, mix = snapmix(x, flat(), torch.tensor([1, 2, 0]), *boxes)
        assert torch.equal(mixed, x) and mix.weight.tolist() == [[1, 0]] * 3 and (mix.mask == 1).all()


def test_boxes_per_row_give_the_same_as_shared_boxes(images):
    x, other = images(2), images(2, seed=1)
    into = torch.tensor([INTO, [0, 1, 5, 16]])
    out_of = torch.tensor([OUT_OF, [7, 9, 0, 16]])
    mixed = paste_resized_boxes(x, other, into, out_of, box_mask(into, (16, 16), x.device))
    for i in range(2):
        row, own, others = slice(i, i + 1), into[i : i + 1], out_of[i : i + 1]
        alone = paste_resized_boxes(x[row], other[row], own, others, box_mask(own, (16, 16), x.device))
        torch.testing.assert_close(mixed[row], alone)


def test_semantic_maps_sum_to_one_and_are_not_negative(rng):
    meaning = semantic_maps(torch.randn(4, 3, 5, generator=rng), (12, 20))
    assert meaning.shape == (4, 12, 20) and (meaning >= 0).all()
    torch.testing.assert_close(meaning.sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize("value", [0.0, -2.0, float("nan")])
def test_without_evidence_the_semantic_map_is_uniform(value):
    torch.testing.assert_close(semantic_maps(torch.full((3, 4, 4), value), (16, 16)), flat())


def test_the_semantic_map_is_the_class_activation_map(make_net, images, one_hot):
    """snapmix.py of Huang et al., `get_spm`: the class's row of a 1x1 convolution with weight and bias."""
    net, x, y = make_net("cnn", (64, 64)), images(6, (64, 64)), one_hot()
    got = semantic_maps(net.class_map(x, y), (64, 64))
    net.model.eval()
    with torch.no_grad():
        maps = net.features(x).relu()
        evidence = F.conv2d(maps, net.classifier.weight[:, :, None, None], net.classifier.bias)
    evidence = evidence[torch.arange(6), y.argmax(1)][:, None]
    spm = F.interpolate(evidence, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    spm = spm - spm.amin((1, 2), keepdim=True)
    assert (spm.amax((1, 2)) > 1e-3).all()
    torch.testing.assert_close(got, spm / spm.sum((1, 2), keepdim=True), atol=1e-6, rtol=1e-3)


def test_a_map_of_one_cell_is_uniform(rng):
    torch.testing.assert_close(semantic_maps(torch.randn(3, 1, 1, generator=rng), (16, 16)), flat(), atol=0, rtol=0)


def test_a_pair_of_one_class_has_the_sum_of_both_weights(make_net, images, rng):
    method, y = load("snapmix"), torch.eye(5)[torch.full((6,), 2)]
    _, mix = method.mix(make_net(), images(), y, rng)
    torch.testing.assert_close(mix(y)[:, 2], mix.weight.sum(1))


def test_the_loss_is_the_sum_of_two_weighted_losses(make_net, images, one_hot, seeded):
    net, y = make_net(), one_hot()
    net.model.eval()
    method = load("snapmix")
    loss = method(net, images(), y, seeded(3))["mix"]
    mixed, mix = method.mix(net, images(), y, seeded(3))
    own, other = (F.cross_entropy(net(mixed), labels.argmax(1), reduction="none") for labels in (y, y[mix.partner]))
    torch.testing.assert_close(loss, (mix.weight[:, 0] * own + mix.weight[:, 1] * other).mean())


def test_the_authors_alpha_is_five():
    assert load("snapmix").alpha == 5.0 and load("snapmix").prob == 1.0


def test_a_network_with_a_class_token_classifier_is_rejected(make_net):
    with pytest.raises(ValueError, match="snapmix requires a classifier.*vit_tiny.*CNN"):
        load("snapmix").build(make_net("vit"))


def test_targets_of_other_classes_are_rejected(make_net, images, rng):
    with pytest.raises(ValueError, match=r"Give shape \(B, 5\)"):
        load("snapmix").mix(make_net(), images(), torch.rand(6), rng)
