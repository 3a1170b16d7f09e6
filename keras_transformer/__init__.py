"""keras_transformer: the encoder-decoder Transformer for Keras 3, on TensorFlow, JAX and PyTorch.

Axes, named once and used unchanged everywhere:

    B batch          S source length    T target length    D d_model
    H heads          K head width       V vocabulary       W beam (hypotheses a sentence)

The public names below stand in the order that data flows through them.
"""

from keras_transformer import decoding, export, layers
from keras_transformer.losses import SmoothedCrossentropy
from keras_transformer.metrics import Perplexity, TokenAccuracy
from keras_transformer.optimizers import AccumulateGradients
from keras_transformer.schedules import WarmupInverseSqrt
from keras_transformer.text import Batches, Tokenizer
from keras_transformer.transformer import Transformer
from keras_transformer.translator import Translator

__version__ = "0.1.0"
