"""Mean average precision and F1 of images with several classes, by scikit-learn."""

import numpy as np


def multilabel_metrics(logits, labels, threshold: float = 0.5) -> dict[str, float]:
    """`{"map", "f1_micro", "f1_macro"}`, 0 to 1, for logits (N, K) and labels (N, K) of zeros and ones.

    `map` is the mean of the average precision of each class that occurs in `labels`; `f1_micro` counts all pairs of
    image and class, `f1_macro` is the mean over classes (0 for a class that is neither predicted nor present). A class
    is predicted from a sigmoid of `threshold` on. NaN if a logit is NaN, and `map` if no class occurs.
    """
    from sklearn.metrics import average_precision_score, f1_score  # takes a second to import

    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape or not len(labels):
        raise ValueError(f"Predictions have shape {logits.shape} and labels {labels.shape}. Give two arrays (N, K).")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("Labels are not all 0 or 1: evaluation needs the classes of each image. Mix only in training.")
    if np.isnan(logits).any():
        return dict.fromkeys(("map", "f1_micro", "f1_macro"), float("nan"))
    labels, occurs = labels.astype(int), labels.any(0)
    predicted = (logits >= np.log(threshold / (1 - threshold))).astype(int)
    precision = [average_precision_score(labels[:, k], logits[:, k]) for k in np.flatnonzero(occurs)]
    f1 = {f"f1_{average}": _f1(f1_score, labels, predicted, average) for average in ("micro", "macro")}
    return {"map": float(np.mean(precision)) if precision else float("nan"), **f1}


def _f1(f1_score, labels: np.ndarray, predicted: np.ndarray, average: str) -> float:
    if labels.shape[1] == 1:  # scikit-learn would take one column for the two classes 0 and 1
        labels, predicted, average = labels[:, 0], predicted[:, 0], "binary"
    return float(f1_score(labels, predicted, average=average, zero_division=0))
