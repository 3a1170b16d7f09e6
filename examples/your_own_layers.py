"""The layers one by one in a functional Keras model of your own: here a tagger, which has an encoder and no decoder."""

import keras
import numpy as np

from keras_transformer.layers import Encoder, SinusoidalPositions, TokenEmbedding, padding_mask


def make_tagger(vocabulary_size, num_tags, d_model=32):
    """Token ids (B, S) -> logits of a tag for each token (B, S, num_tags)."""
    ids = keras.Input((None,), dtype="int32")
    x = SinusoidalPositions()(TokenEmbedding(vocabulary_size, d_model, seed=1)(ids))
    x = Encoder(num_layers=1, d_model=d_model, num_heads=4, norm="pre", seed=2)(x, attention_mask=padding_mask(ids))
    return keras.Model(ids, keras.layers.Dense(num_tags)(x))


def main():
    """Tag 1 for a token that is followed by a larger one, else 0: a token must look at its neighbour."""
    ids = np.random.default_rng(0).integers(1, 10, (4000, 12), dtype="int32")
    tags = np.zeros_like(ids)
    tags[:, :-1] = ids[:, 1:] > ids[:, :-1]
    tagger = make_tagger(vocabulary_size=10, num_tags=2)
    tagger.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    history = tagger.fit(ids, tags, batch_size=64, epochs=8, validation_split=0.1, verbose=2)
    return history.history


if __name__ == "__main__":
    main()
