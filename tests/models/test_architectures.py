"""Our networks keep timm's contract and have the published number of parameters."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from hf_mixup.models import architectures as networks
from hf_mixup.models.architectures.resnet import CifarResNet
from hf_mixup.models.architectures.wide_resnet import WideResNet
from hf_mixup.models.safe_load import meta_device

SMALL = {  # arguments that make the large networks small
    "cifar_resnet18": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)},
    "cifar_resnext50_32x4d": {"layers": (1, 1, 1, 1), "channels": (16, 16, 16, 32)},
    "cifar_convnext_tiny": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    "wrn_28_8": {"layers": (2, 2, 2), "channels": (16, 24, 32)},
    "mini_resnet": {},
    "mini_vit": {"depth": 3},
}
PARAMETERS = [  # name, classes, arguments, published number or own count
    ("cifar_resnet18", 10, {}, 11_173_962),  # kuangliu/pytorch-cifar: 11.17 M
    ("cifar_resnet18", 100, {}, 11_220_132),
    ("cifar_resnext50_32x4d", 100, {}, 25_028_904 - 900 * 2049 - 40 * 3 * 64),  # torchvision's minus classes and stem
    ("cifar_convnext_tiny", 100, {}, 28_589_128 - 900 * 769 - 7 * 3 * 96),  # torchvision's minus classes and stem
    ("wrn_28_8", 100, {}, 23_401_012),  # the paper's 23.4 M; this and the next two by its formula
    ("wrn_28_8", 10, {"channels": (160, 320, 640)}, 36_479_194),  # WRN-28-10: 36.48 M
    ("wrn_28_8", 10, {"layers": (6, 6, 6), "channels": (64, 128, 256)}, 8_949_210),  # WRN-40-4: the paper's 8.9 M
]


def small(name, **arguments):
    """The network, in a small version."""
    return timm.create_model(name, num_classes=5, **{**SMALL[name], **arguments})


def test_every_network_is_registered_without_weights():
    assert sorted(networks.__all__) == sorted(SMALL)
    assert all(timm.is_model(name) and not timm.is_model_pretrained(name) for name in SMALL)


@pytest.mark.parametrize("name, classes, arguments, count", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name, classes, arguments, count):
    with meta_device():
        network = timm.create_model(name, num_classes=classes, **arguments)
    assert sum(value.numel() for value in network.parameters()) == count


def test_cifar_convnext_differs_from_timm_only_in_the_stem():
    with meta_device():
        ours, theirs = (timm.create_model(name, num_classes=10) for name in ("cifar_convnext_tiny", "convnext_tiny"))
    differing = {key for key, value in ours.state_dict().items() if value.shape != theirs.state_dict()[key].shape}
    assert differing == {"stem.0.weight"} and ours.stem[0].kernel_size == (3, 3) and ours.stem[0].stride == (1, 1)


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("name", SMALL)
def test_feature_info_has_the_shapes_of_the_maps(name, size):
    network = small(name, **({"img_size": size} if name == "mini_vit" else {})).eval()
    seen = {}
    for info in network.feature_info:
        keep = lambda module, inputs, output, key=info["module"]: seen.update({key: output.shape})  # noqa: E731
        network.get_submodule(info["module"]).register_forward_hook(keep)
    assert network(torch.rand(2, 3, size, size)).shape == (2, 5)
    for info in network.feature_info:
        down = size // info["reduction"]  # strided convolutions round up, patches down
        side = down if name == "cifar_convnext_tiny" else -(-size // info["reduction"])
        tokens = (2, side * side + 1, info["num_chs"])
        maps = (2, info["num_chs"], side, side)
        assert tuple(seen[info["module"]]) == (tokens if name == "mini_vit" else maps)


@pytest.mark.parametrize("name", SMALL)
def test_forward_is_forward_head_of_forward_features(name):
    network = small(name).eval()
    x = torch.rand(2, 3, 32, 32)
    features = network.forward_features(x)
    assert torch.equal(network.forward_head(features), network(x))
    assert network.forward_head(features, pre_logits=True).shape == (2, network.head_hidden_size)
    assert network.num_features == network.head_hidden_size == network.get_classifier().in_features


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_can_be_replaced_and_removed(name):
    network = small(name).eval()
    network.reset_classifier(9)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 9)
    network.reset_classifier(0)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, network.num_features)


@pytest.mark.parametrize("name", SMALL)
def test_default_cfg_names_the_first_and_the_last_layer(name):
    network = small(name, in_chans=1)
    cfg = network.pretrained_cfg
    assert network.get_submodule(cfg["first_conv"]).in_channels == 1
    assert network.get_submodule(cfg["classifier"]) is network.get_classifier()
    assert cfg["crop_pct"] == 1.0 and len(cfg["mean"]) == len(cfg["std"]) == 3 and "url" not in cfg


@pytest.mark.parametrize("name", SMALL)
def test_intermediates_are_the_features_of_feature_info(name):
    network = small(name).eval()
    x = torch.rand(2, 3, 32, 32)
    last, features = network.forward_intermediates(x)
    assert torch.equal(last, network.forward_features(x))
    expected = [(info["num_chs"], 32 // info["reduction"]) for info in network.feature_info]
    assert [(value.shape[1], value.shape[2]) for value in features] == expected
    chosen = network.forward_intermediates(x, indices=[0, -1], intermediates_only=True)
    assert [value.shape for value in chosen] == [features[0].shape, features[-1].shape]
    final = network.forward_intermediates(x, indices=1, intermediates_only=True)
    assert [value.shape for value in final] == [features[-1].shape]


def test_wide_resnet_stops_after_the_last_requested_map():
    network, x, ran = small("mini_resnet").eval(), torch.rand(2, 3, 32, 32), []
    network.stages[2].register_forward_hook(lambda *_: ran.append(True))
    last, maps = network.forward_intermediates(x, [0, 2], stop_early=True)
    assert torch.equal(last, maps[-1]) and ran == []
    _, [normalised] = network.forward_intermediates(x, [3], norm=True)
    assert torch.equal(normalised, network.forward_features(x))


@pytest.mark.parametrize("name", SMALL)
def test_features_only_returns_maps(name):
    network = small(name, features_only=True).eval()
    maps = network(torch.rand(2, 3, 32, 32))
    assert [value.shape[1] for value in maps] == network.feature_info.channels()


@pytest.mark.parametrize("name", SMALL)
def test_layer_decay_increases_from_stem_to_head(name):
    network = small(name)
    groups = create_optimizer_v2(network, opt="sgd", lr=0.1, layer_decay=0.75).param_groups
    scale = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    stem = scale[id(network.get_submodule(network.pretrained_cfg["first_conv"]).weight)]
    head = scale[id(network.get_classifier().weight)]
    assert head == 1.0 and stem == min(scale.values()) and len(set(scale.values())) >= 5


@pytest.mark.parametrize("name", SMALL)
def test_gradient_checkpointing_keeps_the_gradient(name):
    torch.manual_seed(0)
    network, x = small(name), torch.rand(4, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        loss = network(x).square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients))


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_is_random_only_in_training(name):
    torch.manual_seed(0)
    network, x = small(name, drop_path_rate=0.9), torch.rand(8, 3, 32, 32)
    for key, value in network.named_parameters():  # branches initialised to zero would hide it
        if key.endswith(("bn2.weight", "bn3.weight", "gamma")):
            torch.nn.init.ones_(value)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", SMALL)
def test_transformers_wraps_our_networks(name):
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL[name].items()}
    config = TimmWrapperConfig(architecture=name, num_labels=5, model_args=arguments)
    model = AutoModelForImageClassification.from_config(config).eval()
    output = model(torch.rand(2, 3, 32, 32), output_hidden_states=True)
    assert output.logits.shape == (2, 5) and len(output.hidden_states) == len(model.timm_model.feature_info)


def test_pre_activation_is_shared_with_the_shortcut():
    network = WideResNet(layers=(1,), channels=(32,)).eval()
    block, seen = network.stages[0].blocks[0], []
    for module in (block.conv1, block.downsample.conv):
        module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(torch.randn(2, 3, 8, 8))
    assert torch.equal(*seen) and (seen[0] >= 0).all()


def test_weights_are_initialised_like_timms():
    torch.manual_seed(0)
    network = timm.create_model("cifar_resnet18", num_classes=10)
    assert isinstance(network, CifarResNet)
    std = (2 / (9 * 64)) ** 0.5  # kaiming, fan-out
    assert network.conv1.weight.std().item() == pytest.approx(std, rel=0.05)
    assert network.layer1[0].bn2.weight.abs().max() == 0
