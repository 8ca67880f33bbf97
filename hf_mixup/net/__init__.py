"""A network as a method sees it: outputs, loss, gradients, and what is read inside it without leaving a trace."""

from .net import Net

__all__ = ["Net"]
