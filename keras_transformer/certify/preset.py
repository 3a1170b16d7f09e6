"""A checkpoint of a preset to certify: a few updates on the built-in corpus.

``python -m keras_transformer.certify.preset FOLDER``, which holds preset.json; runs in a process of its own. Untrained logits are
nearly flat, and searches over them would end in ties and at the limit of length.
"""

import json
import sys
from pathlib import Path

import keras

from keras_transformer.certify.orphans import end_with_parent
from keras_transformer.schedules import WarmupInverseSqrt
from keras_transformer.text.batches import Batches
from keras_transformer.text.demo import demo_corpus
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.transformer import Transformer
from keras_transformer.translator import Translator

UPDATES = 100  # at least: epochs are whole


def main(folder):
    preset = json.loads((Path(folder) / "preset.json").read_text(encoding="utf-8"))["preset"]
    pairs = demo_corpus(num_train=2000, num_valid=0, num_test=0).train
    tokenizer = Tokenizer.train(pairs.source + pairs.target, vocabulary_size=800)
    batches = Batches(pairs.source, pairs.target, tokenizer, batch_tokens=1024, seed=1, num_buckets=1)
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    model = Transformer.from_preset(preset, tokenizer.vocabulary_size, seed=1, **no_dropout)
    schedule = WarmupInverseSqrt.from_peak(2e-3, model.d_model, warmup_steps=UPDATES // 2)
    model.compile(keras.optimizers.Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
    model.fit(batches, epochs=-(-UPDATES // len(batches)), verbose=0)
    Translator(model, tokenizer).save(Path(folder) / "translator")


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
