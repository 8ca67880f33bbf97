"""Losses for soft targets, one value per row."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import Mix, Net
from hf_mixup.ops.losses import binary_cross_entropy, jensen_shannon, smooth, soft_cross_entropy


@pytest.fixture
def batch():
    """Logits (6, 4), one-hot targets, and pairs with a lam per row."""
    rng = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(6, 4, generator=rng)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    return logits, labels, Mix.pair(torch.arange(6).roll(-1), torch.rand(6, generator=rng))


def hard_form(logits, labels, mix):
    """mean_i lam_i l(i, y_i) + (1 - lam_i) l(i, y_partner(i)), from integer labels."""
    own = F.cross_entropy(logits, labels, reduction="none")
    other = F.cross_entropy(logits, labels[mix.partner], reduction="none")
    return (mix.lam * own + (1 - mix.lam) * other).mean()


def test_soft_targets_give_the_weighted_sum_of_two_hard_losses(batch):
    """Asked in timm issue 46; also true with a lam per row."""
    logits, labels, mix = batch
    soft = soft_cross_entropy(logits, mix(F.one_hot(labels, 4).float())).mean()
    torch.testing.assert_close(soft, hard_form(logits, labels, mix))


def test_each_row_uses_its_own_lam(batch):
    """OpenMixup's bug is to multiply batch means by lam: 1.7735 instead of 1.9414."""
    logits, labels, mix = batch
    own, other = F.cross_entropy(logits, labels), F.cross_entropy(logits, labels[mix.partner])
    wrong = (mix.lam * own + (1 - mix.lam) * other).mean()
    right = soft_cross_entropy(logits, mix(F.one_hot(labels, 4).float())).mean()
    assert abs(right - wrong) > 0.05  # so that the previous test can distinguish them
    torch.testing.assert_close(right, hard_form(logits, labels, mix))


def test_soft_cross_entropy_equals_torchs(batch):
    logits, labels, mix = batch
    y = mix(F.one_hot(labels, 4).float())
    torch.testing.assert_close(soft_cross_entropy(logits, y), F.cross_entropy(logits, y, reduction="none"))


def test_weights_need_not_sum_to_one(batch):
    logits, labels, _ = batch
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 0.25])
    y = weights[:, None] * F.one_hot(labels, 4)
    expected = weights * F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, y), expected)


def test_large_logits_do_not_overflow():
    loss = soft_cross_entropy(torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(loss, torch.tensor([2e4]))


def test_binary_loss_is_the_mean_or_the_sum_over_classes(batch):
    logits, labels, _ = batch
    y = F.one_hot(labels, 4).float()
    rows = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    torch.testing.assert_close(binary_cross_entropy(logits, y), rows.mean(1))
    torch.testing.assert_close(binary_cross_entropy(logits, y, total=True), rows.sum(1))


def test_the_threshold_makes_targets_binary(batch):
    logits, _, _ = batch
    y = torch.tensor([[0.7, 0.3, 0.2, 0.0]] * 6)
    hard = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 6)
    whole = binary_cross_entropy(logits, y, threshold=0.2)
    torch.testing.assert_close(whole, binary_cross_entropy(logits, hard))
    assert y[0].tolist() == pytest.approx([0.7, 0.3, 0.2, 0.0])


def test_smoothing_is_torchs(batch):
    logits, labels, _ = batch
    ours = soft_cross_entropy(logits, smooth(F.one_hot(labels, 4).float(), 0.1)).mean()
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_smoothing_and_mixing_commute(batch):
    _, labels, mix = batch
    y = F.one_hot(labels, 4).float()
    torch.testing.assert_close(smooth(mix(y), 0.1), mix(smooth(y, 0.1)))


def test_smoothing_keeps_the_sum_of_a_row():
    y = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.5, 0.0]])
    torch.testing.assert_close(smooth(y, 0.3).sum(1), y.sum(1))
    assert smooth(y, 0.3)[0].tolist() == [0, 0, 0]  # an unlabelled row stays zero


def test_smoothing_does_not_modify_the_labels():
    """HF/transformers PR 13464: labels changed in place made metrics wrong."""
    y = torch.eye(3)
    smooth(y, 0.1)
    assert torch.equal(y, torch.eye(3)) and y._version == 0


def test_net_loss_smooths_once_and_averages_last(batch, vit_model):
    logits, labels, mix = batch
    net = Net(vit_model(), label_smoothing=0.1)
    y = mix(F.one_hot(labels, 4).float())
    rows = soft_cross_entropy(logits, smooth(y, 0.1))
    torch.testing.assert_close(net.loss(logits, y, reduction="none"), rows)
    torch.testing.assert_close(net.loss(logits, y), rows.mean())


def views(count=3, scale=2.0):
    """Logits (6, 4) of so many views."""
    rng = torch.Generator().manual_seed(5)
    return [scale * torch.randn(6, 4, generator=rng) for _ in range(count)]


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_divergence_of_three_views_matches_the_authors(scale):
    """As in AugMix's training loop: three batch means of torch's KL divergence from a clamped mean."""
    logits = views(scale=scale)
    shares = [view.softmax(1) for view in logits]
    mean = (sum(shares) / 3).clamp(1e-7, 1).log()
    expected = sum(F.kl_div(mean, share, reduction="batchmean") for share in shares) / 3
    torch.testing.assert_close(jensen_shannon(*logits).mean(), expected)


def test_equal_views_have_divergence_zero():
    [view] = views(1)
    torch.testing.assert_close(jensen_shannon(view, view + 3, view - 1), torch.zeros(6), atol=1e-6, rtol=0)


def test_disjoint_views_have_divergence_log_of_their_number():
    apart = [1e3 * torch.eye(4)[[k]] for k in range(3)]
    torch.testing.assert_close(jensen_shannon(*apart), torch.full((1,), math.log(3)))


def test_the_order_of_views_does_not_matter_and_each_gets_a_gradient():
    logits = [view.requires_grad_() for view in views()]
    torch.testing.assert_close(jensen_shannon(*logits), jensen_shannon(*logits[::-1]))
    jensen_shannon(*logits).sum().backward()
    assert all(view.grad.abs().sum() > 0 and view.grad.isfinite().all() for view in logits)
