"""Hidden layers seen as maps, whatever the network: for methods that treat places, not just numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ._mixblock import without_autocast

Edit = Callable[[Tensor], Tensor]


@contextmanager
def editing_map(net, layer: int | str, image: tuple[int, int], edit: Edit, edit_prefix: Edit) -> Iterator[None]:
    """Passes inside go on with `edit` of a layer's map (B, C, h, w), in float32, for images of that height and width.

    Class and distillation tokens (B, T, C), where the network has some, go through `edit_prefix`.
    """

    def change(hidden):
        with without_autocast(hidden.device):
            wide = hidden.float()
            if hidden.dim() == 3:
                prefix, tokens = wide.tensor_split([net.parts.prefix_tokens], 1)
                height = round((tokens.shape[1] * image[0] / image[1]) ** 0.5)
                changed = edit(tokens.mT.unflatten(2, (height, -1))).flatten(2).mT
                changed = torch.cat([edit_prefix(prefix), changed], 1)
            elif net.parts.channels_last:
                changed = edit(wide.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            else:
                changed = edit(wide)
            return changed.to(hidden.dtype)

    with net.editing(layer, change):
        yield


def check_layers(method) -> None:
    """ValueError unless a method's `layers`, of which it draws one, are 0 (the input) and numbers of stages."""
    if not method.layers or min(method.layers) < 0:
        name = type(method).__name__
        raise ValueError(f"{name}'s layers are {method.layers!r}: give 0 for the input and k for stage k.")


def check_stages(method, net) -> None:
    """ValueError if the network has fewer stages than a method's `layers` ask for."""
    stages = len(net.layers(for_method=method.name))
    if max(method.layers) > stages:
        raise ValueError(
            f"{method.name} is to mix after stage {max(method.layers)}, but {net.name} has {stages}: "
            f"give method_args.layers up to {stages}."
        )


def last_that_counts(net) -> int:
    """Number of the last layer whose map reaches the classifier.

    The last one; or the one before if a class token is read, since then only the last block's attention looks at maps.
    """
    return -2 if net.parts.prefix_tokens else -1
