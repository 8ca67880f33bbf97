"""Editing hidden layers as feature maps (B, C, h, w), for CNNs and transformers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ._base import Method, Net
from ._mixblock import without_autocast

Edit = Callable[[Tensor], Tensor]


@contextmanager
def editing_map(net: Net, layer: int | str, size: tuple[int, int], edit: Edit, edit_prefix: Edit) -> Iterator[None]:
    """Apply `edit` to the map (B, C, h, w) of a layer in every pass inside the context, in float32.

    `size`: height and width of the images. `edit_prefix` is applied to class and distillation tokens (B, T, C).
    """

    def change(hidden: Tensor) -> Tensor:
        with without_autocast(hidden.device):
            full = hidden.float()
            if hidden.dim() == 3:
                prefix, tokens = full.tensor_split([net.architecture.prefix_tokens], 1)
                height = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
                changed = edit(tokens.mT.unflatten(2, (height, -1))).flatten(2).mT
                changed = torch.cat([edit_prefix(prefix), changed], 1)
            elif net.architecture.channels_last:
                changed = edit(full.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            else:
                changed = edit(full)
            return changed.to(hidden.dtype)

    with net.editing(layer, change):
        yield


def check_layers(method: Method) -> None:
    """Raise ValueError unless `method.layers` is a non-empty list of 0 (the input) and stage numbers from 1."""
    if not method.layers or min(method.layers) < 0:
        name = type(method).__name__
        raise ValueError(f"{name}'s layers are {method.layers!r}: give 0 for the input and k for stage k.")


def check_stages(method: Method, net: Net) -> None:
    """Raise ValueError if `method.layers` has a number above the network's number of stages."""
    stages = len(net.layers(for_method=method.name))
    if max(method.layers) > stages:
        raise ValueError(
            f"{method.name}'s layers are {method.layers!r}, but {net.name} has {stages} stages: "
            f"give method_args.layers up to {stages}."
        )


def last_mixable_layer(net: Net) -> int:
    """Index of the last layer whose map influences the logits: -1, or -2 for networks with a class token.

    After the last block only the class token is used; patches influence it through that block's attention.
    """
    return -2 if net.architecture.prefix_tokens else -1
