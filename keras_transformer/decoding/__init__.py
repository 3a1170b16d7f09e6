"""From a trained model to target ids: one cached, compiled loop."""

from keras_transformer.decoding.rules import Rules
from keras_transformer.decoding.search import BeamSearch, GreedySearch

__all__ = ["BeamSearch", "GreedySearch", "Rules"]
