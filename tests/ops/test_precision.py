"""The widest type of a device."""

import torch

from hf_mixup.ops.precision import widened, widest


def test_apples_gpus_have_no_float64():
    assert widest(torch.device("mps")) == torch.float32
    assert widest(torch.device("cpu")) == widest(torch.device("cuda")) == torch.float64
    assert widened(torch.ones(2)).dtype == torch.float64
