"""Top-1, top-5, negative log-likelihood and calibration error, as numbers and as `evaluate` metrics."""

from collections.abc import Iterator
from importlib import import_module

import numpy as np

BINS = 15  # of the calibration error (Guo et al., 2017)
TOP = 5
CHUNK = 4096  # rows in float64 at a time: 33 MB at 1,000 classes
EVALUATE_METRICS = ("Top1", "Top5", "NLL", "ECE")  # classes of metrics/evaluate_metrics.py


def __getattr__(name: str):
    """Import the `evaluate` metrics when they are first used: `evaluate` takes a second to import."""
    if name not in EVALUATE_METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".evaluate_metrics", __name__), name)


def compute_metrics(prediction) -> dict[str, float]:
    """`{"top1", "top5", "nll", "ece"}` of an EvalPrediction, for a Trainer; nll in nats, the others 0 to 1.

    Predictions are logits (N, K), labels integers (N,). With fewer than five classes top5 is 1. The `evaluate` metrics
    Top1, Top5, NLL and ECE give the same numbers, but write the logits to Arrow files: slow for many classes.
    """
    return all_metrics(prediction.predictions, prediction.label_ids)


def all_metrics(logits, labels) -> dict[str, float]:
    """The four numbers of `compute_metrics`, for logits (N, K) and labels (N,)."""
    rank, nll, confidence = scores(*checked_arrays(logits, labels))
    return {
        "top1": float(np.mean(rank < 1)),
        "top5": float(np.mean(rank < TOP)),
        "nll": float(np.mean(nll)),
        "ece": ece(confidence, rank < 1),
    }


def checked_arrays(logits, labels) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) and labels (N,) as arrays. Raises ValueError for other shapes, types or class indices."""
    if isinstance(logits, (tuple, list)) and len(logits) and np.ndim(logits[0]) > 1:
        raise ValueError(
            f"Predictions are {len(logits)} arrays, not one (N, K) array of logits. Leave eval_do_concat_batches true, "
            "and return only logits from the model."
        )
    logits, labels = np.asarray(logits), np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if logits.ndim != 2:
        raise ValueError(f"Predictions have shape {logits.shape}. Give logits of shape (N, K).")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels have shape {labels.shape} and type {labels.dtype}: evaluation needs integer labels (N,). "
            "Mix only in training."
        )
    if len(labels) != len(logits) or not len(labels):
        raise ValueError(
            f"There are {len(logits)} predictions and {len(labels)} labels. Give one label for each image."
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"Labels range from {labels.min()} to {labels.max()}, but the model has {logits.shape[1]} classes: "
            f"give class indices from 0 to {logits.shape[1] - 1}."
        )
    return logits, labels


def scores(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank of each image's class (0 is the highest logit), negative log-likelihood, highest probability; each (N,).

    Equal logits rank in the order of the classes, so that rank 0 is argmax. A row with a NaN ranks last.
    """
    rank, nll, confidence = zip(*(_chunk(rows, label) for rows, label in _chunks(logits, labels)))
    return np.concatenate(rank), np.concatenate(nll), np.concatenate(confidence)


def _chunks(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of logits in float64 with their labels, CHUNK at a time."""
    for start in range(0, len(labels), CHUNK):
        yield logits[start : start + CHUNK].astype(np.float64), labels[start : start + CHUNK]


def _chunk(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`scores` of one chunk of float64 logits."""
    label_logit = rows[np.arange(len(rows)), labels][:, None]
    tied = (rows == label_logit) & (np.arange(rows.shape[1]) < labels[:, None])
    rank = np.where(np.isnan(rows).any(1), rows.shape[1], ((rows > label_logit) | tied).sum(1))
    highest = rows.max(1, keepdims=True)
    total = np.exp(rows - highest).sum(1)  # at least 1, so its log is accurate
    return rank, (np.log(total) + (highest - label_logit)[:, 0]), 1 / total


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| in bins (l, u] of equal width, weighted by size."""
    if np.isnan(confidence).any():
        return float("nan")
    index = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left")  # i: edge i-1 < confidence <= edge i
    gap = np.bincount(index, correct.astype(np.float64) - confidence)
    return float(np.abs(gap).sum() / len(confidence))
