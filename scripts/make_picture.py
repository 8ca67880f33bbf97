"""Write a grid of mixed images as a PNG: python scripts/make_picture.py OUT.png [--model FOLDER_OR_REPO]

One row per method, with the same images of the sample. Methods that use the network require --model, a model
trained on the sample.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import hf_mixup
from hf_mixup.data import Images, load_data, normalise
from hf_mixup.ops.sampling import generator
from hf_mixup.trainer.sample_grid import png

COLUMNS, SIDE = 10, 84
WITHOUT_NETWORK = ("erm", "mixup", "cutmix", "resizemix")
WITH_NETWORK = ("puzzlemix",)


def rows(x, y, net, preprocess):
    """Images (COLUMNS, 3, H, W) in [0, 1] for each method; `preprocess` makes the input of the network."""
    for name in WITHOUT_NETWORK + (WITH_NETWORK if net is not None else ()):
        method = hf_mixup.load(name, per_image=True)
        if net is not None:
            method.build(net)
        black, white = preprocess(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1))
        mixed = method.mix(net, preprocess(x), y, generator(2))[0]
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
    net, preprocess = None, lambda pixels: pixels / 255
    if options.model:
        model, processor, _ = hf_mixup.load_pretrained(options.model)
        net = hf_mixup.Net(model.eval())
        statistics = {key: tuple(processor.data_config[key]) for key in ("mean", "std")}
        preprocess = partial(normalise, **statistics)
    Path(options.out).write_bytes(png(rows(x, y, net, preprocess), SIDE))


if __name__ == "__main__":
    main()
