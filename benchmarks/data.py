"""Text to batches: how fast a large corpus is prepared and read, in how much memory, beside tf.data, PyTorch and grain.

A corpus of sentences as long as Multi30k's is generated, prepared into shards by the command line, streamed once as a whole, and
read by one contender after the other, each a process of its own. All do the same work on the same prepared text: ids of pairs in
a shuffled order, in batches of similar length padded to the longest. Tokens a second are real tokens of both sides. Memory is the
sum of the peaks of all processes, with pages of files that several of them have mapped counted in each.
"""

import bisect
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil
from harness import chosen, head, machine, measure, median, serve, spread, status_mb, write_json

BATCH_TOKENS = 4096
TOKENS_WANTED = 2_000_000  # a second, with two workers
MEMORY_WANTED = 1024  # MB
CONTENDERS = {
    "ours": 0,
    "ours, 1 worker": 1,
    "ours, 2 workers": 2,
    "ours, sampling, 2 workers": 2,
    "tf.data": 0,
    "tf.data, ids in memory": 0,
    "torch DataLoader": 0,
    "torch DataLoader, 2 workers": 2,
    "grain over ArrayRecord": 0,
    "grain over ArrayRecord, 2 workers": 2,
}


def write_corpus(folder, pairs):
    """Two files of ``pairs`` lines: random words in sentences as long as Multi30k's, about 75 bytes a side."""
    generator = np.random.default_rng(0)
    words = [_words(generator, 30_000) for _ in range(2)]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.en", "w") as source, open(folder / "train.de", "w") as target:
        for begin in range(0, pairs, 10_000):
            count = min(10_000, pairs - begin)
            lengths = np.maximum(2, generator.gamma(9, 1.4, count).astype(int))
            for file, vocabulary in zip((source, target), words, strict=True):
                sizes = np.maximum(2, lengths + generator.integers(-2, 3, count))
                chosen = np.minimum(generator.zipf(1.3, sizes.sum()), len(vocabulary)) - 1
                for row in np.split(chosen, np.cumsum(sizes)[:-1]):
                    file.write(" ".join([vocabulary[word] for word in row]) + "\n")
    return folder / "train.en", folder / "train.de"


def _words(generator, number):
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    lengths = generator.integers(2, 9, number)
    return ["".join(letters[np.minimum(generator.geometric(0.12, length), 26) - 1]) for length in lengths]


# What the children do


def _ours(folder, num_workers, sampling=None):
    import keras_transformer as kt

    batches = kt.Batches(folder, batch_tokens=BATCH_TOKENS, num_workers=num_workers, sampling=sampling, seed=1)

    def epochs():
        while True:
            for place in range(len(batches)):
                inputs, labels = batches[place]
                yield int(np.count_nonzero(inputs["source"]) + np.count_nonzero(labels))
            batches.set_epoch(batches.epoch + 1)

    return epochs()


