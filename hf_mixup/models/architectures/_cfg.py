"""timm's default configuration of the small-image networks."""

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


def cfg(first_conv: str, classifier: str, **changes) -> dict:
    """A timm default_cfg for 32 px images, without published weights."""
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "mean": CIFAR_MEAN,
        "std": CIFAR_STD,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": first_conv,
        "classifier": classifier,
        "license": "apache-2.0",
        **changes,
    }
