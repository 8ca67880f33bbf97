"""AutoMix: which networks each loss trains, the masks, and the momentum encoder."""

import gc
import math
import weakref

import pytest
import timm
import torch
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_mixup.methods import load
from hf_mixup.methods._mixblock import MixBlock
from hf_mixup.methods.automix import automix, momentum_at, rescale_mask
from hf_mixup.net import Net

CLASSES = 5
SMALL_CNN = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}
SMALL_VIT = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3}


def cnn():
    return timm.create_model("resnet18", num_classes=CLASSES, **SMALL_CNN)


def vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **SMALL_VIT)


def wrapped():
    config = TimmWrapperConfig(architecture="resnet18", num_labels=CLASSES, model_args=SMALL_CNN)
    return TimmWrapperForImageClassification(config)


def built(make=cnn, **hyperparameters):
    """A network in train mode and AutoMix built for it."""
    torch.manual_seed(0)
    net = Net(make()).train()
    method = load("automix", **hyperparameters)
    method.build(net)
    return net, method.train()


def batch(count=6, side=32):
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return x, torch.eye(CLASSES)[torch.arange(count) % CLASSES]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def with_gradient(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("make", [cnn, vit, wrapped])
def test_the_generator_losses_train_only_the_generator(make):
    net, method = built(make)
    losses = method(net, *batch(), rng())
    assert set(losses) == {"mix", "onehot", "generator", "mask"}
    losses["generator"].backward(retain_graph=True)
    losses["mask"].backward()
    assert with_gradient(method.generator) == {"query.weight", "query.bias", "value.weight", "value.bias"}
    for other in (net, method.encoder, method.head, method.encoder_head):
        assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("make", [cnn, vit, wrapped])
def test_the_networks_losses_do_not_train_the_generator(make):
    net, method = built(make)
    losses = method(net, *batch(), rng())
    (losses["mix"] + losses["onehot"]).backward()
    assert with_gradient(net) and with_gradient(method.head)
    for other in (method.generator, method.encoder, method.encoder_head):
        assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("make", [cnn, vit, wrapped])
def test_masks_are_in_0_to_1_and_start_near_one_half(make):
    net, method = built(make, lam_margin=0.0)
    mixed, mix = method.mix(net, *batch(), rng())
    assert mixed.shape == (6, 3, 32, 32) and mix.mask.shape == (6, 1, 32, 32)
    assert mix.mask.min() > 0 and mix.mask.max() < 1 and not mix.mask.requires_grad
    assert (mix.mask.mean() - 0.5).abs() < 0.05


def test_the_default_layer_is_the_middle_block_of_a_vit_or_the_last_stage_but_one_of_a_cnn():
    assert built(cnn)[1].layer_info.name == "layer3"
    assert built(vit)[1].layer_info.name == "blocks.1"
    assert built(vit, layer=2)[1].layer_info.name == built(vit, layer="blocks.2")[1].layer_info.name == "blocks.2"


def test_mix_and_forward_keep_the_drawn_lam():
    net, method = built()
    x, y = batch()
    _, mix = method.mix(net, x, y, rng(3))
    lam, partner = method.draw(x, method.alpha, rng(3))
    assert torch.equal(mix.lam, lam) and torch.equal(mix.partner, partner)


@pytest.mark.parametrize("lam", [0.0, 0.05, 0.95, 1.0])
def test_the_margin_rule_gives_plain_mixup(lam):
    x, _ = batch()
    mask = torch.rand(6, 1, 32, 32)
    lam, partner = torch.full((6,), lam), torch.arange(6).roll(1)
    mixed, mix = automix(x, mask, lam, partner, 0.08)
    assert torch.equal(mix.mask, lam.reshape(-1, 1, 1, 1).expand_as(mask))
    torch.testing.assert_close(mixed, lam[0] * x + (1 - lam[0]) * x[partner])
    assert torch.equal(automix(x, mask, lam * 0 + 0.5, partner, 0.08)[1].mask, mask)


def test_the_encoder_is_an_exponential_moving_average():
    net, method = built(momentum=0.9)
    pairs = [(method.encoder.model, net.model), (method.encoder_head, method.head)]
    with torch.no_grad():
        for p in [*net.parameters(), *method.head.parameters()]:
            p.add_(torch.randn_like(p))
    old = [[p.clone() for p in slow.parameters()] for slow, _ in pairs]
    buffers = [b.clone() for b in method.encoder.buffers()]
    method.after_step(net)
    for (slow, fast), before in zip(pairs, old):
        for k, q, was in zip(slow.parameters(), fast.parameters(), before):
            torch.testing.assert_close(k, 0.9 * was + 0.1 * q)
            assert not k.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(buffers, method.encoder.buffers()))


MOMENTA = {  # by planned steps, final momentum and warmup share: momentum of some steps
    (100, 0.999999, 0.1): {1: 0.999, 9: 0.999, 10: 0.999024447, 11: 0.99902953, 50: 0.9994995, 100: 0.999999},
    (30, 0.99999, 0.25): {6: 0.999, 7: 0.999127143, 8: 0.99916378, 20: 0.9997425, 30: 0.99999},
}


