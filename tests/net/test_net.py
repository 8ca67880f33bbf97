"""Net: one interface to networks of timm and transformers, without side effects."""

import copy

import pytest
import timm
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_mixup import Net
from hf_mixup.ops.losses import soft_cross_entropy

SIZE, CLASSES, COUNT = 32, 5, 3
SWIN = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4, "patch_size": 4}
TOKENS = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SQUARE = {"image_size": SIZE, "patch_size": 8, "num_labels": CLASSES}


def timm_swin(size=SIZE, **args):
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES, img_size=size, **{**SWIN, **args})


def native_swin(size=SIZE, **args):
    config = SwinConfig(image_size=size, num_labels=CLASSES, **{**SWIN, "depths": [2, 2], "num_heads": [2, 2], **args})
    return SwinForImageClassification(config)


def native_convnext():
    config = ConvNextConfig(
        hidden_sizes=[8, 8, 16], depths=[1, 1, 1], num_stages=3, num_labels=CLASSES, image_size=SIZE
    )
    return ConvNextForImageClassification(config)


def native_resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=CLASSES))


def efficientnet():
    return timm.create_model("test_efficientnet", num_classes=CLASSES)


def convnext():
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
    return timm.create_model("convnext_atto", num_classes=CLASSES, **sizes)


# channels and reduction of each layer, from the papers
NETWORKS = {
    "timm resnet": (lambda make: make["resnet"]((SIZE, SIZE)), [(8, 4), (8, 8), (16, 16), (16, 32)]),
    "timm vit": (lambda make: make["vit"]((SIZE, SIZE)), [(24, 4)] * 3),
    "timm convnext": (lambda make: convnext(), [(8, 4), (8, 8), (16, 16), (16, 32)]),
    "timm swin": (lambda make: timm_swin(), [(8, 4), (16, 8)]),
    "timm efficientnet": (lambda make: efficientnet(), [(16, 2), (24, 4), (32, 8), (48, 16), (64, 32)]),
    "native resnet": (lambda make: native_resnet(), [(8, 4), (8, 8), (16, 16)]),
    "native convnext": (lambda make: native_convnext(), [(8, 4), (8, 8), (16, 16)]),
    "native vit": (lambda make: ViTForImageClassification(ViTConfig(**TOKENS, **SQUARE)), [(16, 8)] * 3),
    "native deit": (lambda make: DeiTForImageClassification(DeiTConfig(**TOKENS, **SQUARE)), [(16, 8)] * 3),
    "native swin": (lambda make: native_swin(), [(8, 4), (16, 8)]),
}
WITH_ATTENTION = [name for name in NETWORKS if name.split()[1] in ("vit", "deit", "swin")]
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture
def net_of(resnet_model, vit_model):
    def make(name, **args):
        torch.manual_seed(0)
        return Net(NETWORKS[name][0]({"resnet": resnet_model, "vit": vit_model}), **args)

    return make


@pytest.fixture
def x(images):
    return images(COUNT, (SIZE, SIZE))


def flags(module):
    return {name: part.training for name, part in module.named_modules()}


def hooks(module):
    return [h for part in module.modules() for h in (*part._forward_hooks, *part._forward_pre_hooks)]


