"""From text to batches of ids: files -> validated pairs -> pieces -> padded batches; first in the flow.

tokenizer.py  text <-> ids (SentencePiece)
corpus.py     two aligned texts -> pairs, every pair left out counted
ids.py        are these ids of the vocabulary?
batches.py    pairs -> batches of few shapes under a budget of padded tokens
demo.py       the built-in English-German corpus, generated
"""

from keras_transformer.text.batches import Batches
from keras_transformer.text.corpus import Corpus, PairCounts, read_lines, read_pairs
from keras_transformer.text.demo import DemoCorpus, demo_corpus, dictionary_baseline, write_demo_corpus
from keras_transformer.text.ids import check_ids
from keras_transformer.text.tokenizer import Tokenizer

__all__ = [
    "Tokenizer",
    "Corpus",
    "PairCounts",
    "read_lines",
    "read_pairs",
    "check_ids",
    "Batches",
    "DemoCorpus",
    "demo_corpus",
    "dictionary_baseline",
    "write_demo_corpus",
]
