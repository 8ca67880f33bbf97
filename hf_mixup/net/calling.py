"""How a network is called with images, and where its outputs are in what it returns."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

IMAGES = "pixel_values"  # the argument of transformers' networks


def caller(model: nn.Module) -> Callable[[Callable, Tensor], Any]:
    """A function that calls the model, or its compiled form, with images: by position, or by keyword if `forward` has
    the images as a later argument `pixel_values`."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY
    names = [parameter.name for parameter in parameters]
    first = positional and names[:1] == [IMAGES]
    return by_keyword if IMAGES in names and not first else by_position


def by_position(model: Callable, x: Tensor) -> Any:
    return model(x)


def by_keyword(model: Callable, x: Tensor) -> Any:
    return model(**{IMAGES: x})


def outputs_of(returned: Any) -> Tensor:
    """The logits, or pooled features, in what a network returns: a tensor, a ModelOutput, a mapping, or a tuple that
    begins with them."""
    if isinstance(returned, Mapping):  # also a ModelOutput
        returned = returned.get("logits", returned.get("pooler_output"))
    elif isinstance(returned, tuple | list) and returned:
        returned = returned[0]
    returned = getattr(returned, "logits", returned)
    if not isinstance(returned, Tensor):
        raise ValueError(
            f"The network returns {type(returned).__name__}: it must return logits as a tensor, as `logits` of a "
            "mapping or ModelOutput, or as the first item of a tuple."
        )
    return returned


def further_outputs(returned: Any) -> dict[str, Any]:
    """What a network returns beside logits in a mapping or ModelOutput, such as hidden states."""
    if not isinstance(returned, Mapping) or "logits" not in returned:
        return {}
    return {key: value for key, value in returned.items() if key not in ("loss", "logits") and value is not None}
