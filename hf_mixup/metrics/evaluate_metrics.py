"""Top-1, top-5, negative log-likelihood and calibration error as `evaluate` metrics."""

from typing import ClassVar

import datasets
import evaluate

from . import all_metrics

CITATION = "Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), for the calibration error."
INPUTS = "predictions: logits, (N, K) floats. references: class indices, (N,) integers."


class ClassificationMetric(evaluate.Metric):
    """One of the four numbers as an `evaluate` metric of logits and class indices; subclasses set `key`."""

    key: ClassVar[str]

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references):
        return {self.key: all_metrics(predictions, references)[self.key]}


class Top1(ClassificationMetric):
    """Share of images whose class has the highest logit, 0 to 1."""

    key = "top1"


class Top5(ClassificationMetric):
    """Share of images whose class is among the five highest logits, 0 to 1; 1 with fewer than five classes."""

    key = "top5"


class NLL(ClassificationMetric):
    """Mean negative log-likelihood of the class under the softmax of the logits, in nats."""

    key = "nll"


class ECE(ClassificationMetric):
    """Expected calibration error of the highest probability, 15 bins of equal width, 0 to 1."""

    key = "ece"
