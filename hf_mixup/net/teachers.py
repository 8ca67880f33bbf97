"""Networks that are only looked at, by name."""

from pathlib import Path

import timm
import torch
from huggingface_hub.errors import HTTPError
from torch import nn

from ..errors import ModelError
from ..hub.download import fetch
from ..models.safe_load import load_network


def teacher(name: str, pretrained: bool = True) -> nn.Module:
    """The network of a timm name, or that of a folder or Hub id; its draws leave the global seed alone.

    `pretrained`: whether a timm name has its published weights; the others always have theirs. Published weights are
    found again by the name, so that no checkpoint keeps those of a module that says `remade`.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            if timm.is_model(name):
                made = timm.create_model(name, pretrained=pretrained)
                made.remade = pretrained
                return made
            if "/" in name or Path(name).is_dir():
                made = load_network(name, fetch(name), complete=False)
                made.remade = True
                return made
    except (OSError, RuntimeError, HTTPError, ModelError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"The weights of teacher {name!r} cannot be had ({type(error).__name__}: {reason}) Check the connection, "
            "give a folder that holds them, or teacher: null for a frozen copy of the network itself."
        ) from error
    raise ValueError(f"Unknown teacher {name!r}. Give a timm name, or a folder or Hub id.")
