"""Models of other libraries as ours, and ours as theirs."""

from keras_transformer.interchange.keras_nlp import load_preset, save_preset
from keras_transformer.interchange.marian import MarianTransformer, load_marian
from keras_transformer.interchange.marian_tokenizer import MarianTokenizer

__all__ = ["MarianTokenizer", "MarianTransformer", "load_marian", "load_preset", "save_preset"]
