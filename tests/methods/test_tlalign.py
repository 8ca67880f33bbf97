"""TL-Align: labels that follow the tokens."""

import pytest
import torch

from hf_mixup import Net, load
from hf_mixup.methods.tlalign import aligned_share, patch_boxes
from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.ops.masks import outside

GRID, TOKENS = (4, 4), 17


def mask_of(box, size=(16, 16)):
    return outside(torch.tensor([box]), size, torch.device("cpu"))


def random_attention(rng, blocks=3, count=2, heads=2):
    return [torch.randn(count, heads, TOKENS, TOKENS, generator=rng).softmax(-1) for _ in range(blocks)]


@pytest.mark.parametrize("attention", [torch.eye(TOKENS), torch.full((TOKENS, TOKENS), 1 / TOKENS)])
def test_attention_to_oneself_or_to_all_alike_gives_the_area(attention):
    mask = mask_of([4, 12, 0, 8])
    share = aligned_share(mask, [attention.expand(2, 3, -1, -1)] * 3, GRID)
    torch.testing.assert_close(share, mask.mean().expand(2))


def test_a_class_token_that_looks_into_the_box_halves_its_share_each_block():
    attention = torch.eye(TOKENS)
    attention[0] = 0
    attention[0, 1 + 4] = 1  # the patch in row 1, column 0
    mask = mask_of([4, 12, 0, 8])
    for blocks in (1, 2, 3):
        share = aligned_share(mask, [attention[None, None]] * blocks, GRID)
        torch.testing.assert_close(share, mask.mean()[None] / 2**blocks)


def test_one_number_a_token_is_a_label_a_token(rng):
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


def test_an_image_that_shows_alone_keeps_its_whole_label(rng):
    assert aligned_share(torch.ones(1, 1, 16, 16), random_attention(rng), GRID).tolist() == [1.0, 1.0]


def test_boxes_cover_whole_patches(make_net, images, one_hot, seeded):
    net, method = make_net("vit"), load("tlalign", per_image=True)
    method.build(net)
    for seed in range(5):
        mask = method.mix(net, images(), one_hot(), seeded(seed))[1].mask
        patches = mask.unfold(2, 4, 4).unfold(3, 4, 4)
        assert torch.equal(patches.amin((-1, -2)), patches.amax((-1, -2)))


def test_a_box_in_the_middle_has_the_area_asked_for():
    corners = patch_boxes((14, 14), torch.tensor([0.75, 1.0]), torch.tensor([[7, 7], [7, 7]]))
    assert corners.tolist() == [[4, 11, 4, 11], [7, 7, 7, 7]]


class Given:
    """A loss that remembers the targets."""

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


def test_a_network_without_a_class_token_is_refused_by_name(make_net):
    with pytest.raises(ValueError, match="tlalign needs a class token.*resnet18.*ViT"):
        load("tlalign").build(make_net("cnn"))
