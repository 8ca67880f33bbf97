"""Hooks on layers of a network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .architecture import Layer


class StopForward(Exception):
    """Raised by a hook to end a forward pass once the requested layer has run."""


@contextmanager
def capturing(layers: Sequence[Layer], maps: dict, stop: bool = False) -> Iterator[None]:
    """Inside, store each layer's output in `maps` by its name; with `stop`, a forward pass ends at the first one."""

    def catch(name, output):
        maps[name] = output
        if stop:
            raise StopForward

    handles = [
        layer.module.register_forward_hook(lambda _, args, output, name=layer.name: catch(name, output))
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
