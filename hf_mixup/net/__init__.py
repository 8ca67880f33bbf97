"""One interface to networks for methods: outputs, loss, gradients, layers and attention."""

from .net import Net

__all__ = ["Net"]
