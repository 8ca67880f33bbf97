"""A task of the tests: two views of an image find each other in the batch; images have no labels."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.tasks import CLASSES, SOFTMAX, Card, Metric, Task


@dataclass(eq=False)
class TwoViews(Task):
    """`temperature` of the similarities; `size`: outputs of the projector."""

    reads = "none"
    provides = frozenset((CLASSES, SOFTMAX))  # the second views of the batch
    views = 2
    metric = "neighbour"
    higher_is_better = True
    card = Card(
        "Two views",
        auto_class="AutoModel",
        metrics=(Metric("neighbour", "Similarity of the nearest neighbour", "similarity"),),
    )
    temperature: float = 0.5
    size: int = 8

    def build(self, net, labels):
        self.projector = nn.Linear(net.num_features, self.size)
        self.register_buffer("queue", torch.zeros(4, self.size))  # keys of the last batch

    def project(self, features):
        return F.normalize(self.projector(features), dim=1)

    def forward(self, net, batch, rng):
        first, second = batch["views"]
        with torch.no_grad():
            keys = self.project(net(second))
        self.queue = F.pad(keys, (0, 0, 0, 4))[:4]
        similarities = net.using(net.model, head=lambda features: self.project(features) @ keys.T / self.temperature)
        return similarities, first, torch.eye(len(first), device=first.device)

    def loss(self, outputs, y):
        return soft_cross_entropy(outputs, y)

    def evaluate(self, net, batch):
        features = F.normalize(net(batch["pixel_values"]), dim=1)
        return features.square().mean(1), features

    def metrics(self, prediction):
        assert prediction.label_ids is None
        features = np.asarray(prediction.predictions)
        similarity = features @ features.T - 2 * np.eye(len(features))
        return {"neighbour": float(similarity.max(1).mean())}
