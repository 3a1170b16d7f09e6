"""A small model, batches of text for it, and a short ``fit``: what the tests of callbacks share."""

import keras

import keras_transformer as kt

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps"] * 4
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft"] * 4
TOKENIZER = kt.Tokenizer.train(EN + DE, vocabulary_size=300)


def make_training():
    """A compiled model, and batches of one shape."""
    model = kt.Transformer(TOKENIZER.vocabulary_size, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    model.compile(optimizer=keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=10)))
    return model, kt.Batches(EN, DE, TOKENIZER, batch_tokens=32, num_buckets=1)


def fit(model, batches, callbacks, epochs=1, **kwargs):
    """The history of the logs."""
    return model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0, **kwargs).history
