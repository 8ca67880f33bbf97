"""What a trainer refuses because the training would go wrong in silence."""

from accelerate.utils import DynamoBackend

from ..methods import Method
from . import fsdp


def check_compatible(trainer) -> None:
    """Raise ValueError for settings that a trainer of mixup methods would take and then train wrongly with."""
    _check_launch(trainer)
    if trainer.args.torch_compile:
        if trainer.method.needs_net:
            raise ValueError(
                f"torch_compile cannot be used with method {trainer.method.name!r}, which looks inside the network."
            )
        # the network is compiled, by Net, and not the whole step
        trainer.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
    if trainer.compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func would not be used: the loss is the method's. Choose a task or MixupConfig.loss."
        )
    hidden = [m for m in trainer.method.modules() if isinstance(m, Method) and m.group == "hidden"]
    if trainer.args.gradient_checkpointing and hidden:
        raise ValueError(
            f"gradient_checkpointing runs layers again without what {hidden[0].name!r} changed in them, and "
            "gradients would be wrong: switch it off, or choose another method."
        )


def _check_launch(trainer) -> None:
    if trainer.is_fsdp_enabled:
        raise ValueError("fsdp is the launcher's word: accelerate launch --config_file recipes/accelerate/fsdp.yaml.")
    if trainer.sharded:
        fsdp.check_shardable(trainer.method, trainer.task, trainer.args)
    if trainer.accelerator.mixed_precision == "fp16" and trainer.accelerator.scaler is None:
        raise ValueError(
            f"Mixed precision fp16 needs a GPU: on {trainer.args.device.type} training would be in float32. Use bf16, "
            "or none."
        )
