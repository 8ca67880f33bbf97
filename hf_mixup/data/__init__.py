"""Load and check data sets, iterate over uint8 batches in a planned order, and augment batches on the device.

data = load_data(data="sample")
images = Images(data.train, data.image_column, data.label_column, size=28)
loader = train_loader(images, BatchPlan(len(images), 128, seed=0))
for batch in loader:
    x = augment(batch["pixel_values"], rng, crop_padding=2, mean=(0.286,) * 3, std=(0.353,) * 3)

data = load_data(data="user/name", streaming=True)
stream = Stream(data.train, data.image_column, data.label_column, size=28, labels=data.labels)
loader = StreamLoader(stream, 128, seed=0, rank=0, world=1, num_workers=2)
"""

from ..errors import DataError, DataUnreachable
from .augment import augment, normalise
from .batch_sampler import BatchPlan, ImageLoader, TrainLoader, eval_loader, train_loader
from .decode import to_rgb
from .images import Images, collate
from .labels import Labels
from .load import Data, load_data
from .streaming.dataset import Stream, StreamLoader
from .streaming.order import StreamPlan
from .streaming.shards import Shards
from .transforms import Transform, borrowed_generators, crop_share, eval_transform, train_transform

__all__ = [
    "BatchPlan",
    "Data",
    "DataError",
    "ImageLoader",
    "Images",
    "Labels",
    "Shards",
    "Stream",
    "StreamLoader",
    "StreamPlan",
    "TrainLoader",
    "Transform",
    "DataUnreachable",
    "augment",
    "borrowed_generators",
    "collate",
    "crop_share",
    "eval_loader",
    "eval_transform",
    "load_data",
    "normalise",
    "to_rgb",
    "train_loader",
    "train_transform",
]