def swin_maps(swin, x):
    """Maps of the last block of each stage."""
    (hidden, grid), maps = swin.embeddings(x), []
    for stage in swin.encoder.layers:
        for block in stage.blocks:
            hidden = block(hidden, grid)[0]
        maps.append(hidden.transpose(1, 2).unflatten(2, grid))
        if stage.downsample is not None:
            hidden, grid = stage.downsample(hidden, grid), tuple((side + 1) // 2 for side in grid)
    return maps


def reference_maps(net, x):
    """Maps of all layers, from the libraries' own functions."""
    if hasattr(net.model, "forward_intermediates"):
        return net.model.forward_intermediates(x, intermediates_only=True)
    if hasattr(net.model, "swin"):  # its hidden states are downsampled for the next stage
        return swin_maps(net.model.swin, x)
    output = net.model(x, output_hidden_states=True)
    maps = []
    for state in output.hidden_states[1:]:
        if state.dim() == 3:
            tokens = state[:, 2:] if net.model.config.model_type == "deit" else state[:, 1:]
            state = tokens.transpose(1, 2).unflatten(2, (SIZE // 8, SIZE // 8))
        maps.append(state)
    return maps


# Parts


@every_network
def test_logits_equal_the_models_logits(name, net_of, x):
    net = net_of(name).eval()
    output = net.model(x)
    assert torch.equal(net(x), getattr(output, "logits", output)) and net(x).shape == (COUNT, CLASSES)


@every_network
def test_layers_are_listed_from_input_to_output(name, net_of):
    net, expected = net_of(name), NETWORKS[name][1]
    found = [(layer.channels, layer.reduction) for layer in net.layers()]
    assert found == expected
    assert len({layer.name for layer in net.layers()}) == len(found)


@every_network
def test_layer_sizes_equal_the_shapes_of_features(name, net_of, x):
    net = net_of(name).eval()
    for i, layer in enumerate(net.layers()):
        shape = net.features(x, i).shape
        assert shape[:2] == (COUNT, layer.channels)
        assert shape[2:] == (SIZE // layer.reduction, SIZE // layer.reduction)


@every_network
def test_features_equal_the_librarys_own(name, net_of, x):
    net = net_of(name).eval()
    count = len(net.layers())
    for i, reference in enumerate(reference_maps(net, x)[-count:]):
        if "timm vit" not in name or i + 1 < count:  # timm's last is normalised
            torch.testing.assert_close(net.features(x, i), reference, atol=1e-5, rtol=1e-5)


@every_network
def test_a_layer_is_selected_by_number_or_name(name, net_of, x):
    net = net_of(name).eval()
    names = [layer.name for layer in net.layers()]
    assert torch.equal(net.features(x, names[-1]), net.features(x, -1))
    assert torch.equal(net.features(x, 0), net.features(x, -len(names)))


@every_network
def test_features_propagate_gradients_to_images_and_parameters(name, net_of, x):
    net = net_of(name).eval()
    x = x.clone().requires_grad_()
    net.features(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and any(p.grad is not None for p in net.parameters())


@every_network
def test_logits_are_the_classifier_of_the_pooled_features(name, net_of, x):
    net = net_of(name).eval()
    logits, pooled, tokens = net.outputs(x)
    assert pooled.shape == (COUNT, net.num_features) and net.num_classes == CLASSES
    torch.testing.assert_close(net.classifier(pooled), logits)
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(tokens, net.features(x, -1))


@every_network
def test_an_edited_output_is_the_input_of_later_layers(name, net_of, x):
    """Reversing the rows of any layer reverses the rows of the logits."""
    net = net_of(name).eval()
    for i in range(len(net.layers())):
        with net.editing(i, lambda hidden: hidden.flip(0)):
            edited = net(x)
        torch.testing.assert_close(edited, net(x).flip(0), atol=1e-5, rtol=1e-5)
    assert not hooks(net)


def test_the_map_of_a_wide_image_is_wide(vit_model, images):
    net = Net(vit_model((12, 20))).eval()
    maps = net.features(images(2, (12, 20)))
    assert maps.shape == (2, 24, 3, 5) and net.attention(images(2, (12, 20))).shape == (2, 3, 5)
    assert net.image_size == (12, 20)


def test_patches_have_the_same_place_in_map_and_image(vit_model, images):
    """Without attention in the first block, only the token of a changed patch changes."""
    model = vit_model((12, 20))
    nn.init.zeros_(model.blocks[0].attn.proj.weight)
    net, x = Net(model).eval(), images(1, (12, 20))
    changed = x.clone()
    changed[0, :, 4:8, 16:20] += 1
    difference = (net.features(changed, 0) - net.features(x, 0)).abs().sum((0, 1))
    assert difference.nonzero().tolist() == [[1, 4]]


def test_a_wrapped_timm_model_is_read_like_the_model_itself(x):
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    args = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
    config = TimmWrapperConfig(architecture="resnet18", model_args=args, num_labels=CLASSES)
    net = Net(TimmWrapperForImageClassification(config)).eval()
    assert net(x).shape == (COUNT, CLASSES) and net.num_classes == CLASSES
    assert net.features(x, 1).shape == (COUNT, 8, 4, 4)
    assert net.saliency(x, torch.eye(CLASSES)[:COUNT]).shape == (COUNT, SIZE, SIZE)


def test_a_distilled_network_is_read(x):
    args = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": CLASSES}
    net = Net(timm.create_model("deit_tiny_distilled_patch16_224", **args)).eval()
    assert net.attention(x).shape == (COUNT, 4, 4) and net(x).shape == (COUNT, CLASSES)


# Attention


def class_token_attention(attention, prefix):
    """(B, h, w) the attention of row 0 of (B, heads, T, T)."""
    row = attention.mean(1)[:, 0, prefix:]
    return (row / row.sum(1, keepdim=True)).unflatten(1, (int(row.shape[1] ** 0.5), -1))


def test_attention_of_timm_is_the_softmax_of_query_key_products(net_of, x):
    net = net_of("timm vit").eval()
    block, seen = net.model.blocks[-1], []
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(x)
    handle.remove()
    heads = block.attn.num_heads
    qkv = block.attn.qkv(block.norm1(seen[0])).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    attention = (qkv[0] @ qkv[1].transpose(-2, -1) / qkv.shape[-1] ** 0.5).softmax(-1)
    torch.testing.assert_close(net.attention(x), class_token_attention(attention, 1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name, prefix", [("native vit", 1), ("native deit", 2)])
def test_attention_of_transformers_equals_output_attentions(name, prefix, net_of, x):
    net = net_of(name).eval()
    eager = copy.deepcopy(net.model)
    eager.set_attn_implementation("eager")
    expected = class_token_attention(eager(x, output_attentions=True).attentions[-1], prefix)
    torch.testing.assert_close(net.attention(x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_attention_sums_to_one_and_restores_hooks_modes_and_config(name, net_of, x):
    net = net_of(name).train()
    fused = [getattr(module, "fused_attn", None) for module in net.modules()]
    modes, config = flags(net), copy.deepcopy(getattr(net.model, "config", None))
    attention = net.attention(x)
    assert attention.dim() == 3 and (attention >= 0).all() and not attention.requires_grad
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(COUNT))
    assert flags(net) == modes and not hooks(net)
    assert [getattr(module, "fused_attn", None) for module in net.modules()] == fused
    if config is not None:
        assert net.model.config._attn_implementation == config._attn_implementation
        assert all(m.config is net.model.config for m in net.modules() if type(m).__name__.endswith("Attention"))


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_captured_attention_is_that_of_the_last_pass(name, net_of, x):
    net = net_of(name).eval()
    with net.capturing_attention() as read_attention:
        logits = net(x)
        first = read_attention()
        net(x.flip(0))
        second = read_attention()
    torch.testing.assert_close(logits, net(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first, net.attention(x))
    torch.testing.assert_close(second, first.flip(0), atol=1e-5, rtol=1e-5)


def test_capturing_attention_keeps_gradients(net_of, x):
    net = net_of("native vit").train()
    with net.capturing_attention():
        net(x).sum().backward()
    assert all(p.grad is not None for name, p in net.model.named_parameters() if "attention" in name)


def test_capturing_attention_removes_hooks_after_an_exception(net_of, x):
    for name in WITH_ATTENTION:
        net = net_of(name)
        before = [getattr(module, "fused_attn", None) for module in net.modules()]
        with pytest.raises((RuntimeError, ValueError)), net.capturing_attention():
            net(x[:, :2])
        assert not hooks(net) and [getattr(module, "fused_attn", None) for module in net.modules()] == before


def swin_reference(windows, grid, window, shift, padded_before_shift):
    """(B, h, w) attention map from the window and position of each token: pad (before or after), shift, cut."""
    height, width = grid
    high, wide = -(-height // window), -(-width // window)
    place = torch.full((height, width), -1)
    tokens = torch.arange(height * width).view(height, width)
    padded = torch.full((high * window, wide * window), -1)
    if padded_before_shift:
        padded[:height, :width] = tokens
        padded = padded.roll((-shift, -shift), (0, 1))
    else:
        padded[:height, :width] = tokens.roll((-shift, -shift), (0, 1))
    for row in range(high * window):
        for column in range(wide * window):
            token = int(padded[row, column])
            if token >= 0:
                number = (row // window) * wide + column // window
                inside = (row % window) * window + column % window
                place[token // width, token % width] = number * window * window + inside
    # (B * windows, heads, T, T) -> attention that each token receives, mean over heads and queries
    received = windows.mean(1).mean(1).unflatten(0, (-1, high * wide)).flatten(1)
    found = received[:, place.flatten()].view(-1, height, width)
    return found / found.sum((1, 2), keepdim=True)


SWINS = [("timm", 32), ("native", 32), ("timm", 40), ("native", 40), ("timm", 24), ("native", 24)]


@pytest.mark.parametrize("library, size", SWINS)
def test_swin_windows_are_merged_in_their_place(library, size, images):
    """The one stage has 8x8, 10x10 (padded) or 6x6 patches, windows of 4 and, in its last block, a shift of 2."""
    torch.manual_seed(0)
    args = {"depths": [2], "num_heads": [2]} if library == "native" else {"depths": (2,), "num_heads": (2,)}
    net = Net((native_swin if library == "native" else timm_swin)(size, **args)).eval()
    # large weights, so that attention is far from uniform
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "q_proj" in name or "k_proj" in name or "qkv" in name:
                parameter.mul_(20)
    x, seen = images(COUNT, (size, size)), []
    if library == "native":
        net.model.set_attn_implementation("eager")
        attention = net.model(x, output_attentions=True).attentions[-1]
        seen.append(attention if torch.is_tensor(attention) else attention[-1])
    else:
        module = net.model.layers[-1].blocks[-1].attn
        module.fused_attn = False
        handle = module.attn_drop.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        net(x)
        handle.remove()
    grid = (size // 4, size // 4)
    expected = swin_reference(seen[0], grid, 4, 2, library == "native")
    torch.testing.assert_close(net.attention(x), expected, atol=1e-5, rtol=1e-4)


def test_swin_attention_has_the_size_of_the_image(images):
    """transformers' Swin takes any size; the windows are those of the image, not of the configuration."""
    torch.manual_seed(0)
    net = Net(native_swin(64, depths=[2], num_heads=[2])).eval()
    assert net.attention(images(2, (32, 32))).shape == (2, 8, 8)


# Saliency


def reference_saliency(net, x, y):
    model = copy.deepcopy(net.model).eval()
    x = x.clone().requires_grad_()
    output = model(x)
    loss = soft_cross_entropy(getattr(output, "logits", output), y).sum()
    return torch.autograd.grad(loss, x)[0].square().sum(1).sqrt()


@every_network
def test_saliency_is_the_norm_of_the_gradient_in_eval_mode(name, net_of, x):
    net, y = net_of(name).train(), torch.eye(CLASSES)[:COUNT]
    torch.testing.assert_close(net.saliency(x, y), reference_saliency(net, x, y), atol=1e-6, rtol=1e-4)


@every_network
def test_saliency_has_no_side_effects(name, net_of, x):
    net, y = net_of(name).train(), torch.eye(CLASSES)[:COUNT]
    frozen = next(m for m in net.modules() if "Norm" in type(m).__name__)
    frozen.eval()
    state, modes = copy.deepcopy(net.state_dict()), flags(net)
    saliency = net.saliency(x, y)
    assert saliency.shape == (COUNT, SIZE, SIZE) and not saliency.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert flags(net) == modes and not frozen.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not x.requires_grad and x.grad is None and not hooks(net)


def test_saliency_works_under_no_grad(net_of, x):
    net, y = net_of("timm resnet"), torch.eye(CLASSES)[:COUNT]
    with torch.no_grad():
        assert net.saliency(x, y).abs().sum() > 0


def test_saliency_of_an_image_is_independent_of_the_batch(net_of, x):
    net, y = net_of("timm resnet").train(), torch.eye(CLASSES)[:COUNT]
    torch.testing.assert_close(net.saliency(x[:1], y[:1]), net.saliency(x, y)[:1], atol=1e-6, rtol=1e-4)


def test_training_modes_are_restored_after_an_exception(net_of, x):
    net = net_of("timm resnet").train()
    net.model.bn1.eval()
    modes = flags(net)
    with pytest.raises(RuntimeError):
        net.saliency(x[:, :2], torch.eye(CLASSES)[:COUNT])
    assert flags(net) == modes


def test_measuring_layers_changes_no_buffer(net_of):
    net = net_of("timm resnet").train()
    state, modes = copy.deepcopy(net.state_dict()), flags(net)
    net.layers()
    assert flags(net) == modes and all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


# Copies, precision, errors


def test_a_copy_is_independent(net_of, x):
    net = net_of("timm resnet", label_smoothing=0.1).eval()
    net.precision = torch.bfloat16
    twin, before = net.copy(), net(x).detach()
    assert torch.equal(twin(x), before) and not any(p.requires_grad for p in twin.parameters())
    assert (twin.label_smoothing, twin.precision, twin.row_loss) == (0.1, torch.bfloat16, net.row_loss)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert torch.equal(twin(x), before)
    assert all(p.requires_grad for p in net.parameters())
    assert twin.features(x, 1).shape == net.features(x, 1).shape


def test_using_another_network_keeps_the_loss(net_of, x):
    net = net_of("timm resnet", label_smoothing=0.1)
    teacher = net.using(net_of("timm vit").model)
    assert teacher.label_smoothing == 0.1 and teacher.attention(x).shape == (COUNT, 8, 8)
    assert net.architecture.attention is None


@pytest.mark.parametrize("name", ["timm resnet", "native vit"])
def test_lower_precision_gives_float32_results(name, net_of, x):
    net, y = net_of(name).eval(), torch.eye(CLASSES)[:COUNT]
    full = net(x)
    net.precision = torch.bfloat16
    assert net(x).dtype == net.features(x).dtype == net.saliency(x, y).dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in net.outputs(x))
    assert not torch.equal(net(x), full)


class Unknown(nn.Module):
    """A network of neither library."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def test_an_unknown_network_can_be_trained_and_has_saliency(x):
    net, y = Net(Unknown()), torch.eye(CLASSES)[:COUNT]
    net.loss(net(x), y).backward()
    assert net.num_classes == CLASSES and net.saliency(x, y).shape == (COUNT, SIZE, SIZE)


@pytest.mark.parametrize("read", [lambda net, x: net.layers("automix"), lambda net, x: net.features(x)])
def test_a_network_without_stages_is_refused(read, x):
    with pytest.raises(ValueError, match="requires a list of stages.*Unknown.*timm network with `feature_info`"):
        read(Net(Unknown()), x)


def test_a_network_without_attention_is_refused(net_of, x):
    with pytest.raises(ValueError, match="attention.*resnet18.*ViT, DeiT or Swin"):
        net_of("timm resnet").attention(x)


def test_the_error_names_the_method():
    with pytest.raises(ValueError, match="^automix requires a list of stages"):
        Net(Unknown()).layers("automix")


def test_a_network_without_a_classifier_is_refused():
    with pytest.raises(ValueError, match="linear classifier.*Sequential"):
        _ = Net(nn.Sequential(nn.Conv2d(3, 4, 3))).classifier


@pytest.mark.parametrize("layer", [4, -5, "layer9", None])
def test_the_error_of_an_unknown_layer_lists_the_layers(layer, net_of):
    with pytest.raises(ValueError, match="no layer.*layer1"):
        net_of("timm resnet").layer(layer)
