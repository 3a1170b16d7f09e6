"""Keras layers of the Transformer, one idea a file; each is usable alone in anybody's model."""

from keras_transformer.layers.attention import CrossAttention, SelfAttention
from keras_transformer.layers.decoder import Decoder, DecoderLayer
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import OutputProjection, SinusoidalPositions, TokenEmbedding
from keras_transformer.layers.encoder import Encoder, EncoderLayer
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.masking import causal_mask, combine_masks, padding_mask, segment_mask, segment_positions
from keras_transformer.layers.projection import Projection

__all__ = [
    "CrossAttention",
    "Decoder",
    "DecoderLayer",
    "Dropout",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "OutputProjection",
    "Projection",
    "SelfAttention",
    "SinusoidalPositions",
    "TokenEmbedding",
    "causal_mask",
    "combine_masks",
    "padding_mask",
    "segment_mask",
    "segment_positions",
]
