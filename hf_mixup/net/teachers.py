"""Teacher networks, loaded by name."""

from pathlib import Path

import timm
import torch
from huggingface_hub.errors import HTTPError
from torch import nn

from ..errors import ModelError, ModelUnreachable
from ..hub.download import fetch
from ..hub.retry import is_transient
from ..models.safe_load import load_network
from ..models.timm_weights import create_network


def teacher(name: str, pretrained: bool = True) -> nn.Module:
    """The network of a timm name, a folder or a Hub id. Torch's global random state is unchanged.

    `pretrained`: load the published weights of a timm name; a folder or Hub id always has its weights. A network with
    published weights has the attribute `reloaded_by_name`: checkpoints do not store its
    weights, because they can be loaded again by name.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            if timm.is_model(name):
                network = create_network(name, pretrained)
                network.reloaded_by_name = pretrained
                return network
            if "/" in name or Path(name).is_dir():
                network = load_network(name, fetch(name), complete=False)
                network.reloaded_by_name = True
                return network
    except (OSError, RuntimeError, HTTPError, ModelError) as error:
        reason = str(error).strip().partition("\n")[0]
        unreachable = isinstance(error, ModelUnreachable) or is_transient(error)
        raise (ModelUnreachable if unreachable else ValueError)(
            f"The weights of teacher {name!r} could not be loaded ({type(error).__name__}: {reason}). Check the "
            "connection, give a folder that contains them, or give teacher: null for a frozen copy of the network."
        ) from error
    raise ValueError(f"Unknown teacher {name!r}. Give a timm name, a folder or a Hub id.")