@pytest.mark.parametrize("setting", MOMENTA)
def test_the_momentum_matches_the_authors(setting):
    """Westlake-AI/openmixup at 37e1372, core/hooks/momentum_hook.py: CosineScheduleHook.before_train_iter, with
    adjust_scope from the warmup to 1, warming_up "constant" and a base momentum of 0.999."""
    total, final, warmup = setting
    for step, momentum in MOMENTA[setting].items():
        assert momentum_at(step, total, 0.999, final, warmup) == pytest.approx(momentum, abs=1e-9)


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


MIXED = {  # the second row of pixels, by lam
    0.6: [-0.04882, 0.311502, -0.572986, -0.720955, 0.97821, 0.961948, -0.108169, -0.449505, -0.729251]
    + [-0.69173, -0.139326, 0.205602, -0.427976, -0.179714, -0.704888, -0.408879, 0.344724, 0.559559],
    0.95: [-0.076843, -0.396063, -0.661677, -0.837737, -0.900412, -0.841222, -0.953811, -0.902182, -0.728445]
    + [-0.456117, -0.122057, 0.228525, -0.096211, 0.253696, 0.569269, 0.807791, 0.936983, 0.939359],
    0.05: [-0.050132, 0.278362, 0.569184, 0.782967, 0.89078, 0.87803, -0.124405, -0.458197, -0.729973]
    + [-0.902952, -0.95372, -0.875406, -0.952327, -0.864714, -0.660064, -0.366078, -0.022546, 0.324039],
}


@pytest.mark.parametrize("lam", MIXED)
def test_images_are_mixed_as_the_authors_do(lam):
    """As above, models/classifiers/automix.py: AutoMixup.pixel_mixup with lam_margin 0.08, for these images, features
    and weights of its PixelMixBlock: `img_mix_bb[:, 0, 1]`."""
    block = MixBlock(4)
    for parameter, frequency in zip(block.parameters(), (0.7, 0.3, 1.1, 0.9)):
        parameter.data = pattern(parameter.shape, frequency)
    x, z, partner = pattern((3, 3, 4, 6), 0.37), 2 * pattern((3, 4, 2, 3), 2.3), torch.tensor([2, 0, 1])
    lam_of_rows = torch.full((3,), lam)
    mixed, mix = automix(x, block(z, lam_of_rows, partner, (4, 6)), lam_of_rows, partner, 0.08)
    torch.testing.assert_close(mixed[:, 0, 1].flatten(), torch.tensor(MIXED[lam]), atol=2e-6, rtol=0)
    assert torch.equal(mix.lam, lam_of_rows)


def test_the_mask_loss_weight_can_follow_a_cosine():
    _, method = built(mask_schedule="cosine", mask_margin=0.0)
    mask, lam = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0.25])
    method.total_steps = 100
    for step, expected in ((0, 0.025), (50, 0.0125), (100, 0.0)):
        method.step = step
        assert method.mask_loss(mask, lam).item() == pytest.approx(expected, abs=1e-8)


def test_variance_weight_favours_binary_masks():
    mask, lam = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3])
    plain, bold = (load("automix", variance_weight=weight).mask_loss(mask, lam) for weight in (0.0, 2.0))
    assert bold.item() == pytest.approx(plain.item() - 0.1 * 2 * mask.var(unbiased=False).item())
    with pytest.raises(ValueError, match="AutoMix's variance_weight is inf"):
        load("automix", variance_weight=math.inf)


def test_batchnorm_of_the_network_is_updated_in_its_two_passes_only():
    net, method = built()
    for _ in range(3):
        method.mix(net, *batch(), rng())
    assert net.model.bn1.num_batches_tracked == 0
    method(net, *batch(), rng())
    assert net.model.bn1.num_batches_tracked == 2
    assert method.encoder.model.bn1.num_batches_tracked == 5
    assert method.encoder.model.layer4[0].bn1.num_batches_tracked == 1  # mixed images only


@pytest.mark.parametrize("make", [cnn, vit, wrapped])
def test_the_encoder_is_a_copy_without_gradient_or_hooks(make):
    net = Net(make())
    net.loss(net(batch()[0]), batch()[1]).backward()
    method = load("automix")
    method.build(net)
    assert all(not p.requires_grad and p.grad is None for p in method.encoder.parameters())
    assert {id(p) for p in net.parameters()}.isdisjoint(id(p) for p in method.parameters())
    for (name, p), (other, q) in zip(net.state_dict().items(), method.encoder.state_dict().items()):
        assert name == other and torch.equal(p, q)
    method(net, *batch(), rng())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*net.modules(), *method.modules()])


