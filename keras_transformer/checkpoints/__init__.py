"""The state of a training run as files: one folder ``step-N`` a checkpoint, the same on every backend.

artifacts/steps.py tells what a folder holds and writes it; here models come in.
"""

from keras_transformer.checkpoints.average import average_checkpoints
from keras_transformer.checkpoints.files import (
    NonFiniteError,
    check_finite,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from keras_transformer.checkpoints.state import capture, capture_metrics, first_non_finite, restore

__all__ = [
    "NonFiniteError",
    "average_checkpoints",
    "capture",
    "capture_metrics",
    "check_finite",
    "first_non_finite",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "restore",
    "save_checkpoint",
]
