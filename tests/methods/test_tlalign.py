"""TL-Align: labels are aligned with tokens."""

import pytest
import torch

from hf_mixup import Mix, Net, load
from hf_mixup.methods.cutmix import cutmix_boxes
from hf_mixup.methods.tlalign import aligned_share
from hf_mixup.ops.losses import smooth, soft_cross_entropy
from hf_mixup.ops.masks import box_mask, boxes

GRID, TOKENS = (4, 4), 17


def mask_of(box, size=(16, 16)):
    return box_mask(torch.tensor([box]), size, torch.device("cpu"))


def random_attention(rng, blocks=3, count=2, heads=2):
    return [torch.randn(count, heads, TOKENS, TOKENS, generator=rng).softmax(-1) for _ in range(blocks)]


@pytest.mark.parametrize("attention", [torch.eye(TOKENS), torch.full((TOKENS, TOKENS), 1 / TOKENS)])
def test_identity_or_uniform_attention_gives_the_area(attention):
    mask = mask_of([4, 12, 0, 8])
    share = aligned_share(mask, [attention.expand(2, 3, -1, -1)] * 3, GRID)
    torch.testing.assert_close(share, mask.mean().expand(2))


def test_a_class_token_attending_to_the_box_halves_its_share_in_each_block():
    attention = torch.eye(TOKENS)
    attention[0] = 0
    attention[0, 1 + 4] = 1  # the patch in row 1, column 0
    mask = mask_of([4, 12, 0, 8])
    for blocks in (1, 2, 3):
        share = aligned_share(mask, [attention[None, None]] * blocks, GRID)
        torch.testing.assert_close(share, mask.mean()[None] / 2**blocks)


def test_one_number_per_token_is_equivalent_to_a_label_per_token(rng):
    """The paper's algorithm: smoothed labels of all tokens, mixed by the mean of the heads and the tokens' own."""
    attentions, mask = random_attention(rng), mask_of([0, 8, 4, 16])
    own, other = 0.9 * torch.eye(5)[1] + 0.02, 0.9 * torch.eye(5)[3] + 0.02
    shown = mask[0, 0, ::4, ::4].flatten()[:, None]
    labels = torch.cat([mask.mean() * own[None] + (1 - mask.mean()) * other, shown * own + (1 - shown) * other])
    labels = labels.expand(2, -1, -1)
    for attention in attentions:
        labels = (attention.mean(1) @ labels + labels) / 2
        torch.testing.assert_close(labels.sum(2), torch.ones(2, TOKENS))
    share = aligned_share(mask, attentions, GRID)[:, None]
    torch.testing.assert_close(share * own + (1 - share) * other, labels[:, 0])


def test_a_fully_visible_image_keeps_its_whole_label(rng):
    assert aligned_share(torch.ones(1, 1, 16, 16), random_attention(rng), GRID).tolist() == [1.0, 1.0]


def test_boxes_cover_whole_patches(make_net, images, one_hot, seeded):
    net, method = make_net("vit"), load("tlalign", per_image=True)
    method.build(net)
    for seed in range(5):
        mask = method.mix(net, images(), one_hot(), seeded(seed))[1].mask
        patches = mask.unfold(2, 4, 4).unfold(3, 4, 4)
        assert torch.equal(patches.amin((-1, -2)), patches.amax((-1, -2)))


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


def test_images_and_labels_match_the_authors():
    """Euphoria16/TL-Align at 4da0621, tla.py: TL_AlignMix(patch_size=4, label_smoothing=0.1, num_classes=4)(x,
    arange(4)), lam 0.4 and the middle of the box in patch row 4 and column 1: `x[:, 0, 3::8, 1::8]`; then Block of
    timm/models/vision_transformer.py three times, whose softmax gave the attention below: the class token's label."""
    pixels = [0.261266, -0.431293, 0.587138, 0.225563, -0.045873, -0.962871, 0.835583, -0.920977, 0.080733]
    pixels += [0.976236, -0.921055, 0.835593, 0.983549, -1.0, 0.225486, -0.510568, 0.346853, -0.991984]
    pixels += [-0.171708, 0.346721, -0.510447, -0.135344, -0.045855, 0.983574, -0.882378, 0.952841, -0.171726]
    pixels += [-0.991986, 0.952883, -0.882415, -0.995968, 0.995793, -0.135205, 0.429549, -0.259406, 0.976205]
    labels = [0.627117, 0.025, 0.025, 0.322883, 0.025, 0.627965, 0.322035, 0.025]
    labels += [0.025, 0.353914, 0.596086, 0.025, 0.318608, 0.025, 0.025, 0.631392]
    x, flip = pattern((4, 3, 24, 24), 0.37), torch.arange(4).flip(0)
    mixed, mix = cutmix_boxes(x, flip, 4 * boxes((6, 6), torch.full((4,), 0.4), torch.tensor([[4, 1]])))
    torch.testing.assert_close(mixed[:, 0, 3::8, 1::8].flatten(), torch.tensor(pixels), atol=2e-6, rtol=0)
    attentions = [(3 * pattern((4, 2, 37, 37), 0.7 + 0.4 * k)).softmax(-1) for k in range(3)]
    lam = aligned_share(mix.mask, attentions, (6, 6))
    found = smooth(Mix.pair(flip, lam)(torch.eye(4)), 0.1)
    torch.testing.assert_close(found.flatten(), torch.tensor(labels), atol=2e-6, rtol=0)


class Given:
    """A loss that records its targets."""

    def __call__(self, logits, y):
        self.y = y
        return soft_cross_entropy(logits, y)


@pytest.mark.parametrize("distilled", [False, True])
def test_labels_are_those_of_the_networks_own_attention(distilled, images, seeded):
    transformers = pytest.importorskip("transformers")
    kind = "DeiT" if distilled else "ViT"
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(image_size=16, patch_size=4, num_labels=6, **shape)
    config._attn_implementation = "eager"
    given = Given()
    net = Net(getattr(transformers, f"{kind}ForImageClassification")(config).eval(), loss=given)
    method, y = load("tlalign"), torch.eye(6)
    method.build(net)
    method(net, images(), y, seeded(5))
    mixed, mix = method.mix(net, images(), y, seeded(5))
    share = aligned_share(mix.mask, net.model(mixed, output_attentions=True).attentions, GRID)
    torch.testing.assert_close(given.y.diagonal(), share)
    assert not given.y.requires_grad


def test_a_network_without_a_class_token_is_rejected_with_its_name(make_net):
    with pytest.raises(ValueError, match="tlalign requires a class token.*resnet18.*ViT"):
        load("tlalign").build(make_net("cnn"))
