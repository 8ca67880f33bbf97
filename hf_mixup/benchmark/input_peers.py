"""Input paths, each as its own library makes it: the same images and augmentations, ready for the network.

A path is opened for an epoch and gives batches; `ready` does to a batch what is left to do, and says how many images it
holds and which labels. Reading and decoding alone are paths, too: no other can be faster on as many processes.
"""

import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import datasets
import pyarrow.parquet as parquet
import torch
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_image

from ..config import MixupConfig
from ..data import load_data
from ..ops.sampling import generator
from ..runs.run import make_trainer
from .input_data import Case, encoded

PADDING, SCALE, FLIP = 4, (0.08, 1.0), 0.5
NETWORK = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}  # never run
Ready = Callable[[object], tuple[int, Tensor | None]]


@dataclass(frozen=True)
class InputPath:
    """`open(epoch)` gives batches, `ready(batch)` their number of images and labels; a limit has no labels."""

    open: Callable[[int], Iterable]
    ready: Ready


def ours(case: Case, workers: int, output: Path, streaming: bool) -> InputPath:
    """The loader that the trainer makes, and its augmentation of whole batches."""
    config = MixupConfig(
        output_dir=str(output),
        data=case.name,
        streaming=streaming,
        image_size=case.size,
        flip=FLIP,
        model="resnet18",
        model_args=NETWORK,
        method="erm",
        per_device_train_batch_size=case.batch,
        dataloader_num_workers=workers,
        use_cpu=True,
        **({"random_resized_crop": list(SCALE)} if case.resized else {"crop_padding": PADDING}),
    )
    trainer, _ = make_trainer(config, load_data(data=case.name, streaming=streaming))
    loader = trainer.get_train_dataloader()

    def opened(epoch):
        loader.set_epoch(epoch)
        return loader

    def ready(batch):
        x = trainer.step.prepare(batch["pixel_values"], generator(0))
        return len(x), batch["labels"]

    return InputPath(opened, ready)


def timm_hfids(case: Case, workers: int) -> InputPath:
    """timm's streaming reader and loader, as its train.py makes them on a CPU."""
    data = create_dataset(f"hfids/{case.name}", split="train", is_training=True, batch_size=case.batch, seed=0)
    loader = create_loader(
        data,
        input_size=(3, case.size, case.size),
        batch_size=case.batch,
        is_training=True,
        scale=SCALE,
        hflip=FLIP,
        color_jitter=None,
        num_workers=workers,
        use_prefetcher=False,
    )
    if not case.resized:  # as DeiT does for CIFAR: timm has no such crop of its own
        data.transform.transforms[0] = transforms.RandomCrop(case.size, padding=PADDING)

    def opened(epoch):
        data.set_epoch(epoch)
        return loader

    return InputPath(opened, lambda batch: (len(batch[0]), batch[1]))


def example_script(case: Case, workers: int) -> InputPath:
    """What transformers' run_image_classification.py does: a transform of each row when it is read."""
    crop = (
        transforms.RandomResizedCrop(case.size, SCALE)
        if case.resized
        else transforms.RandomCrop(case.size, padding=PADDING)
    )
    normalize = transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    change = transforms.Compose([crop, transforms.RandomHorizontalFlip(FLIP), transforms.ToTensor(), normalize])

    def with_pixels(rows):
        rows["pixel_values"] = [change(image.convert("RGB")) for image in rows["image"]]
        return rows

    def together(rows):
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    data = datasets.load_dataset(case.name, split="train").with_transform(with_pixels)
    loader = DataLoader(data, case.batch, shuffle=True, num_workers=workers, collate_fn=together)
    return InputPath(lambda epoch: loader, lambda batch: (len(batch["labels"]), batch["labels"]))


class Parts(Dataset):
    """`do(part)` for each part, whatever it makes forgotten: the number of images in it is given."""

    def __init__(self, parts: list, do: Callable[[object], int]):
        self.parts, self.do = parts, do

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> int:
        return self.do(self.parts[number])


def alone(parts: list, do: Callable[[object], int], workers: int) -> InputPath:
    """One piece of work of the path, without the others, spread over as many processes."""
    loader = DataLoader(Parts(parts, do), batch_size=None, num_workers=workers, generator=torch.Generator())
    return InputPath(lambda epoch: loader, lambda count: (int(count), None))


def pil_decodes(files: list[Tensor]) -> int:
    for file in files:
        Image.open(BytesIO(file.numpy())).convert("RGB")
    return len(files)


def torchvision_decodes(files: list[Tensor]) -> int:
    for file in files:
        decode_image(file, ImageReadMode.RGB)
    return len(files)


def downloads(address: str) -> int:
    with urllib.request.urlopen(address) as answer:
        return reads(BytesIO(answer.read()))


def reads(file: Path | BytesIO) -> int:
    return parquet.read_table(file, columns=["image"]).num_rows


def paths(case: Case, workers: int, output: Path) -> dict[str, InputPath]:
    """Ours and the others, by name."""
    return {
        "ours, streamed": ours(case, workers, output, streaming=True),
        "ours, stored": ours(case, workers, output, streaming=False),
        "timm hfids, streamed": timm_hfids(case, workers),
        "transformers example, stored": example_script(case, workers),
    }


def limits(case: Case, workers: int, train: datasets.Dataset) -> dict[str, InputPath]:
    """Decoding alone, and reading the shards alone, by name."""
    files = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in encoded(train)]
    batches = [files[start : start + case.batch] for start in range(0, len(files), case.batch)]
    repo = {"repo_id": case.name, "repo_type": "dataset"}
    shards = [name for name in HfApi().list_repo_files(**repo) if "train" in name and name.endswith(".parquet")]
    stored = [Path(hf_hub_download(filename=name, **repo)) for name in shards]
    return {
        "decoding, PIL": alone(batches, pil_decodes, workers),
        "decoding, torchvision": alone(batches, torchvision_decodes, workers),
        "reading from the hub": alone([hf_hub_url(filename=name, **repo) for name in shards], downloads, workers),
        "reading from the disk": alone(stored, reads, workers),
    }
