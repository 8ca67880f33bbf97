"""timm networks with their published weights, which are downloaded with retries and timeouts."""

import timm
import torch
from torch import nn

from ..hub.retry import retried


def create_network(name: str, pretrained: bool, **args) -> nn.Module:
    """`timm.create_model`. A try that failed leaves torch's random state as it was, so that the next one is equal."""
    if not pretrained:
        return timm.create_model(name, **args)
    state = torch.get_rng_state()

    def create() -> nn.Module:
        torch.set_rng_state(state)
        return timm.create_model(name, pretrained=True, **args)

    return retried(create, f"download the weights of {name!r}")
