"""What searches and precisions give on a trained model: BLEU, agreement between batches, speculative decoding.

    KERAS_BACKEND=jax python benchmarks/translation.py RUN --source test.en.gz --target test.de.gz
    ... --parts bleu --beams 1,4,8            # BLEU by size of the beam, float32
    ... --parts precision                     # BLEU of bfloat16 and int8, beam 4
    ... --parts batches                       # the same sentences in other batches
    ... --parts speculative --draft RUN       # a smaller model of the same vocabulary drafts

RUN is a run folder or a saved translator. On one backend; run it on each. --json collects: what is there stays. Seconds have the
compiling in them, but those of speculative decoding, whose sentences are all searched once before.
"""

import json
import time
from pathlib import Path

import click
import keras
import numpy as np
import sacrebleu
from harness import chosen, head, machine

from keras_transformer.cli.options import load_translator
from keras_transformer.decoding import BeamSearch, GreedySearch, SpeculativeSearch
from keras_transformer.text.corpus import read_pairs


def bleu(translator, pairs, beam):
    """Score and seconds, the first search of each shape with its compilation included."""
    begin = time.perf_counter()
    found = translator.translate(pairs.source, beam_size=beam)
    return {
        "bleu": sacrebleu.corpus_bleu(found, [pairs.target]).score,
        "seconds": time.perf_counter() - begin,
        "translations": found,
    }


def batches(translator, pairs, count):
    """How many of ``count`` translations differ between batches, and how many of those by 1e-5 or more of score."""
    texts = pairs.source[:count]
    search = BeamSearch(translator.model, 4, n_best=1)

    def padded(text):
        ids = translator.tokenizer.encode(text, add_eos=True)
        ids = np.array([ids + [translator.tokenizer.pad_id] * (48 - len(ids))])
        found, scores = search(ids)
        return translator.tokenizer.decode(found[0, 0].tolist()), float(scores[0, 0])

    together = translator.hypotheses(texts, search)
    others = {
        "in reverse": translator.hypotheses(texts[::-1], search)[::-1],
        "few at a time": translator.hypotheses(texts, search, batch_tokens=400),
        "one at a time": translator.hypotheses(texts, search, batch_tokens=1),
    }
    others = {name: [(one[0].text, one[0].score) for one in found] for name, found in others.items()}
    others["one at a time, padded to 48"] = [padded(text) for text in texts]
    result = {}
    for name, found in others.items():
        gaps = [
            abs(score - one[0].score) for (text, score), one in zip(found, together, strict=True) if text != one[0].text
        ]
        result[name] = {"differ": len(gaps), "by 1e-5 or more": sum(gap >= 1e-5 for gap in gaps)}
    return result


def speculative(translator, draft, pairs, count, drafted):
    """Greedy search of single sentences of at most 24 ids, without a draft and with one."""
    encoded = [translator.tokenizer.encode(text, add_eos=True) for text in pairs.source]
    rows = [np.array([ids + [translator.tokenizer.pad_id] * (24 - len(ids))]) for ids in encoded if len(ids) <= 24]
    rows = rows[:count]
    if not rows:
        raise click.UsageError("No sentence has at most 24 ids, which the part speculative is of.")

    def timed(search):
        for row in rows:  # compiles; on PyTorch steps are captured
            search(row)
        found, passes, begin = [], 0, time.perf_counter()
        for row in rows:
            found.append(search(row)[0])
            passes += int(search.passes.sum()) if hasattr(search, "passes") else int((found[-1] != 0).sum())
        return found, passes, time.perf_counter() - begin

    expected, steps, seconds = timed(GreedySearch(translator.model))
    result = {"greedy": {"steps of the large model": steps, "seconds": seconds}}
    for number in drafted:
        found, passes, seconds = timed(SpeculativeSearch(translator.model, draft.model, num_draft=number))
        same = sum(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        result[f"{number} drafted"] = {
            "steps of the large model": passes,
            "seconds": seconds,
            "same": same,
            "sentences": len(rows),
        }
    return result


PARTS = ("bleu", "precision", "batches", "speculative")


@click.command(help=__doc__)
@click.argument("run")
@click.option("--source", required=True)
@click.option("--target", required=True)
@click.option("--parts", default="bleu,precision,batches", show_default=True)
@click.option("--beams", default="1,4,8", show_default=True)
@click.option(
    "--count", type=click.IntRange(1), default=100, show_default=True, help="Sentences of the last two parts."
)
@click.option("--draft", help="Run folder of the small model.")
@click.option("--drafted", default="1,2,3,4", show_default=True, help="Tokens drafted at a time.")
@click.option("--json", "file", default=None, help="Where results are added.")
def main(run, source, target, parts, beams, count, draft, drafted, file):
    parts = chosen(PARTS, parts.split(","))
    if "speculative" in parts and draft is None:
        raise click.UsageError(
            "The part speculative needs --draft, the run folder of a small model of the same vocabulary."
        )
    backend, pairs = keras.backend.backend(), read_pairs(source, target)
    results = json.loads(Path(file).read_text(encoding="utf-8")) if file and Path(file).exists() else {}
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    click.echo(head(machine()))

    def say(name, found):
        results[f"{backend}: {name}"] = found
        shown = {key: value for key, value in found.items() if key != "translations"}
        click.echo(f"{backend}: {name}: {json.dumps(shown)}")
        if file:
            Path(file).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    translator = load_translator(run)
    for part in parts:
        if part == "bleu":
            for beam in map(int, beams.split(",")):
                say(f"float32, beam {beam}", bleu(translator, pairs, beam))
        elif part == "precision":
            for precision in ("bfloat16", "int8"):
                say(f"{precision}, beam 4", bleu(load_translator(run, precision), pairs, 4))
        elif part == "batches":
            for name, found in batches(translator, pairs, count).items():
                say(name, found)
        else:
            small = load_translator(draft)
            for name, found in speculative(translator, small, pairs, count, map(int, drafted.split(","))).items():
                say(name, found)


if __name__ == "__main__":
    main()
