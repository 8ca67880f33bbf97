"""Net: one interface to networks of timm and transformers. Reading layers and gradients has no side effects."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

import torch
from torch import Tensor, nn

from ..ops.flags import evaluating, frozen
from ..ops.losses import RowLoss, smooth, soft_cross_entropy
from .architecture import SUPPORTED, Layer, LayerInfo, Outputs, architecture_of, as_map
from .attention import attention_map, capture_attention
from .calling import caller, outputs_of
from .hooks import StopForward, capturing
from .teachers import teacher
from .token_merging import merging_tokens


class Net(nn.Module):
    """A model with its loss. Forward passes use autocast to `precision`, unless it is None, and return float32.

    `head`: a function of the model's outputs (B, K) that gives the outputs of this Net, such as similarities; an
    nn.Module if it has parameters or buffers. `like`: a Net of the same model.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: RowLoss = soft_cross_entropy,
        label_smoothing: float = 0.0,
        head: Callable[[Tensor], Tensor] | None = None,
        like: "Net | None" = None,
    ):
        super().__init__()
        self.model = model
        self.head = head
        self.row_loss = loss
        self.label_smoothing = label_smoothing
        self.precision: torch.dtype | None = None
        self.compiled: Callable | None = like and like.compiled
        self.architecture = architecture_of(model) if like is None else like.architecture
        self.call = caller(model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits of images (B, C, H, W), or what `head` makes of them."""
        return self._run(self.model if self.compiled is None else self.compiled, x)

    def compile_model(self, compiled: Callable | None = None, **options) -> None:
        """Compile the model for forward passes, or use its `compiled` form; not for methods that use hooks."""
        object.__setattr__(self, "compiled", torch.compile(self.model, **options) if compiled is None else compiled)

    def _run(self, model: Callable, x: Tensor) -> Tensor:
        x = x if self.precision else x.to(next(self.model.parameters()).dtype)
        with torch.autocast(x.device.type, self.precision) if self.precision else nullcontext():
            output = self.call(model, x)
        output = outputs_of(output).float()
        return output if self.head is None else self.head(output)

    def loss(self, logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        """Loss with targets `y` (B, K) after label smoothing: mean over the batch, or (B,) with `reduction="none"`."""
        rows = self.row_loss(logits, smooth(y, self.label_smoothing))
        return rows if reduction == "none" else rows.mean()

    @property
    def name(self) -> str:
        """Name of the architecture, for messages."""
        return self.architecture.name

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer: `weight` (K, F), `bias` (K,)."""
        return self._require(self.architecture.classifier, "a linear classifier", "a network that ends in nn.Linear")

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier, or the model's `num_classes`; in a task without classes, numbers per image."""
        declared = None if self.architecture.classifier is not None else getattr(self.model, "num_classes", None)
        return declared or self.classifier.out_features

    @property
    def num_features(self) -> int:
        """Inputs of the classifier; of a network without one, the outputs for a blank image."""
        if self.architecture.classifier is not None:
            return self.classifier.in_features
        with torch.no_grad(), evaluating(self):
            return self(self.blank_image()).shape[-1]

    def blank_image(self) -> Tensor:
        """(1, C, H, W) zeros of the network's image size, or 64 pixels if it is unknown."""
        weight = next(self.model.parameters())
        channels = next(m.in_channels for m in self.model.modules() if isinstance(m, nn.Conv2d))
        size = self.image_size or (64, 64)
        return torch.zeros(1, channels, *size, device=weight.device, dtype=weight.dtype)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images the network is built for, None if unknown."""
        return self.architecture.image_size

    def layers(self, for_method: str = "this method") -> list[LayerInfo]:
        """Stages of a CNN or Swin, or blocks of a ViT, in order; sizes are measured with one blank image."""
        self._require(self.architecture.layers, "a list of stages", SUPPORTED, for_method)
        blank, maps = self.blank_image(), {}
        size = blank.shape[-2:]
        with torch.no_grad(), evaluating(self), capturing(self.architecture.layers, maps):
            self(blank)
        shapes = [(layer.name, self._map(maps, layer, size).shape) for layer in self.architecture.layers]
        return [LayerInfo(name, shape[1], round(size[0] / shape[2])) for name, shape in shapes]

    def outputs(self, x: Tensor) -> Outputs:
        """Logits, pooled features and last map of one forward pass, with gradient."""
        pooled, maps = [], {}
        last = self._require(self.architecture.layers, "a list of stages", SUPPORTED)[-1:]
        handle = self.classifier.register_forward_pre_hook(lambda _, args: pooled.append(args[0].float()))
        try:
            with capturing(last, maps):
                logits = self(x)
        finally:
            handle.remove()
        return Outputs(logits, pooled[0], self._map(maps, last[0], x.shape[-2:]).float())

    def features(self, x: Tensor, layer: int | str = -1) -> Tensor:
        """(B, C, h, w) float32 output of a layer, by index or name; with gradient if gradients are enabled.

        The forward pass stops there: later layers do not run and their buffers do not change.
        """
        chosen, maps = self.layer(layer), {}
        with suppress(StopForward), capturing([chosen], maps, stop=True):
            self(x)
        return self._map(maps, chosen, x.shape[-2:]).float()

    def saliency(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, H, W) norm over channels of `gradient`."""
        return self.gradient(x, y).square().sum(1).sqrt()

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) gradient of the loss by the images, in eval mode; parameters and buffers are unchanged."""
        x = x.detach().requires_grad_()
        with torch.enable_grad(), evaluating(self), frozen(self):
            [gradient] = torch.autograd.grad(self.loss(self(x), y, "none").sum(), x)
        return gradient.float()

    def class_map(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, h, w) class activation map for `y` (B, K), without bias (arXiv:1512.04150); eval mode, no gradient."""
        if y.shape[1:] != (self.num_classes,):
            raise ValueError(f"Targets have shape {tuple(y.shape)}. Give shape (B, {self.num_classes}).")
        with torch.no_grad(), evaluating(self):
            maps = self.features(x).relu()
        return torch.einsum("bchw,bc->bhw", maps, y.float() @ self.classifier.weight.detach().float())

    def attention(self, x: Tensor, by_patches: bool = False) -> Tensor:
        """(B, h, w) attention that each patch receives in the last block; each map sums to one; eval mode, no gradient.

        The query is the class token. Without a class token, or with `by_patches`, the attention is averaged over all
        patches as queries.
        """
        with torch.no_grad(), evaluating(self), self.capturing_attention(by_patches=by_patches) as last:
            self(x)
            return last()

    @contextmanager
    def capturing_attention(
        self, for_method: str = "this method", by_patches: bool = False
    ) -> Iterator[Callable[[], Tensor]]:
        """A function that returns the attention map, as `attention` does, of the last forward pass made inside."""
        self._require(self.architecture.attention, "attention in the last block", "a ViT, DeiT or Swin", for_method)
        sizes = []
        handle = self.register_forward_pre_hook(lambda _, args: sizes.append((len(args[0]), args[0].shape[-2:])))
        try:
            with capture_attention(self.architecture) as captured:
                yield lambda: attention_map(captured[-1].detach(), self.architecture, *sizes[-1], by_patches)
        finally:
            handle.remove()

    @contextmanager
    def capturing_block_attention(self, for_method: str = "this method") -> Iterator[Callable[[], list[Tensor]]]:
        """A function that returns each block's attention (B, heads, T, T) in the last forward pass made inside."""
        self._require(
            self.architecture.is_plain_vit, "a class token and attention in every block", "a ViT or DeiT", for_method
        )
        count = len(self.architecture.attentions)
        with capture_attention(self.architecture, all_blocks=True) as captured:
            yield lambda: [attention.detach() for attention in captured[-count:]]

    @contextmanager
    def merging_tokens(self, counts: Sequence[int], for_method: str = "this method") -> Iterator[Callable]:
        """Merge `counts[k]` tokens in block k during forward passes made inside.

        Yields a function of a block's index. It returns that block's attention (B, heads, T, T) in the last pass, and
        the position (B, T) of each token of the image in that block's sequence.
        """
        with self.capturing_block_attention(for_method) as last, merging_tokens(self.architecture, counts) as merger:
            yield lambda block: (last()[block], merger.sources[block])

    @contextmanager
    def editing(self, layer: int | str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Replace a layer's output, one row per image, with `edit(output)` in forward passes made inside."""

        def change(_, args, output):
            if isinstance(output, tuple):
                return edit(output[0]), *output[1:]
            return edit(output)

        handle = self.layer(layer).module.register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()

    def using(
        self, model: nn.Module, head: Callable[[Tensor], Tensor] | None = None, loss: RowLoss | None = None
    ) -> "Net":
        """A Net of another model, such as a frozen teacher, with this precision; `loss`: by default this loss."""
        net = Net(model, loss or self.row_loss, self.label_smoothing, head, self if model is self.model else None)
        net.precision = self.precision
        return net

    def teacher(self, name: str, pretrained: bool = True) -> "Net":
        """The frozen network `name`: a timm name, a folder or a Hub id; `pretrained` applies to timm names only."""
        return self.using(teacher(name, pretrained).to(next(self.parameters()).device)).requires_grad_(False).eval()

    def copy(self) -> "Net":
        """A copy for a momentum encoder, with the current parameters and buffers and without gradients."""
        net = self.using(copy.deepcopy(self.model)).requires_grad_(False)
        net.zero_grad()  # deepcopy also copies gradients
        return net

    def layer(self, layer: int | str) -> Layer:
        """A stage or block, by index (negative from the end) or name."""
        layers = self._require(self.architecture.layers, "a list of stages", SUPPORTED)
        names = [known.name for known in layers]
        if layer in names:
            return layers[names.index(layer)]
        if isinstance(layer, int) and -len(layers) <= layer < len(layers):
            return layers[layer]
        raise ValueError(f"{self.name} has no layer {layer!r}. Choose an index below {len(layers)} or one of: {names}.")

    def _map(self, maps: dict, layer: Layer, image: tuple[int, int]) -> Tensor:
        if layer.name not in maps:
            raise ValueError(
                f"The forward pass of {self.name} did not call {layer.name!r}: gradient checkpointing bypasses it. "
                "Turn gradient checkpointing off."
            )
        return as_map(maps[layer.name], self.architecture, image)

    def _require(self, part, requirement: str, supported: str, method: str = "this method"):
        if not part:
            raise ValueError(f"{method} requires {requirement}; {self.name} does not provide it. Use {supported}.")
        return part
