"""The smallest training there is: learn to repeat a sequence. No text, no tokenizer; half a minute.

KERAS_BACKEND=jax python examples/copy_task.py
"""

import keras
import numpy as np

import keras_transformer as kt

PAD, BOS, EOS, VOCABULARY_SIZE = 0, 2, 3, 24


def make_rows(generator, rows, longest=8):
    """Sources of random ids ended by eos; targets begin with bos, labels end with eos: the target one position ahead."""
    source = np.full((rows, longest + 1), PAD, "int32")
    target, labels = source.copy(), source.copy()
    for row in range(rows):
        ids = generator.integers(4, VOCABULARY_SIZE, generator.integers(2, longest + 1))
        source[row, : len(ids) + 1] = labels[row, : len(ids) + 1] = [*ids, EOS]
        target[row, : len(ids) + 1] = [BOS, *ids]
    return {"source": source, "target": target}, labels


def main():
    generator = np.random.default_rng(0)
    model = kt.Transformer(VOCABULARY_SIZE, d_model=32, num_heads=4, num_layers=1, dropout=0.0, norm="pre", seed=1)
    schedule = kt.WarmupInverseSqrt.from_peak(1e-2, d_model=32, warmup_steps=100)
    model.compile(optimizer=keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
    model.fit(*make_rows(generator, 16_000), batch_size=64, epochs=2, verbose=2)

    inputs, labels = make_rows(generator, 200)
    ids, _ = kt.decoding.GreedySearch(model, max_length=labels.shape[1])(inputs["source"])
    correct = (ids[:, 0] == labels).all(axis=1).mean()
    print(f"sequences repeated without a mistake: {correct:.2f}")
    return correct


if __name__ == "__main__":
    main()
