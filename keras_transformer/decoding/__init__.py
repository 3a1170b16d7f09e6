"""From a trained model to target ids: one cached, compiled loop under several searches, a file each."""

from keras_transformer.decoding.ensemble import Ensemble
from keras_transformer.decoding.hypotheses import Hypothesis, Scored
from keras_transformer.decoding.mbr import minimum_bayes_risk
from keras_transformer.decoding.rules import Rules
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.scoring import AttentionMaps, Forced, ForcedDecoding
from keras_transformer.decoding.search import BeamSearch, GreedySearch
from keras_transformer.decoding.speculative import SpeculativeSearch

__all__ = [
    "AttentionMaps",
    "BeamSearch",
    "Ensemble",
    "Forced",
    "ForcedDecoding",
    "GreedySearch",
    "Hypothesis",
    "Rules",
    "Sampling",
    "Scored",
    "SpeculativeSearch",
    "minimum_bayes_risk",
]
