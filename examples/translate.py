"""Text files in, translations out, in plain Python. Without arguments it uses a slice of the built-in corpus.

python examples/translate.py train.en train.de valid.en valid.de
"""

import sys
import tempfile

import keras

import keras_transformer as kt
from keras_transformer.text import write_demo_corpus


def main(train_source, train_target, valid_source, valid_target, epochs=10, vocabulary_size=8000, **sizes):
    tokenizer = kt.Tokenizer.train([train_source, train_target], vocabulary_size=vocabulary_size)
    train = kt.Batches(train_source, train_target, tokenizer, batch_tokens=2048, seed=1)
    valid = kt.Batches(valid_source, valid_target, tokenizer, batch_tokens=2048, shuffle=False, num_buckets=2)

    model = kt.Transformer.from_preset("tiny", vocabulary_size=tokenizer.vocabulary_size, seed=1, **sizes)
    schedule = kt.WarmupInverseSqrt.from_peak(3e-3, d_model=model.d_model, warmup_steps=300)
    model.compile(optimizer=keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
    bleu = kt.callbacks.Bleu(valid_source, valid_target, tokenizer, max_sentences=100)
    history = model.fit(train, validation_data=valid, epochs=epochs, callbacks=[bleu], verbose=2)

    for source, translation in zip(bleu.source[:5], bleu.translations, strict=False):
        print(f"{source}\n    {translation}")
    print(bleu.score)
    return history.history


if __name__ == "__main__":
    if len(sys.argv) == 5:
        main(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = write_demo_corpus(folder, num_train=4000, num_valid=100, num_test=0)
            files = [path / name for name in ("train.en", "train.de", "valid.en", "valid.de")]
            sizes = {"num_layers": 1, "d_model": 64, "dropout": 0.0}
            main(*files, epochs=2, vocabulary_size=900, **sizes)
