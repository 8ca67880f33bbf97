"""Metrics against hand-computed numbers and torch's own loss."""

import pickle

import evaluate
import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_mixup.metrics import ECE, NLL, Top1, Top5, compute_metrics, ece, scores


def random_logits(rows=300, classes=7, seed=0):
    """Logits (rows, classes) and labels (rows,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, classes)).astype("float32"), rng.integers(0, classes, rows)


def test_correct_and_confident_logits_have_zero_error():
    labels = np.arange(6)
    metrics = compute_metrics(EvalPrediction(1000 * np.eye(6, dtype="float32"), labels))
    assert metrics == {"top1": 1.0, "top5": 1.0, "nll": 0.0, "ece": 0.0}


def test_nll_is_torch_cross_entropy_of_the_logits():
    logits, labels = random_logits()
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels)).item()
    assert compute_metrics(EvalPrediction(logits, labels))["nll"] == pytest.approx(expected, abs=1e-12)


def test_nll_is_finite_if_the_probability_underflows():
    nll = compute_metrics(EvalPrediction(np.float32([[0, 5000]]), np.array([0])))["nll"]
    assert nll == 5000


def test_top_k_is_torch_top_k_without_equal_logits():
    logits, labels = random_logits(rows=5000, classes=20)  # more rows than one chunk
    best = torch.tensor(logits).topk(5).indices.numpy()
    metrics = compute_metrics(EvalPrediction(logits, labels))
    assert metrics["top1"] == np.mean(best[:, 0] == labels)
    assert metrics["top5"] == np.mean((best == labels[:, None]).any(1))


def test_equal_logits_rank_in_the_order_of_the_classes():
    rank, _, _ = scores(np.zeros((7, 7)), np.arange(7))
    assert rank.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_ties_do_not_count_as_correct():
    metrics = compute_metrics(EvalPrediction(np.zeros((10, 10)), np.arange(10)))
    assert (metrics["top1"], metrics["top5"]) == (0.1, 0.5)


def test_top5_of_fewer_than_five_classes_is_one():
    logits, labels = random_logits(classes=3)
    assert compute_metrics(EvalPrediction(logits, labels))["top5"] == 1.0


def test_nan_logits_count_as_wrong_and_give_nan():
    logits, labels = random_logits(classes=10)
    logits[:] = np.nan
    metrics = compute_metrics(EvalPrediction(logits, labels))
    assert (metrics["top1"], metrics["top5"]) == (0.0, 0.0)
    assert np.isnan(metrics["nll"]) and np.isnan(metrics["ece"])


def test_calibration_error_of_a_hand_computed_example():
    # Bin (.6, .667]: two images, half right at .65; bin (.933, 1]: two images, both right at .95.
    confidence, right = np.array([0.65, 0.65, 0.95, 0.95]), np.array([True, False, True, True])
    assert ece(confidence, right) == pytest.approx(0.5 * (0.65 - 0.5) + 0.5 * (1 - 0.95))


def test_errors_cancel_within_a_bin_but_not_across_bins():
    assert ece(np.array([0.5, 0.5]), np.array([True, False])) == 0
    assert ece(np.array([0.45, 0.55]), np.array([True, False])) == pytest.approx(0.5 * 0.55 + 0.5 * 0.55)


def test_a_bin_includes_its_upper_edge_and_excludes_its_lower_edge():
    # With two bins, .5 belongs to (0, .5] together with .4: their gaps +.5 and -.4 cancel to .1.
    assert ece(np.array([0.5, 0.4]), np.array([True, False]), bins=2) == pytest.approx(0.1 / 2)
    # Just above, it is in (.5, 1], and nothing cancels.
    above = np.nextafter(0.5, 1)
    assert ece(np.array([above, 0.4]), np.array([True, False]), bins=2) == pytest.approx(0.9 / 2)


@pytest.mark.parametrize("edge", range(1, 16))
def test_every_edge_of_the_fifteen_bins_is_an_upper_edge(edge):
    edges = np.linspace(0, 1, 16)
    middle = (edges[edge - 1] + edges[edge]) / 2
    gap = abs((1 - edges[edge]) - middle)
    assert ece(np.array([edges[edge], middle]), np.array([True, False])) == pytest.approx(gap / 2)


def test_a_confidence_of_one_is_in_the_last_bin():
    assert ece(np.array([1.0]), np.array([False])) == 1.0


def test_calibration_error_equals_a_loop_over_bins():
    logits, labels = random_logits(rows=2000, classes=4)
    probabilities = torch.tensor(logits).double().softmax(1).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert compute_metrics(EvalPrediction(logits, labels))["ece"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [Top1, Top5, NLL, ECE])
def test_evaluate_metrics_agree_with_compute_metrics(metric, tmp_path):
    logits, labels = random_logits()
    loaded = metric(cache_dir=str(tmp_path))
    for rows in np.array_split(np.arange(len(labels)), 3):
        loaded.add_batch(predictions=logits[rows], references=labels[rows])
    name, value = next(iter(loaded.compute().items()))
    assert value == pytest.approx(compute_metrics(EvalPrediction(logits, labels))[name], abs=1e-12)


@pytest.mark.parametrize("metric", [Top1, Top5, NLL, ECE])
def test_evaluate_metrics_can_be_pickled(metric, tmp_path):
    logits, labels = random_logits()
    original = metric(cache_dir=str(tmp_path))
    copy = pickle.loads(pickle.dumps(original))
    assert copy.name == original.name == metric.key and copy.description == metric.__doc__
    assert copy.compute(predictions=logits, references=labels).keys() == {metric.key}


def test_evaluate_metrics_combine(tmp_path):
    logits, labels = random_logits()
    metrics = [metric(cache_dir=str(tmp_path)) for metric in (Top1, Top5, NLL, ECE)]
    together = evaluate.combine(metrics).compute(predictions=logits, references=labels)
    assert together == pytest.approx(compute_metrics(EvalPrediction(logits, labels)), abs=1e-12)


@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        (np.zeros((4, 3)), np.full((4, 3), 1 / 3), "integer labels"),
        (np.zeros((4, 3)), np.zeros(4), "integer labels"),
        (np.zeros((4, 3)), np.full(4, 3), "3 classes"),
        (np.zeros((4, 3)), np.full(4, -100), "-100"),
        (np.zeros((4, 3)), np.zeros(5, int), "4 predictions and 5 labels"),
        (np.zeros((0, 3)), np.zeros(0, int), "0 predictions"),
        (np.zeros(4), np.zeros(4, int), r"\(4,\)"),
        ((np.zeros((4, 3)), np.zeros((4, 8))), np.zeros(4, int), "2 arrays"),
    ],
)
def test_invalid_inputs_are_refused(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(EvalPrediction(predictions, labels))