def test_a_pass_that_stops_early_keeps_no_references():
    net = Net(cnn())
    x = batch()[0].clone()
    alive = weakref.ref(x)
    gc.disable()
    net.features(x, -2)
    del x
    gone = alive() is None
    gc.enable()
    assert gone


def test_the_state_can_be_saved_and_loaded():
    net, method = built()
    method.head.weight.data.add_(1)
    _, other = built()
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), other.state_dict().values()))
    assert torch.equal(method.mix(net, *batch(), rng())[0], other.mix(net, *batch(), rng())[0])


def test_a_momentum_of_one_freezes_generator_and_encoder():
    net, method = built(momentum=1.0)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    losses = method(net, *batch(), rng())
    sum(losses.values()).backward()
    method.after_step(net)
    assert set(losses) == {"mix", "onehot"} and not method.encoder.training
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert {name for name, p in method.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_update_prob_is_drawn_equally_on_all_ranks():
    net, method = built(update_prob=0.5)
    ran = []
    for process in range(2):
        steps = []
        for step in range(8):
            method.common_rng = rng(step)
            losses = method(net, *batch(), rng(100 * process + step))
            assert losses["mask"].requires_grad
            steps.append("generator" in losses)
        ran.append(steps)
    assert ran[0] == ran[1] and 0 < sum(ran[0]) < 8


@pytest.mark.parametrize("count, training", [(1, True), (6, False)])
def test_one_image_or_eval_mode_is_the_plain_loss(count, training):
    net, method = built(vit)
    net.eval()
    x, y = batch(count)
    losses = method.train(training)(net, x, y, rng())
    assert set(losses) == {"mix"} and torch.equal(losses["mix"], net.loss(net(x), y))


def test_per_image_draws_lam_per_row_and_prob_skips_rows():
    net, method = built(per_image=True, prob=0.5)
    x, y = batch(30)
    mixed, mix = method.mix(net, x, y, rng())
    spared = mix.lam == 1
    assert 0 < spared.sum() < 30 and mix.lam.unique().numel() > 5
    assert torch.equal(mixed[spared], x[spared])
    assert all(loss.isfinite() for loss in method(net, x, y, rng()).values())


def test_the_encoder_runs_in_the_networks_precision():
    net, method = built()
    net.precision = torch.bfloat16
    losses = method(net, *batch(), rng())
    assert method.encoder.precision is torch.bfloat16
    assert all(loss.dtype == torch.float32 for loss in losses.values())


@pytest.mark.parametrize("wrong", [{"mask_schedule": "linear"}, {"upsample": "cubic"}, {"momentum": 0.9999999}])
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        load("automix", **wrong)


def test_a_network_without_stages_is_rejected_with_its_name():
    net = Net(nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES)))
    with pytest.raises(ValueError, match="automix"):
        load("automix").build(net)


# github.com/Westlake-AI/openmixup at 37e1372, models/classifiers/automix.py, made the golden numbers: the lines of
# pixel_mixup that adjust mask_bb, with lam[0] = 0.5; the first eight of each mask's 16 values.
ADJUSTED = (
    (0.48993, 0.6436, 0.68098, 0.57377, 0.40312, 0.29816, 0.33833, 0.49323),
    (0.66399, 0.55805, 0.3962, 0.30092, 0.34432, 0.49356, 0.63569, 0.66316),
)


def test_rescaled_masks_match_the_authors():
    wave = (torch.arange(32, dtype=torch.float64) * 0.9).sin() / 4
    mask = (wave + torch.tensor([0.35, 0.65]).repeat_interleave(16)).view(2, 1, 4, 4).float()
    found = rescale_mask(mask, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found.flatten(1)[:, :8], torch.tensor(ADJUSTED), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_any_mask_can_be_rescaled(lam, level):
    found = rescale_mask(torch.full((2, 1, 4, 4), level), torch.tensor([lam, lam]))
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.tensor([lam, lam]))


def test_mask_adjust_is_the_share_of_batches_with_rescaled_masks():
    net, method = built(mask_adjust=0.5, lam_margin=0.0)
    x, y = batch()
    near = 0
    for seed in range(60):
        _, mix = method.mix(net, x, y, rng(seed))
        near += bool((mix.mask.mean((1, 2, 3)) - mix.lam).abs().max() < 1e-5)
    assert 10 < near < 50


def test_with_onehot_mix_the_head_is_trained_on_mixed_images():
    net, method = built(onehot_mix=True)
    x, y = batch()
    method.onehot_loss(net, x, y, rng()).backward()
    assert with_gradient(method.head)
    net.model.eval()
    mixed, mix = method.onehot_method.mix(net, x, y, rng(3))
    expected = net.loss(method.head(net.outputs(mixed).pooled), mix(y))
    torch.testing.assert_close(method.onehot_loss(net, x, y, rng(3)), expected)
    assert not torch.equal(mixed, x)


def test_mask_adjust_is_rejected_for_many_images():
    with pytest.raises(ValueError, match="mask_adjust is 0.5"):
        load("adautomix", mask_adjust=0.5)