class _Pairs:
    """What each peer is given: random access to pairs of ids in the prepared shards, and batches of similar length."""

    def __init__(self, folder):
        import pyarrow as pa

        from keras_transformer.text.store import Store

        self.store = Store(folder)
        sizes = [about["pairs"] for about in self.store.manifest["shards"]]
        self._firsts = (np.cumsum(sizes) - sizes).tolist()
        batches = [
            pa.ipc.open_file(pa.memory_map(str(Path(folder, about["file"])))).get_batch(0)
            for about in self.store.manifest["shards"]
        ]
        self.sides = [
            [(batch.column(name).values.to_numpy(), batch.column(name).offsets.to_numpy()) for batch in batches]
            for name in ("source", "target")
        ]

    def __len__(self):
        return self.store.num_pairs

    def __getitem__(self, number):
        shard = bisect.bisect_right(self._firsts, number) - 1
        place = number - self._firsts[shard]
        (source, begins), (target, others) = (side[shard] for side in self.sides)
        return source[begins[place] : begins[place + 1]], target[others[place] : others[place + 1]]

    def batches(self):
        """Numbers of the pairs of each batch: the pool of ours, by length."""
        longest = np.maximum(self.store.source.lengths, self.store.target.lengths)
        order = np.argsort(longest + np.random.default_rng(0).random(len(longest)), kind="stable")
        ends, begin = [], 0
        while begin < len(order):
            rows = max(1, BATCH_TOKENS // int(longest[order[min(begin + 200, len(order) - 1)]]))
            ends.append(order[begin : begin + rows].tolist())
            begin += rows
        np.random.default_rng(1).shuffle(ends)
        return ends


def _padded(rows):
    padded = np.zeros((len(rows), max(map(len, rows))), "int32")
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


def _collate(pairs):
    source, target = zip(*pairs, strict=True)
    return _padded(source), _padded([row[:-1] for row in target]), _padded([row[1:] for row in target])


def _tf_data(folder, num_workers, in_memory=False):
    import tensorflow as tf

    pairs = _Pairs(folder)
    longest = np.maximum(pairs.store.source.lengths, pairs.store.target.lengths)
    bounds = sorted({int(np.quantile(longest, share)) + 1 for share in np.linspace(0.125, 1, 8)})
    spec = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.int32))
    order = np.random.default_rng(0).permutation(len(pairs))

    def generate():
        for number in order:
            source, target = pairs[number]
            yield source.astype("int32"), target.astype("int32")

    if in_memory:  # no Python in the pipeline, and no file
        ids = [tf.constant(np.concatenate([ids for ids, _ in side]).astype("uint16")) for side in pairs.sides]
        sizes = pairs.store.source.lengths, pairs.store.target.lengths
        begins = [tf.constant(np.append(0, np.cumsum(size, dtype="int64"))) for size in sizes]

        def rows(number):
            return tuple(
                tf.cast(row[begin[number] : begin[number + 1]], tf.int32)
                for row, begin in zip(ids, begins, strict=True)
            )

        data = tf.data.Dataset.from_tensor_slices(order).map(rows, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        data = tf.data.Dataset.from_generator(generate, output_signature=spec).shuffle(10_000, seed=0)
    sizes = [max(1, BATCH_TOKENS // bound) for bound in bounds]
    data = data.bucket_by_sequence_length(lambda s, t: tf.maximum(tf.shape(s)[0], tf.shape(t)[0]), bounds, [*sizes, 1])
    data = data.map(lambda s, t: (s, t[:, :-1], t[:, 1:]), num_parallel_calls=tf.data.AUTOTUNE).prefetch(
        tf.data.AUTOTUNE
    )
    return (_tokens(batch) for batch in data.repeat().as_numpy_iterator())


def _torch(folder, num_workers):
    import torch

    pairs = _Pairs(folder)
    loader = torch.utils.data.DataLoader(
        pairs,
        batch_sampler=pairs.batches(),
        collate_fn=_collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )

    def epochs():
        while True:
            yield from map(_tokens, loader)

    return epochs()


def _grain(folder, num_workers):
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # outside of an absl program workers ask for it
    file = Path(folder).parent / "pairs.array_record"
    source = grain.sources.ArrayRecordDataSource([str(file)])
    groups = _Pairs(folder).batches()
    data = grain.MapDataset.source(_Groups(source, groups)).seed(0).shuffle().repeat().map(_unpack)
    data = data.to_iter_dataset()
    if num_workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return (_tokens(batch) for batch in data)


class _Groups:
    """Records of each batch, read together."""

    def __init__(self, source, groups):
        self.source, self.groups = source, groups

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, number):
        return self.source.__getitems__(self.groups[number])


def _unpack(records):
    pairs = []
    for record in records:
        row = np.frombuffer(record, "int32")
        pairs.append((row[1 : 1 + row[0]], row[1 + row[0] :]))
    return _collate(pairs)


def write_array_record(folder):
    """The same pairs as ArrayRecord, for grain; its bytes."""
    from array_record.python.array_record_module import ArrayRecordWriter

    pairs, file = _Pairs(folder), Path(folder).parent / "pairs.array_record"
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for number in range(len(pairs)):
        source, target = pairs[number]
        writer.write(np.concatenate([[len(source)], source, target]).astype("int32").tobytes())
    writer.close()
    return file.stat().st_size


def _tokens(batch):
    return int(np.count_nonzero(batch[0]) + np.count_nonzero(batch[2]))


def contender(name, folder, seconds):
    """The child's side: reads for so many seconds a burst."""
    workers = CONTENDERS[name]
    reader = {"ours": _ours, "tf.data": _tf_data, "torch": _torch, "grain": _grain}[name.replace(",", " ").split()[0]]
    more = {"sampling": 0.2} if "sampling" in name else {"in_memory": True} if "in memory" in name else {}
    batches = reader(folder, workers, **more)
    next(batches)

    def burst():
        begin, tokens, count = time.perf_counter(), 0, 0
        while (passed := time.perf_counter() - begin) < seconds:
            tokens += next(batches)
            count += 1
        return {"tokens_per_second": tokens / passed, "batches_per_second": count / passed, "tree_mb": _peak_mb()}

    serve(burst)


def _peak_mb():
    """The most that this process and each of its workers held so far, pages of files included, added up."""
    own = psutil.Process()
    return sum(status_mb("VmHWM", process.pid) for process in [own, *own.children(recursive=True)])


def stream(folder, num_workers):
    """The child's side: a whole epoch and the beginning of the next; prints what it took."""
    import keras_transformer as kt

    begin = time.perf_counter()
    batches = kt.Batches(folder, batch_tokens=BATCH_TOKENS, num_workers=num_workers, seed=1)
    opened = time.perf_counter()
    pairs = tokens = 0
    for place in range(len(batches)):
        inputs, labels = batches[place]
        pairs += int(np.count_nonzero(labels[:, 0]))
        tokens += int(np.count_nonzero(inputs["source"]) + np.count_nonzero(labels))
    ended = time.perf_counter()
    batches.set_epoch(1)
    batches[0]
    figures = {"opened_seconds": opened - begin, "epoch_seconds": ended - opened, "pairs": pairs, "tokens": tokens}
    figures |= {"next_epoch_seconds": time.perf_counter() - ended, "peak_mb": _peak_mb(), "workers": num_workers}
    if pairs != batches.num_pairs:
        raise RuntimeError(f"{pairs} of {batches.num_pairs} pairs were served")
    print(json.dumps(figures))


# The parent


def prepare(folder, files, workers):
    """Prepares the corpus by the command line; what it took, and the most memory all its processes held at a time."""
    command = [
        sys.executable,
        "-m",
        "keras_transformer",
        "prepare",
        "--source",
        str(files[0]),
        "--target",
        str(files[1]),
    ]
    command += [
        "--output",
        str(folder),
        "--workers",
        str(workers),
        "--tokenizer",
        str(folder.parent / "tokenizer.model"),
    ]
    begin, peak = time.perf_counter(), 0.0
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while child.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(child.pid)
            peak = max(peak, sum(process.memory_info().rss for process in [own, *own.children()]) / 2**20)
        time.sleep(0.2)
    if child.returncode:
        raise RuntimeError(f"prepare ended with {child.returncode}: {child.stdout.read()}")
    child.stdout.close()
    return {"seconds": time.perf_counter() - begin, "peak_mb": peak}


def step_tokens_per_second(seconds):
    """Tokens of both sides a second that the training step of ``base`` takes in on this machine, 64 rows of 24 positions."""
    import keras_transformer as kt

    model = kt.Transformer.from_preset("base", vocabulary_size=8000)
    model.compile()
    ids = np.random.default_rng(0).integers(4, 8000, (64, 24)).astype("int32")
    batch = {"source": ids, "target": ids}, ids
    model.train_on_batch(*batch)
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        model.train_on_batch(*batch)
        steps += 1
    return 2 * steps * ids.size / (time.perf_counter() - begin)


@click.command(help=__doc__)
@click.option("--pairs", type=click.IntRange(1), default=10_000_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Length of a burst.")
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Of the preparation.")
@click.option("--only", multiple=True, help="Only those whose name has this word; may be given again.")
@click.option(
    "--folder",
    default=None,
    help="Where corpus and shards are kept; about 4 GB for 10 million pairs. Else a temporary one.",
)
@click.option("--step/--no-step", default=True, help="Whether the training step of base is measured too.")
@click.option("--epoch/--no-epoch", default=True, help="Whether a whole epoch is streamed.")
@click.option("--json", "file", default=None, help="Where to write every measurement.")
@click.option("--contender", "child", nargs=2, hidden=True)
@click.option("--stream", "streamed", nargs=2, hidden=True)
def main(pairs, rounds, seconds, workers, only, folder, step, epoch, file, child, streamed):
    if child:
        return contender(*child, seconds)
    if streamed:
        return stream(streamed[0], int(streamed[1]))
    click.echo(head(machine()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(folder or temporary)
        prepared = measure_preparation(folder, pairs, workers)
        streamed = measure_epoch(folder) if epoch else None
        results = measure_reading(folder, rounds, seconds, only)
    taken = step_tokens_per_second(seconds) if step else None
    if taken:
        click.echo(f"the training step of base takes {taken:,.0f} tokens/s of both sides")
    for line in verdicts(prepared, streamed, results, taken):
        click.echo(line)
    if file:
        about = {"pairs": pairs, "preparation": prepared, "epoch": streamed, "step_tokens_per_second": taken}
        write_json(file, "data", results, **about)
    return None


def measure_epoch(folder, workers=2):
    command = [sys.executable, __file__, "--stream", str(folder / "prepared"), str(workers)]
    child = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"KERAS_BACKEND": "jax"}
    )
    found = json.loads(child.stdout.splitlines()[-1])
    click.echo(
        f"a whole epoch of {found['pairs']:,} pairs, each once, {workers} workers: opened in {found['opened_seconds']:.0f} s, "
        f"streamed in {found['epoch_seconds']:.0f} s ({found['pairs'] / found['epoch_seconds']:,.0f} pairs/s, "
        f"{found['tokens'] / found['epoch_seconds']:,.0f} tokens/s), next epoch dealt in {found['next_epoch_seconds']:.0f} s, "
        f"at most {found['peak_mb']:.0f} MB resident"
    )
    return found


def measure_preparation(folder, pairs, workers):
    from keras_transformer.text import Tokenizer, read_lines

    files = folder / "text" / "train.en", folder / "text" / "train.de"
    if not files[1].exists():
        write_corpus(folder / "text", pairs)
        lines = (line for name in files for line, _ in zip(read_lines(name), range(100_000), strict=False))
        Tokenizer.train(lines, vocabulary_size=8000).save(folder / "tokenizer.model")
    size = sum(name.stat().st_size for name in files)
    if (folder / "prepared").exists():
        click.echo("the shards are there already: only reading is measured")
        found = {}
    else:
        found = prepare(folder / "prepared", files, workers)
    shards = sum(path.stat().st_size for path in (folder / "prepared").iterdir())
    found |= {"pairs": pairs, "text_bytes": size, "shard_bytes": shards, "workers": workers}
    if "seconds" in found:
        click.echo(
            f"prepared {pairs:,} pairs, {size / 1e6:,.0f} MB, by {workers} workers in {found['seconds']:.0f} s: "
            f"{pairs / found['seconds']:,.0f} pairs/s, at most {found['peak_mb']:.0f} MB resident; shards {shards / 1e6:,.0f} MB"
        )
    return found


def measure_reading(folder, rounds, seconds, only):
    names = chosen(CONTENDERS, only)
    if any(name.startswith("grain") for name in names) and not (folder / "pairs.array_record").exists():
        click.echo(f"ArrayRecord of the same ids, written: {write_array_record(folder / 'prepared') / 1e6:,.0f} MB")
    results = {}
    for name in names:  # one after the other: workers of several would share the cores
        backend = {"tf.data": "tensorflow", "torch": "torch"}.get(name.replace(",", " ").split()[0], "jax")
        command = [sys.executable, __file__, "--seconds", str(seconds), "--contender", name, str(folder / "prepared")]
        try:
            results |= measure({name: (command, {"KERAS_BACKEND": backend})}, rounds, echo=click.echo)
        except RuntimeError as error:
            click.echo(f"left out: {error}")
    click.echo(f"{'':36}{'tokens/s':>12} {'spread':>7} {'batches/s':>10} {'resident MB':>12}")
    for name, bursts in results.items():
        click.echo(
            f"{name:36}{median(bursts, 'tokens_per_second'):12,.0f} {spread(bursts, 'tokens_per_second'):7.1%} "
            f"{median(bursts, 'batches_per_second'):10,.1f} {max(burst['tree_mb'] for burst in bursts):12,.0f}"
        )
    return results


def verdicts(prepared, streamed, results, taken):
    """Whether the bounds are kept: lines to print."""

    def line(what, value, kept, bound):
        return f"{what}: {value}, {bound}: {'kept' if kept else 'MISSED'}"

    if "peak_mb" in prepared:
        peak = prepared["peak_mb"]
        yield line("memory of the preparation", f"{peak:.0f} MB", peak < MEMORY_WANTED, f"below {MEMORY_WANTED}")
    if streamed:
        peak = streamed["peak_mb"]
        yield line("memory of streaming", f"{peak:.0f} MB", peak < MEMORY_WANTED, f"below {MEMORY_WANTED}")
    if "ours, 2 workers" in results:
        rate = median(results["ours, 2 workers"], "tokens_per_second")
        yield line("reading, 2 workers", f"{rate:,.0f} tokens/s", rate >= TOKENS_WANTED, f"at least {TOKENS_WANTED:,}")
        if taken:
            yield line("reading over the step of base", f"{rate / taken:.0f} times", rate >= 20 * taken, "at least 20")


if __name__ == "__main__":
    main()
