"""MergeMix: the authors' numbers, and properties stated in the paper."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.attentivemix import attentivemix
from hf_mixup.methods.mergemix import class_token_attention, noisy_lam

# The authors' code (github.com/Westlake-AI/openmixup at 37e1372) made the golden numbers, from synthetic attention and
# from the places in tests/ops/test_merge_tokens.py, which are from the same code:
#   MergeMix.process_attention_map(token_unmerge_from_map(attention, PLACE[:, 1:]), 6), models/classifiers/mergemix.py
# It reads the attention of the tokens to the class token: the attention is transposed here.
PLACE = [
    [0, 6, 9, 2, 4, 7, 1, 3, 9, 8, 5, 5, 9, 9, 2, 6, 7],
    [0, 6, 9, 2, 4, 7, 1, 3, 2, 8, 5, 5, 9, 9, 2, 6, 7],
]
MASK = ["0110000100011100", "1101000000011010"]
# MergeMix.lambda_scale(.5, [.4] * 5), whose draws were NOISE
NOISE = [1.764052345967664, 0.4001572083672233, 0.9787379841057392, 2.240893199201458, 1.8675579901499675]
SPREAD = [0.740940917, 0.0, 0.314316078, 0.999986418, 0.797170729]


def test_the_mask_matches_the_authors(images):
    attention = ((torch.arange(200, dtype=torch.float64) * 0.37).sin() + 1.1).float().view(2, 1, 10, 10)
    score = class_token_attention(attention.mT, torch.tensor(PLACE), (4, 4))
    _, mix = attentivemix(images(2), score, torch.tensor([6, 6]), torch.tensor([1, 0]))
    shown = torch.tensor([[float(digit) for digit in row] for row in MASK]).view(2, 1, 4, 4)
    assert torch.equal(mix.mask[:, :, ::4, ::4], shown)
    torch.testing.assert_close(mix.lam, torch.tensor([6 / 16, 6 / 16]))


def test_noisy_lam_matches_the_authors():
    found = noisy_lam(torch.full((5,), 0.4), torch.tensor(NOISE), 0.5)
    torch.testing.assert_close(found, torch.tensor(SPREAD), atol=1e-6, rtol=0)


def test_without_merging_the_scores_are_the_blocks_attention(make_net, images):
    net, x = make_net("vit"), images(3)
    method = load("mergemix", merged=0.0, layer=-1)
    method.build(net)
    score = method.score(net, x)
    torch.testing.assert_close(score / score.sum((1, 2), keepdim=True), net.attention(x))


def test_merged_patches_have_equal_scores(make_net, images):
    net = make_net("vit", (32, 32))
    method = load("mergemix", merged=0.75, layer=-1)
    method.build(net)
    for score in method.score(net, images(3, (32, 32))):
        assert score.unique().numel() < 48  # of 64 patches


@pytest.mark.parametrize(("layer", "block"), [(None, 1), (0, 0), (-1, 2), ("blocks.1", 1)])
def test_the_requested_block_is_used(layer, block, make_net):
    method = load("mergemix", layer=layer)
    method.build(make_net("vit"))
    assert method.block == block


def test_patches_with_the_highest_attention_are_kept(make_net, images, one_hot, rng):
    net, x = make_net("vit"), images()
    method = load("mergemix").train()
    method.build(net)
    score = method.score(net, x).flatten(1)
    _, mix = method.mix(net, x, one_hot(), rng)
    kept = mix.mask[:, 0, ::4, ::4].flatten(1) == 1
    assert (kept.sum(1) == kept[0].sum()).all()
    for row, shown in zip(score, kept):
        assert row[shown].min() >= row[~shown].max()


def test_a_mixup_loss_is_added(make_net, images, one_hot, seeded):
    net, x, y = make_net("vit"), images(), one_hot()
    net.model.eval()
    whole, bare = load("mergemix").train(), load("mergemix", mixup_weight=0.0).train()
    for method in (whole, bare):
        method.build(net)
    assert whole.needs_forward and not bare.needs_forward
    losses = whole(net, x, y, seeded(1))
    assert set(losses) == {"mix", "mixup"}
    torch.testing.assert_close(losses["mix"], bare(net, x, y, seeded(1))["mix"])
    half = load("mergemix", mixup_weight=0.5).train()
    half.build(net)
    torch.testing.assert_close(half(net, x, y, seeded(1))["mixup"], losses["mixup"] / 2)


def test_lam_scale_gives_targets_a_different_lam(make_net, images, one_hot, seeded):
    net = make_net("vit")
    plain, scaled = load("mergemix").train(), load("mergemix", lam_scale=True).train()
    for method in (plain, scaled):
        method.build(net)
    x, mix = plain.mix(net, images(), one_hot(), seeded(1))
    again, other = scaled.mix(net, images(), one_hot(), seeded(1))
    assert torch.equal(x, again) and torch.equal(mix.mask, other.mask)
    assert other.lam.min() == 0 and other.lam.max() > 0.999


@pytest.mark.parametrize("wrong", [{"merged": 1.0}, {"mixup_alpha": -1.0}, {"mixup_weight": float("inf")}])
def test_invalid_hyperparameters_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load("mergemix", **wrong)
