"""From a trained model to target ids: one cached, compiled loop under several searches, a file each."""

from keras_transformer.decoding.constrained import ConstrainedBeamSearch
from keras_transformer.decoding.diverse import DiverseBeamSearch
from keras_transformer.decoding.ensemble import Ensemble
from keras_transformer.decoding.hypotheses import Hypothesis, Scored
from keras_transformer.decoding.mbr import minimum_bayes_risk
from keras_transformer.decoding.precision import at_precision
from keras_transformer.decoding.rules import Rules
from keras_transformer.decoding.samplers import SamplerSearch, sampler_search
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.scoring import AttentionMaps, Forced, ForcedDecoding
from keras_transformer.decoding.search import BeamSearch, GreedySearch
from keras_transformer.decoding.speculative import SpeculativeSearch

__all__ = [
    "AttentionMaps",
    "BeamSearch",
    "ConstrainedBeamSearch",
    "DiverseBeamSearch",
    "Ensemble",
    "Forced",
    "ForcedDecoding",
    "GreedySearch",
    "Hypothesis",
    "Rules",
    "SamplerSearch",
    "Sampling",
    "Scored",
    "SpeculativeSearch",
    "at_precision",
    "minimum_bayes_risk",
    "sampler_search",
]
