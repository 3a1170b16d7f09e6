"""What kt.SkipNonFinite costs a step: the same model with plain Adam and with it, in one process, burst by burst in turn.

KERAS_BACKEND=jax python benchmarks/skipping.py --preset small
"""

import statistics
import time

import click


@click.command()
@click.option("--preset", default="small")
@click.option("--batch-tokens", default=4096)
@click.option("--steps", default=4, help="Steps a burst.")
@click.option("--rounds", default=8, help="Bursts of each, after one that is not counted.")
def main(preset, batch_tokens, steps, rounds):
    """Prints a line of figures: the median step of each, and the median of the ratios, burst by burst."""
    import keras
    import numpy as np

    import keras_transformer as kt

    generator = np.random.default_rng(1)

    def make(wrap):
        model = kt.Transformer.from_preset(preset, seed=1)
        schedule = kt.WarmupInverseSqrt(model.d_model, 4000)
        model.compile(wrap(keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0)))
        return model

    models = [make(lambda optimizer: optimizer), make(kt.SkipNonFinite)]
    ids = generator.integers(4, models[0].vocabulary_size, (batch_tokens // 32, 32), dtype="int32")

    def burst(model):
        batches = (({"source": ids, "target": ids}, ids) for _ in range(steps))
        begin = time.perf_counter()
        model.fit(batches, steps_per_epoch=steps, verbose=0)
        return (time.perf_counter() - begin) / steps

    for model in models:
        burst(model)
    times = [[], []]
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            times[place].append(burst(models[place]))
    plain, skipping = map(statistics.median, times)
    ratios = sorted(other / one - 1 for one, other in zip(*times, strict=True))
    click.echo(
        f"{keras.backend.backend()} {preset}, {batch_tokens} tokens: step {plain * 1e3:.1f} ms, with SkipNonFinite "
        f"{skipping * 1e3:.1f} ms, {statistics.median(ratios):+.2%} (from {ratios[0]:+.2%} to {ratios[-1]:+.2%})"
    )


if __name__ == "__main__":
    main()
