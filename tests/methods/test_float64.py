"""No method makes float64 tensors on the device: Apple's GPUs have none. Here the CPU stands for such a device."""

import pytest
import torch
from fixtures.watch import Watch, storages
from rows import row
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hf_mixup import available, load
from hf_mixup.methods.fmix import fmix
from hf_mixup.methods.puzzlemix import cut_mask
from hf_mixup.methods.smmix import find_windows
from hf_mixup.ops import precision
from hf_mixup.ops.assignment import assign
from hf_mixup.ops.fields import spectrum_size
from hf_mixup.ops.saliency import fine_grained


class WithoutFloat64(Watch):
    """Fails when a float64 tensor is on the device: one of the given ones, moved, created or computed there.

    Single numbers, which torch passes to a device's kernels by value, may be float64.
    """

    def __init__(self, *tensors: Tensor):
        super().__init__(*tensors)
        self.python = Moves(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **kwargs or {})
        if self.holds((args, kwargs)):
            self.put([args, kwargs, output], str(function))
            self.kept.update({storage._cdata: storage for storage in storages(output)})
        return output

    def put(self, values, how: str) -> None:
        """Fail if one of the values is a float64 tensor and not a single number."""
        wide = [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.dtype == torch.float64]
        assert not any(t.dim() > 0 for t in wide), f"{how} has a float64 tensor on the device"


class Moves(TorchFunctionMode):
    """Watches the results of calls with a `torch.device`: copies of them, since a move to the CPU is no copy."""

    def __init__(self, watch: WithoutFloat64):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **kwargs or {})
        devices = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.device)]
        if devices and isinstance(output, Tensor):
            output = output.clone()
            self.watch.put(output, getattr(function, "__name__", "a function"))
            self.watch.kept[output.untyped_storage()._cdata] = output.untyped_storage()
        return output


@pytest.fixture(autouse=True)
def device_without_float64(monkeypatch):
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", ("cpu",))


def cases():
    for name in available():
        for per_image in (False, True):
            yield name, {"per_image": per_image}


@pytest.mark.parametrize(("name", "changes"), cases(), ids=str)
def test_a_step_of_a_method_makes_no_float64_tensor_on_the_device(name, changes, make_net, images, one_hot, seeded):
    net = make_net(row(name)["nets"][0], (16, 16))
    method = load(name, **row(name)["args"] | changes)
    method.build(net)
    method.train()
    x, y = images(), one_hot()
    for seed in range(4):
        method.common_rng = seeded(seed)
        with WithoutFloat64(x, y, *net.state_dict().values(), *method.state_dict().values()):
            losses = method(net, x, y, seeded(seed))
            sum(losses.values()).backward()


def test_functions_with_draws_on_the_device_make_no_float64_tensor(images, rng, seeded):
    x, lam, partner = images(6), torch.rand(6, generator=rng), torch.arange(6).roll(1)
    light = (255 * torch.rand(1, 260, 260, generator=rng)).round()
    noise = torch.randn(6, *spectrum_size((16, 16), 3.0), generator=rng)
    with WithoutFloat64(x, lam, partner, light, noise):
        fmix(x, lam, partner, noise)
        fmix(x, lam, partner, noise, max_soft=0.5)
        fine_grained(light)


def test_results_without_float64_are_those_with_it(images, rng, monkeypatch):
    cost = torch.rand(20, 12, 12, generator=rng)
    keep, give = torch.rand(2, 5, 4, 4, generator=rng)
    edges = 0.1 * torch.rand(2, 5, 3, 4, generator=rng)
    lam = torch.tensor([0.0, 1.0, 1e-7, 1 - 1e-7, 0.3])
    attention = torch.rand(5, 8, 8, generator=rng)

    def results():
        assigned = assign(cost)
        mask = cut_mask(keep, give, edges[0], edges[1].transpose(1, 2), lam, 0.2, 3)
        return (
            cost.gather(2, assigned[..., None]).sum(),
            mask,
            find_windows(attention, torch.tensor([1, 2, 3, 4, 5]), True),
        )

    narrow = results()
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", ("mps",))
    for one, other in zip(narrow, results(), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-6)


def test_watched_float64_tensors_are_found():
    x = torch.rand(4)
    for make in (lambda: x.double(), lambda: x * torch.rand(4).double(), lambda: torch.rand(4).double().to(x.device)):
        with pytest.raises(AssertionError, match="has a float64 tensor on the device"), WithoutFloat64(x):
            make()
