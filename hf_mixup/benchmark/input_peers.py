"""Input paths of several libraries, from the same images to the same augmented batches for the network.

`open(epoch)` returns the batches of a path; `ready(batch)` does the remaining work on a batch and returns its number of
images and its labels. Reading alone and decoding alone are also paths: upper limits for the others.
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
from .input_data import Case, encoded_images

PADDING, SCALE, FLIP = 4, (0.08, 1.0), 0.5
NETWORK = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}  # built with the trainer, but never called
Ready = Callable[[object], tuple[int, Tensor | None]]


@dataclass(frozen=True)
class InputPath:
    """`open(epoch)` returns batches, `ready(batch)` number of images and labels; labels are None for a limit."""

    open: Callable[[int], Iterable]
    ready: Ready


def ours(case: Case, workers: int, output: Path, streaming: bool) -> InputPath:
    """The trainer's loader and its augmentation of whole batches."""
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

    def open_epoch(epoch):
        loader.set_epoch(epoch)
        return loader

    def ready(batch):
        x = trainer.step.prepare(batch["pixel_values"], generator(0))
        return len(x), batch["labels"]

    return InputPath(open_epoch, ready)


def timm_hfids(case: Case, workers: int) -> InputPath:
    """timm's streaming reader and loader, as its train.py creates them on a CPU."""
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
    if not case.resized:  # as DeiT does for CIFAR: timm has no padded random crop
        data.transform.transforms[0] = transforms.RandomCrop(case.size, padding=PADDING)

    def open_epoch(epoch):
        data.set_epoch(epoch)
        return loader

    return InputPath(open_epoch, lambda batch: (len(batch[0]), batch[1]))


def example_script(case: Case, workers: int) -> InputPath:
    """The data path of transformers' run_image_classification.py: a transform of each row when it is read."""
    crop = (
        transforms.RandomResizedCrop(case.size, SCALE)
        if case.resized
        else transforms.RandomCrop(case.size, padding=PADDING)
    )
    normalize = transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    augment = transforms.Compose([crop, transforms.RandomHorizontalFlip(FLIP), transforms.ToTensor(), normalize])

    def with_pixels(rows):
        rows["pixel_values"] = [augment(image.convert("RGB")) for image in rows["image"]]
        return rows

    def collate(rows):
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    data = datasets.load_dataset(case.name, split="train").with_transform(with_pixels)
    loader = DataLoader(data, case.batch, shuffle=True, num_workers=workers, collate_fn=collate)
    return InputPath(lambda epoch: loader, lambda batch: (len(batch["labels"]), batch["labels"]))


class WorkItems(Dataset):
    """Item i is `work(items[i])`, a number of images."""

    def __init__(self, items: list, work: Callable[[object], int]):
        self.items, self.work = items, work

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> int:
        return self.work(self.items[number])


def single_step(items: list, work: Callable[[object], int], workers: int) -> InputPath:
    """One step of the input path alone, distributed over `workers` processes."""
    loader = DataLoader(WorkItems(items, work), batch_size=None, num_workers=workers, generator=torch.Generator())
    return InputPath(lambda epoch: loader, lambda count: (int(count), None))


def decode_pil(files: list[Tensor]) -> int:
    for file in files:
        Image.open(BytesIO(file.numpy())).convert("RGB")
    return len(files)


def decode_torchvision(files: list[Tensor]) -> int:
    for file in files:
        decode_image(file, ImageReadMode.RGB)
    return len(files)


def download_parquet(url: str) -> int:
    with urllib.request.urlopen(url) as response:
        return read_parquet(BytesIO(response.read()))


def read_parquet(file: Path | BytesIO) -> int:
    return parquet.read_table(file, columns=["image"]).num_rows


def paths(case: Case, workers: int, output: Path) -> dict[str, InputPath]:
    """Our paths and those of other libraries, by name."""
    return {
        "ours, streamed": ours(case, workers, output, streaming=True),
        "ours, stored": ours(case, workers, output, streaming=False),
        "timm hfids, streamed": timm_hfids(case, workers),
        "transformers example, stored": example_script(case, workers),
    }


def limits(case: Case, workers: int, train: datasets.Dataset) -> dict[str, InputPath]:
    """Decoding alone and reading the shards alone, by name."""
    files = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in encoded_images(train)]
    batches = [files[start : start + case.batch] for start in range(0, len(files), case.batch)]
    repo = {"repo_id": case.name, "repo_type": "dataset"}
    shards = [name for name in HfApi().list_repo_files(**repo) if "train" in name and name.endswith(".parquet")]
    stored = [Path(hf_hub_download(filename=name, **repo)) for name in shards]
    return {
        "decoding, PIL": single_step(batches, decode_pil, workers),
        "decoding, torchvision": single_step(batches, decode_torchvision, workers),
        "reading from the hub": single_step(
            [hf_hub_url(filename=name, **repo) for name in shards], download_parquet, workers
        ),
        "reading from the disk": single_step(stored, read_parquet, workers),
    }
