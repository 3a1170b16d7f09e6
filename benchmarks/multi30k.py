"""The published Multi30k number: Transformer-tiny on the lower-cased, tokenised text, post-LN and pre-LN, averaged or not.

python benchmarks/multi30k.py --data ../shared/data/multi30k/tok --output runs/multi30k

Trains what is not trained yet (the same command goes on where it was stopped), translates test_2016_flickr with beam 5, and
prints the table. The reference is 41.02 BLEU (Wu et al. 2021, "Good for Misconceived Reasons": fairseq, 4 + 4 layers, d_model 128,
d_ff 256, 4 heads, all tables tied, dropout 0.3, rate 5e-3 after 2,000 of at most 8,000 updates of 2 x 4,096 tokens, average of the
last 10 checkpoints, beam 5, 10,000 joint BPE pieces).
"""

import argparse
import json
from pathlib import Path

import keras

import keras_transformer as kt
from keras_transformer.artifacts import read_state
from keras_transformer.checkpoints import average_checkpoints, latest_checkpoint, list_checkpoints, load_checkpoint
from keras_transformer.evaluation import bleu
from keras_transformer.text import read_pairs

NORMS = ("post", "pre")
CHECKPOINTS = 10
BEAM_SIZE = 5


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of train, val and test_2016_flickr, .en.gz and .de.gz"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="a folder for each norm, with checkpoints and curves"
    )
    parser.add_argument("--norm", choices=NORMS, nargs="+", default=NORMS)
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument(
        "--minutes", type=float, help="of training from now on, for each norm; the same command goes on"
    )
    parser.add_argument("--batch-tokens", type=int, default=4096, help="padded positions of a micro-batch")
    parser.add_argument("--micro-batches", type=int, default=2, help="that make an update")
    parser.add_argument("--dtype", default="float32", help="or mixed_bfloat16, which trains faster")
    parser.add_argument("--vocabulary-size", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, help="of the test set; all if not given")
    parser.add_argument("--plot", type=Path, help="PNG of perplexity on val by update")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def tokenizer_of(options):
    path = options.output / "tokenizer.model"
    if not path.exists():
        files = [options.data / f"train.{language}.gz" for language in ("en", "de")]
        kt.Tokenizer.train(files, vocabulary_size=options.vocabulary_size, model_type="bpe").save(path)
    return kt.Tokenizer.load(path)


def batches_of(split, tokenizer, options, **more):
    files = [options.data / f"{split}.{language}.gz" for language in ("en", "de")]
    return kt.Batches(*files, tokenizer, batch_tokens=options.batch_tokens, seed=options.seed, **more)


def trained(norm, tokenizer, options):
    """The model with its last weights, and what its training took."""
    folder = options.output / norm
    model = kt.Transformer.from_preset(
        "tiny", tokenizer.vocabulary_size, norm=norm, num_layers=options.layers, seed=options.seed, dtype=options.dtype
    )
    schedule = kt.WarmupInverseSqrt.from_peak(5e-3, model.d_model, warmup_steps=2000)
    adam = keras.optimizers.Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0)
    model.compile(kt.AccumulateGradients(adam, steps=options.micro_batches) if options.micro_batches > 1 else adam)
    path = latest_checkpoint(folder / "checkpoints")
    train = batches_of("train", tokenizer, options)
    if path is not None and read_state(path)["updates"] >= options.updates:
        load_checkpoint(model, path)
    else:
        fit(model, train, tokenizer, folder, options)  # from that checkpoint on
    rows = kt.callbacks.read_curves(folder / "curves.csv")
    updates, seconds = int(model.optimizer.iterations), rows[-1]["seconds"]
    return model, {
        "updates": updates,
        "epochs": len(rows),
        "seconds": seconds,
        "tokens_per_second": round(options.micro_batches * updates * train.num_tokens / len(train) / seconds),
        "val_perplexity": rows[-1]["val_perplexity"],
    }


def fit(model, train, tokenizer, folder, options):
    model.fit(
        train,
        validation_data=batches_of("val", tokenizer, options, shuffle=False, num_buckets=4),
        epochs=10**6,
        verbose=0,
        callbacks=[
            kt.callbacks.Resume(folder / "checkpoints"),
            kt.callbacks.LearningRate(),
            kt.callbacks.ProgressBar(train.num_tokens / len(train)),
            kt.callbacks.LearningCurves(folder),
            kt.callbacks.Checkpoints(folder / "checkpoints", keep=CHECKPOINTS, minutes=None),
            kt.callbacks.Limit(options.minutes, options.updates),
        ],
    )


def score(model, tokenizer, options):
    """BLEU of the test set: as the literature gives it, on tokens as they are, and as sacreBLEU's own tokenizer makes them."""
    pairs = read_pairs(*(options.data / f"test_2016_flickr.{language}.gz" for language in ("en", "de")))
    source, target = pairs.source[: options.sentences], pairs.target[: options.sentences]
    translations = kt.Translator(model, tokenizer).translate(
        source, beam_size=BEAM_SIZE, length_penalty=options.length_penalty
    )
    return {tokenize: bleu(translations, target, tokenize) for tokenize in ("none", "13a")}


def main():
    options = arguments()
    tokenizer = tokenizer_of(options)
    results = []
    for norm in options.norm:
        model, training = trained(norm, tokenizer, options)
        checkpoints = list_checkpoints(options.output / norm / "checkpoints")
        for name, taken in (("last", checkpoints[-1:]), ("averaged", checkpoints)):
            average_checkpoints(model, taken)
            kt.Translator(model, tokenizer).save(options.output / norm / name)
            scores = score(model, tokenizer, options)
            results.append({"norm": norm, "checkpoints": len(taken), "scores": scores, **training})
    report(results, options)


def report(results, options):
    print(f"{keras.backend.backend()}, seed {options.seed}, beam {BEAM_SIZE}, length penalty {options.length_penalty}")
    print(
        "| norm | checkpoints averaged | BLEU, tok:none | BLEU, tok:13a | perplexity on val | updates | seconds | tokens/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in results:
        none, other = (row["scores"][tokenize].value for tokenize in ("none", "13a"))
        print(
            f"| {row['norm']} | {row['checkpoints']} | {none:.2f} | {other:.2f} | {row['val_perplexity']:.2f} | {row['updates']} | "
            f"{row['seconds']:.0f} | {row['tokens_per_second']} |"
        )
    for bleu_score in results[-1]["scores"].values():
        print(bleu_score.signature)
    curves = {
        norm: kt.callbacks.read_curves(options.output / norm / "curves.csv")
        for norm in dict.fromkeys(row["norm"] for row in results)
    }
    for norm, rows in curves.items():
        shown = rows[:: max(1, len(rows) // 12)]
        print(
            f"{norm}, perplexity on val by update: "
            + ", ".join(f"{row['step']} {row['val_perplexity']:.2f}" for row in shown)
        )
        print(f"certificate: keras-transformer certify {options.output / norm / 'averaged'}")
    if options.plot:
        draw(curves, options.plot)
    if options.json:
        for row in results:
            row["scores"] = {name: [found.value, found.signature] for name, found in row["scores"].items()}
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def draw(curves, path):
    """Perplexity on val by update, a line a norm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for norm, rows in curves.items():
        axes.plot([row["step"] for row in rows], [row["val_perplexity"] for row in rows], label=f"{norm}-LN")
    axes.set_yscale("log")
    axes.set_xlabel("update")
    axes.set_ylabel("perplexity on val")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
