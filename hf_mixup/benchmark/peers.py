"""The same methods in other libraries, if installed: from images and labels to mixed images and soft targets.

Each function takes the name of a method, whether each image has its own draw, and the number of classes. It returns a
function of `(images, labels)`, or None if the library does not have the method.
"""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[[Tensor, Tensor], object]


def _soft(labels: Tensor, partner: Tensor, lam: Tensor | float, classes: int) -> Tensor:
    """Soft targets, for libraries that do not return them."""
    y, partner_y = (F.one_hot(rows.long(), classes).float() for rows in (labels, partner))
    lam = torch.as_tensor(lam, dtype=torch.float32).reshape(-1, 1)
    return lam * y + (1 - lam) * partner_y


def timm(method: str, per_image: bool, classes: int) -> Call | None:
    from timm.data import Mixup

    alphas = {"mixup": {"mixup_alpha": 1.0}, "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}}.get(method)
    if alphas is None:
        return None
    return Mixup(**alphas, mode="elem" if per_image else "batch", label_smoothing=0.0, num_classes=classes)


def torchvision(method: str, per_image: bool, classes: int) -> Call | None:
    from torchvision.transforms import v2

    transform = {"mixup": v2.MixUp, "cutmix": v2.CutMix}.get(method)
    return None if transform is None or per_image else transform(alpha=1.0, num_classes=classes)


def kornia(method: str, per_image: bool, classes: int) -> Call | None:
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

    keys = {"data_keys": ["input", "class"], "same_on_batch": not per_image}
    if method == "mixup":
        mix = RandomMixUpV2(**keys)
    elif method == "cutmix":
        mix = RandomCutMixV2(use_correct_lambda=True, **keys)
    else:
        return None

    def call(images, labels):
        mixed, (*_, drawn) = mix(images, labels)
        drawn = drawn.reshape(-1, 3)
        # kornia returns the partner's share for mixup
        lam = 1 - drawn[:, 2] if method == "mixup" else drawn[:, 2]
        return mixed, _soft(drawn[:, 0], drawn[:, 1], lam, classes)

    return call


def mixup(method: str, per_image: bool, classes: int) -> Call | None:
    from mixup import methods

    name = {"mixup": "VanillaMixUp", "cutmix": "CutMix", "resizemix": "ResizeMix", "fmix": "FMix"}.get(method)
    if method == "saliencymix" and per_image:
        name = "SaliencyMix"
    if name is None or (per_image and method != "saliencymix"):
        return None
    mix = getattr(methods, name)()
    return lambda images, labels: mix(images, F.one_hot(labels, classes).float())


def mlxops_aug(method: str, per_image: bool, classes: int) -> Call | None:
    if method not in ("resizemix", "saliencymix") or per_image:
        return None
    module = importlib.import_module(f"mlxops_aug.{method}")
    mix = getattr(module, {"resizemix": "ResizeMix", "saliencymix": "SaliencyMix"}[method])

    def call(images, labels):
        result = mix(num_classes=classes, config={})(images, labels)
        return result.augmented_x, result.augmented_y

    return call


PEERS = {"timm": timm, "torchvision": torchvision, "kornia": kornia, "mixup": mixup, "mlxops-aug": mlxops_aug}
# from OpenMixup's configurations; the defaults of its GridMix are for large images
GRIDMIX = {"n_holes": (2, 6), "hole_aspect_ratio": 1.0, "cut_area_ratio": (0.5, 1), "cut_aspect_ratio": (0.5, 2)}


def openmixup(path: Path, method: str, per_image: bool, classes: int, **arguments) -> Call | None:
    """A method of the OpenMixup checkout at `path`. Only its file is loaded, because the package requires old versions.

    Its `.cuda()` calls have no effect. `arguments`: of its function, such as features and block_num.
    """
    file = path / "openmixup" / "models" / "augments" / f"{method}.py"
    if per_image or not file.is_file():
        return None
    mix = getattr(_load_file(file), method)

    def call(images, labels):
        options = {"fmix": {"size": tuple(images.shape[-2:])}, "gridmix": GRIDMIX}.get(method, {})
        cuda = Tensor.cuda
        Tensor.cuda = lambda tensor, *_, **__: tensor
        try:
            mixed, (labels, partner_labels, lam) = mix(images, labels, alpha=1.0, **options, **arguments)
        finally:
            Tensor.cuda = cuda
        return mixed, _soft(labels, partner_labels, lam, classes)

    return call


def _load_file(file: Path) -> types.ModuleType:
    """The module in `file`, with stubs for its imports from the package."""
    utils = types.ModuleType("openmixup.models.utils")
    utils.to_2tuple = lambda value: value if isinstance(value, tuple) else (value, value)
    utils.batch_shuffle_ddp = None  # only for several processes
    for name in ("openmixup", "openmixup.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules.setdefault("openmixup.models.utils", utils)
    spec = importlib.util.spec_from_file_location(f"openmixup_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def candidates(method: str, per_image: bool, classes: int, checkout: Path | None, **arguments) -> dict[str, Call]:
    """The function of every installed library that has the method, by the library's name."""
    found = {}
    for name, make in PEERS.items():
        try:
            call = make(method, per_image, classes)
        except ImportError:
            continue
        if call is not None:
            found[name] = call
    if checkout is not None and (call := openmixup(checkout, method, per_image, classes, **arguments)):
        found["OpenMixup"] = call
    return found
