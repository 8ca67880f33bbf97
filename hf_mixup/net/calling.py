"""How a network is called with images, and where its outputs are in what it returns."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

IMAGES = "pixel_values"  # the argument of transformers' networks


def caller(model: nn.Module) -> Callable[[Callable, Tensor], Any]:
    """A function that calls the model, or its compiled form, with images: by position, or by keyword if `forward` has
    the images as a later argument `pixel_values`, or keyword arguments only."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY
    names = [parameter.name for parameter in parameters]
    first = positional and names[:1] == [IMAGES]
    only_keywords = parameters and parameters[0].kind is inspect.Parameter.VAR_KEYWORD
    return by_keyword if only_keywords or (IMAGES in names and not first) else by_position


def by_position(model: Callable, x: Tensor) -> Any:
    return model(x)


def by_keyword(model: Callable, x: Tensor) -> Any:
    return model(**{IMAGES: x})


def outputs_of(returned: Any) -> Tensor:
    """The logits, or pooled features, in what a network returns: a tensor, a ModelOutput, a mapping, a named tuple
    with `logits`, or a tuple that begins with them."""
    logits = returned
    if isinstance(returned, Mapping):  # also a ModelOutput
        logits = returned.get("logits", returned.get("pooler_output"))
    elif isinstance(returned, tuple | list) and returned and not hasattr(returned, "logits"):
        logits = returned[0]
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"The network returns {type(returned).__name__} without logits: it must return logits as a tensor, "
            "as `logits` of a mapping or ModelOutput, or as the first item of a tuple."
        )
    return logits


def further_outputs(returned: Any) -> dict[str, Any]:
    """What a network returns beside logits in a mapping or ModelOutput, such as hidden states."""
    if not isinstance(returned, Mapping) or "logits" not in returned:
        return {}
    return {key: value for key, value in returned.items() if key not in ("loss", "logits") and value is not None}
