"""keras_transformer: the encoder-decoder Transformer for Keras 3, on TensorFlow, JAX and PyTorch.

Axes, named once and used unchanged everywhere:

    B batch          S source length    T target length    D d_model
    H heads          K head width       V vocabulary       W beam (hypotheses a sentence)

The public names below stand in the order that data flows through them.
"""

import re
import sys
from pathlib import Path

from keras_transformer._version import __version__
from keras_transformer.environment import check_backend


def _is_command_line():
    """Whether this process is the command line, which chooses the backend before Keras is imported."""
    if sys.argv[0] == "-m":  # as Python has it until it has found the module; it may be another one of this package
        return any(re.fullmatch(r"(-\w*m)?keras_transformer(\.__main__)?", word) for word in sys.orig_argv[1:])
    return Path(sys.argv[0]).stem == "keras-transformer"


if not _is_command_line():
    check_backend()
    from keras_transformer import callbacks, decoding, export, layers, testing
    from keras_transformer.artifacts import ArtifactError
    from keras_transformer.evaluation import bleu
    from keras_transformer.losses import SmoothedCrossentropy
    from keras_transformer.metrics import Perplexity, TokenAccuracy
    from keras_transformer.model_files import load_weights, save_weights
    from keras_transformer.optimizers import AccumulateGradients, SkipNonFinite
    from keras_transformer.schedules import WarmupInverseSqrt
    from keras_transformer.text import Batches, Tokenizer
    from keras_transformer.transformer import Transformer
    from keras_transformer.translator import Translator
