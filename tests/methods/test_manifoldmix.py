"""Manifold Mixup: mixing hidden states."""

import pytest
import timm
import torch
from torch import nn

from hf_mixup import Net, load

KINDS = ("cnn", "vit")


class Stages(nn.Module):
    """Linear stages followed by a nonlinear head, with the metadata of a timm network."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2)
        self.head = nn.Linear(4, 5)
        self.feature_info = [{"module": "first"}, {"module": "second"}]

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.second(self.first(x)).relu().mean((2, 3)))


# vikasverma1077/manifold_mixup, supervised/utils.py at 870ef77, mixup_process(hidden, eye(3), lam=0.3), with
# partners [1, 2, 0]: the first two rows of the hidden states, and the targets.
HIDDEN = [0.878795, -0.262422, -0.811172, 0.471453, 0.689683, -0.649177, -0.522397, 0.783793]
HIDDEN += [0.320423, -0.866362, -0.097171, 0.891402, -0.132534, -0.857249, 0.353438, 0.766172]
TARGETS = [[0.3, 0.7, 0.0], [0.0, 0.3, 0.7], [0.7, 0.0, 0.3]]


class Given(nn.Module):
    """A stage with a constant output."""

    def forward(self, x):
        return torch.sin(torch.arange(24) * 1.7 + 1.0).reshape(3, 2, 2, 2)


def test_the_second_stage_and_the_loss_get_what_the_authors_make(monkeypatch, images, rng):
    model, given = Stages(), []
    model.first, model.second = Given(), nn.Conv2d(2, 4, 1)
    model.second.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    net = Net(model, loss=lambda logits, y: given.append(y) or logits.sum(1))
    method = load("manifoldmix", layers=(1,))
    monkeypatch.setattr(method, "draw", lambda *_: (torch.full((3,), 0.3), torch.tensor([1, 2, 0])))
    method(net, images(3), torch.eye(3), rng)
    hidden, targets = given
    torch.testing.assert_close(hidden[:2].flatten(), torch.tensor(HIDDEN), atol=2e-6, rtol=0)
    torch.testing.assert_close(targets, torch.tensor(TARGETS))


@pytest.mark.parametrize("kind", KINDS)
def test_layer_zero_is_exactly_mixup(kind, make_net, images, one_hot, rng):
    net = make_net(kind)
    net.model.eval()
    manifold, plain = load("manifoldmix", alpha=1.0, layers=(0,)), load("mixup", alpha=1.0)
    for _ in range(3):
        state = rng.get_state()
        torch.randint(1, (), generator=rng)  # consume the draw of the layer
        expected = plain(net, images(), one_hot(), rng)["mix"]
        rng.set_state(state)
        assert torch.equal(manifold(net, images(), one_hot(), rng)["mix"], expected)


@pytest.mark.parametrize("layer", [1, 2])
def test_after_linear_stages_it_equals_mixup_of_the_images(layer, images, one_hot, seeded):
    torch.manual_seed(0)
    net = Net(Stages())
    losses = [
        load("manifoldmix", layers=(chosen,), per_image=True)(net, images(), one_hot(), seeded(1))["mix"]
        for chosen in (0, layer)
    ]
    torch.testing.assert_close(losses[1], losses[0])


def test_after_nonlinear_stages_it_differs_from_mixup_of_the_images(make_net, images, one_hot, seeded):
    net = make_net("vit")
    first, second = (
        load("manifoldmix", layers=(layer,))(net, images(), one_hot(), seeded(1))["mix"] for layer in (0, 2)
    )
    assert abs(first - second) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_requested_layer_is_mixed_and_no_earlier_one(kind, layer, make_net, images, one_hot, rng):
    net = make_net(kind)
    net.model.eval()
    x, outputs = images(), {}
    modules = [known.module for known in net.architecture.layers]
    hooks = [
        m.register_forward_hook(lambda m, args, out, i=i: outputs.__setitem__(i, out)) for i, m in enumerate(modules)
    ]
    net(x)
    clean = dict(outputs)
    outputs.clear()
    method = load("manifoldmix", layers=(layer,))
    method(net, x, one_hot(), rng)
    for hook in hooks:
        hook.remove()
    equal = [torch.equal(outputs[i], clean[i]) for i in range(len(modules))]
    # these hooks run before the edit, so that they record the clean output of stage `layer`
    assert equal == [i < layer for i in range(len(modules))]


def test_hidden_states_and_labels_are_mixed_with_the_same_lam(make_net, images, one_hot, seeded):
    """With one stage and a linear classifier, logits are mixed with the labels' lam."""
    given = []

    def remember(logits, y):
        given.append((logits.detach(), y))
        return logits.sum(1)

    net = make_net("cnn", loss=remember)
    net.model.eval()
    last = len(net.architecture.layers)
    y = torch.eye(6)
    load("manifoldmix", layers=(last,), per_image=True)(net, images(), y, seeded(2))
    logits, target = given[0]
    torch.testing.assert_close(logits, target @ net(images()).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_drawn_and_one_at_a_time(kind, make_net, images, one_hot, rng):
    net, method, hooked = make_net(kind), load("manifoldmix"), []
    # the additional hook of `editing` is on the stage that was drawn; there is none for the input
    for known in net.architecture.layers:
        known.module.register_forward_hook(lambda module, *_: hooked.append(len(module._forward_hooks) - 1))
    drawn = []
    for _ in range(40):  # a layer is missed with probability 3 (2/3)^40, one in 3.7 million
        hooked.clear()
        method(net, images(2), one_hot(2), rng)
        assert sum(hooked) <= 1
        drawn.append(hooked.index(1) + 1 if 1 in hooked else 0)
    assert set(drawn) == {0, 1, 2}


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_gradient_reaches_both_images_of_a_pair(layer, make_net, images, one_hot, rng):
    """The loss of one row has gradient in its own image and in its partner's, and in no other."""

    def first_row_only(logits, y):
        return (y * logits.log_softmax(-1)).sum(-1) * (torch.arange(len(y)) == 0)

    net = make_net("cnn", loss=first_row_only)
    net.model.eval()  # so that BatchNorm does not couple the rows
    x = images().requires_grad_()
    load("manifoldmix", layers=(layer,), pairing="halves")(net, x, one_hot(), rng)["mix"].backward()
    assert x.grad.flatten(1).abs().sum(1).gt(0).tolist() == [True, False, False, True, False, False]


def test_the_hook_is_gone_after_an_exception_in_the_network(make_net, images, one_hot, rng):
    net = make_net("cnn")
    with pytest.raises(RuntimeError):
        load("manifoldmix", layers=(2,))(net, images(channels=4), one_hot(), rng)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_stage_number_above_the_networks_is_rejected_at_build(make_net):
    with pytest.raises(ValueError, match="9.*has 4 stages.*up to 4"):
        load("manifoldmix", layers=(0, 9)).build(make_net("cnn"))


@pytest.mark.parametrize("layers", [(), (-1,), (0, -2)])
def test_invalid_layers_are_rejected(layers):
    with pytest.raises(ValueError, match="layers"):
        load("manifoldmix", layers=layers)


def test_a_network_without_stages_is_rejected_with_its_name():
    with pytest.raises(ValueError, match="manifoldmix requires a list of stages.*Sequential"):
        load("manifoldmix").build(Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 5))))


def test_stages_of_swin_are_mixed(images, one_hot, rng):
    torch.manual_seed(0)
    args = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
    net = Net(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **args))
    method = load("manifoldmix", layers=(1, 2))
    method.build(net)
    method(net, images(size=(32, 32)), one_hot(), rng)["mix"].backward()
