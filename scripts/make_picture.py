"""A grid of mixed samples as a PNG: python scripts/make_picture.py OUT.png [--model FOLDER_OF_A_RUN]

One row a method, the same images in each; methods that ask the network need --model.
"""

import argparse

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid, save_image

import hf_mixup
from hf_mixup.data import Images, load_data
from hf_mixup.ops.sampling import generator

COLUMNS, ZOOM, MARGIN = 10, 3, 2
PLAIN = ("erm", "mixup", "cutmix", "resizemix")
ASKING = ("puzzlemix",)


def rows(x, y, net):
    """Images (methods * COLUMNS, 3, H, W) in [0, 1], one row a method."""
    names = PLAIN + (ASKING if net is not None else ())
    for name in names:
        method = hf_mixup.load(name, per_image=True)
        if net is not None:
            method.build(net)
        yield method.mix(net, x, y, generator(2))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--model")
    options = parser.parse_args()
    data = load_data()
    images = Images(data.train, "image", "label", 28)
    chosen = [images[i] for i in range(COLUMNS)]
    x = torch.stack([sample["pixel_values"] for sample in chosen]) / 255
    y = F.one_hot(torch.tensor([sample["labels"] for sample in chosen]), 10).float()
    net = hf_mixup.Net(hf_mixup.load_pretrained(options.model)[0]) if options.model else None
    grid = make_grid(torch.cat(list(rows(x, y, net))), nrow=COLUMNS, padding=MARGIN, pad_value=1)
    save_image(F.interpolate(grid[None], scale_factor=ZOOM, mode="nearest"), options.out)


if __name__ == "__main__":
    main()
