"""Summarisation is a pair of texts too: long source, short target. Here made-up reports and their headlines.

With your own files: a document a line in one, its summary on the same line of the other, and examples/translate.py.
"""

import random

import keras

import keras_transformer as kt

TEAMS = ["Adler", "Bears", "Comets", "Dragons", "Eagles", "Falcons", "Giants", "Hawks"]
CITIES = ["Bonn", "Graz", "Lyon", "Oslo", "Porto", "Turin"]


def make_pair(draw):
    """A report of four sentences whose order varies, and its headline: who won, against whom, how."""
    winner, loser = draw.sample(TEAMS, 2)
    goals = draw.randint(0, 4)
    margin = draw.randint(1, 3)
    sentences = [
        f"It rained in {draw.choice(CITIES)} all evening.",
        f"The {winner} scored {goals + margin} goals.",
        f"The {loser} scored {goals}.",
    ]
    draw.shuffle(sentences)
    sentences.append(draw.choice(["Tickets were sold out.", "The crowd went home late.", "There were no injuries."]))
    return " ".join(sentences), f"{winner} beat {loser} {goals + margin} to {goals}"


def main(epochs=6):
    draw = random.Random(0)
    reports, headlines = zip(*(make_pair(draw) for _ in range(4000)), strict=True)
    tokenizer = kt.Tokenizer.train([*reports, *headlines], vocabulary_size=340)
    train = kt.Batches(list(reports), list(headlines), tokenizer, batch_tokens=2048, seed=1, num_buckets=2)

    model = kt.Transformer(
        tokenizer.vocabulary_size, d_model=64, num_heads=4, num_layers=1, dropout=0.0, norm="pre", seed=1
    )
    schedule = kt.WarmupInverseSqrt.from_peak(5e-3, d_model=64, warmup_steps=100)
    model.compile(optimizer=keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
    history = model.fit(train, epochs=epochs, verbose=2)

    report, headline = make_pair(draw)
    print(f"{report}\n    {kt.Translator(model, tokenizer).translate([report])[0]}\n    (expected: {headline})")
    return history.history


if __name__ == "__main__":
    main()
