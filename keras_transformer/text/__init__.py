"""From text to batches of ids: files -> validated pairs -> pieces -> padded batches. The first room that data flow through.

formats.py    files of any kind -> lines; only a line feed ends a line
filters.py    which pairs are kept; every pair that is left out is counted
corpus.py     two aligned texts -> pairs, as a stream or in memory
mixture.py    several corpora by weight
tokenizer.py  text <-> ids (SentencePiece); pieces.py: what its pieces are; pair.py: one for each side; foreign.py takes other
              libraries' tokenizers; tokenizer_files.py reads all of them
ids.py        whether ids are ids of the vocabulary
prepare.py    text -> shards of ids on disk, in parallel processes; store.py reads them; beam.py does it on many machines
buckets.py    shapes chosen from the lengths; packing.py puts several pairs into one line
rows.py       rows of ids -> a batch, here or in workers.py's processes, ahead of time with prefetch.py
encoding.py   a corpus in whatever form -> rows; joined.py: those of several as one
batches.py    rows -> batches of few shapes under a budget of padded tokens; dealing.py: the order of an epoch
inspection.py what a corpus is like, before anything is trained
demo.py       the built-in English-German corpus, generated
"""

from keras_transformer.text.corpus import Corpus, PairStream, read_lines, read_pairs
from keras_transformer.text.demo import DemoCorpus, demo_corpus, dictionary_baseline, write_demo_corpus
from keras_transformer.text.filters import Filters, PairCounts
from keras_transformer.text.foreign import as_tokenizer
from keras_transformer.text.ids import check_ids
from keras_transformer.text.mixture import Mixture
from keras_transformer.text.pair import TokenizerPair, source_tokenizer
from keras_transformer.text.pieces import shared_rows
from keras_transformer.text.prepare import prepare
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.tokenizer_files import load_tokenizer
from keras_transformer.text.workers import WorkerError

__all__ = [
    "Tokenizer",
    "as_tokenizer",
    "load_tokenizer",
    "TokenizerPair",
    "source_tokenizer",
    "shared_rows",
    "Corpus",
    "PairStream",
    "Filters",
    "PairCounts",
    "Mixture",
    "read_lines",
    "read_pairs",
    "check_ids",
    "prepare",
    "WorkerError",
    "Batches",
    "DemoCorpus",
    "demo_corpus",
    "dictionary_baseline",
    "write_demo_corpus",
]


def __getattr__(name):
    """Batches when it is first asked for: it alone needs Keras, which preparing text does without."""
    if name == "Batches":
        from keras_transformer.text.batches import Batches

        return Batches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
