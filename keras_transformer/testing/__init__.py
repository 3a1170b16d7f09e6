"""The pitfall suite: the classic bugs of a Transformer, looked for in anybody's Keras model.

After the model. ``check(model)`` makes all checks of a kt.Transformer, or of another model in a ``Seq2Seq`` (adapter.py). Each
check is a function too and returns a Finding (report.py); they stand by theme in reading.py, attending.py, scoring.py, learning.py.
"""

from keras_transformer.testing.adapter import Seq2Seq
from keras_transformer.testing.attending import attention_scaling, cached_decoding
from keras_transformer.testing.learning import gradients, learns_ten_pairs, loss_at_start
from keras_transformer.testing.reading import (
    attends_to_source_padding,
    depends_on_padding,
    ignores_source,
    ignores_source_order,
    ignores_target_order,
    logits_are_finite,
    looks_ahead,
    misses_part_of_the_source,
    mixes_sentences,
    random_at_inference,
    same_output,
)
from keras_transformer.testing.recording import RecordGradients
from keras_transformer.testing.report import CHECKS, Finding, Report, check
from keras_transformer.testing.scoring import label_smoothing, loss_counts_padding, target_not_shifted

__all__ = [
    "CHECKS",
    "Finding",
    "RecordGradients",
    "Report",
    "Seq2Seq",
    "attends_to_source_padding",
    "attention_scaling",
    "cached_decoding",
    "check",
    "depends_on_padding",
    "gradients",
    "ignores_source",
    "ignores_source_order",
    "ignores_target_order",
    "label_smoothing",
    "learns_ten_pairs",
    "logits_are_finite",
    "looks_ahead",
    "loss_at_start",
    "loss_counts_padding",
    "misses_part_of_the_source",
    "mixes_sentences",
    "random_at_inference",
    "same_output",
    "target_not_shifted",
]
