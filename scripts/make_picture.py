"""A grid of mixed samples as a PNG: python scripts/make_picture.py OUT.png [--model FOLDER_OR_REPO]

One row a method, the same images of the sample in each; methods that ask the network need --model, a run on the sample.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import hf_mixup
from hf_mixup.data import Images, load_data, normalise
from hf_mixup.ops.sampling import generator
from hf_mixup.publish.sample_grid import png

COLUMNS, SIDE = 10, 84
PLAIN = ("erm", "mixup", "cutmix", "resizemix")
ASKING = ("puzzlemix",)


def rows(x, y, net, change):
    """Images (COLUMNS, 3, H, W) in [0, 1] for each method; the network sees them as `change` makes them."""
    for name in PLAIN + (ASKING if net is not None else ()):
        method = hf_mixup.load(name, per_image=True)
        if net is not None:
            method.build(net)
        black, white = change(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1))
        mixed = method.mix(net, change(x), y, generator(2))[0]
        yield ((mixed - black) / (white - black)).clamp(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--model")
    options = parser.parse_args()
    images = Images(load_data().train, "image", "label", 28)
    chosen = [images[i] for i in range(COLUMNS)]
    x = torch.stack([sample["pixel_values"] for sample in chosen])
    y = F.one_hot(torch.tensor([sample["labels"] for sample in chosen]), 10).float()
    net, change = None, lambda pixels: pixels / 255
    if options.model:
        model, processor, _ = hf_mixup.load_pretrained(options.model)
        net = hf_mixup.Net(model.eval())
        statistics = {key: tuple(processor.data_config[key]) for key in ("mean", "std")}
        change = partial(normalise, **statistics)
    Path(options.out).write_bytes(png(rows(x, y, net, change), SIDE))


if __name__ == "__main__":
    main()
