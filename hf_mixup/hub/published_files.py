"""The files of a run's folder that are published. Other files stay local, and are not changed in the repository."""

import re
from fnmatch import fnmatch

PUBLISHED = ("README.md", "run.json", "config.json", "preprocessor_config.json", "processor_config.json")
PUBLISHED += ("generation_config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PUBLISHED += ("method.safetensors", "task.safetensors", "mixed.png", "recipe.yaml", ".eval_results/*.yaml")
REQUIRED = ("config.json", "README.md")
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def is_published(name: str) -> bool:
    """Whether a file of this name, relative to the run's folder, is published."""
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in PUBLISHED)
