"""Training of the classifier only: the rest of the network, its backbone, is frozen and stays in eval mode."""

from torch import nn

from ..net import Net
from ..net.architecture import Architecture

BACKBONE = "backbone"  # the value of the field `freeze`


def check_freeze(freeze: str | None, architecture: Architecture) -> None:
    """Raise ValueError for an unknown value, and for a network without a linear classifier."""
    if freeze not in (None, BACKBONE):
        raise ValueError(f"freeze is {freeze!r}: give {BACKBONE!r}, or None to train the whole network.")
    if freeze and not architecture.classifiers:
        raise ValueError(
            f"freeze={freeze!r} trains a linear classifier only, and {architecture.name} has none: leave freeze out, "
            "or use a network that ends in nn.Linear."
        )


def freeze_backbone(net: Net) -> list[nn.Module]:
    """Set `requires_grad` to False for all parameters but the classifier's; return the modules to keep in eval mode."""
    kept = [module for classifier in net.architecture.classifiers for module in classifier.modules()]
    trained = {id(parameter) for module in kept for parameter in module.parameters()}
    for parameter in net.model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
    return [module for module in net.model.modules() if not any(module is other for other in kept)]
