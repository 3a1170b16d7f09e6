"""The preparation of prepare.py on many machines: an Apache Beam pipeline that writes the same shards.

Beside prepare.py; the extra [beam]. The same code runs on the DirectRunner, Dataflow, Flink or Spark; the folder must be one that
all workers see. The text must come as shards itself, aligned file by file ("train-*.en", "train-*.de"): each pair of files is cut
into pieces by one worker, shard by shard, and nothing but counts passes between workers. Lines count in each file anew; in the
shards those of file n, from 0, begin at n * 2**40, so that no two pairs draw the same samples.
"""

import dataclasses
import json
import os
from pathlib import Path

from keras_transformer.text.corpus import PairStream
from keras_transformer.text.filters import PairCounts
from keras_transformer.text.formats import is_standard_input, of_extra, shards
from keras_transformer.text.prepare import (
    ShardWriter,
    chunks,
    existing,
    finished_before,
    recipe_of,
    total_counts,
    write_manifest,
    writing,
)
from keras_transformer.text.store import LINES, shard_name
from keras_transformer.text.tokenizer_files import tokenizer_from_bytes

# Numbers of shards kept free for each pair of files.
_NUMBERS = 100_000


class _PrepareFiles:
    """What a Beam worker does with one pair of files: (number, source, target) -> (number, read counts, shards)."""

    def __init__(self, folder, serialized, max_length, shard_pairs, options):
        self._arguments = folder, serialized, max_length
        self._shard_pairs, self._options = shard_pairs, options

    def __call__(self, element):
        number, source, target = element
        folder, serialized, max_length = self._arguments
        writer = ShardWriter(folder, tokenizer_from_bytes(serialized), max_length)
        stream, made = PairStream(source, target, **self._options), []
        for place, pairs in enumerate(chunks(stream, self._shard_pairs)):
            if place == _NUMBERS:  # the next would take the name of another file's
                raise ValueError(
                    f"{source} makes more than {_NUMBERS:,} shards of {self._shard_pairs} pairs. Raise shard_pairs."
                )
            shard = number * _NUMBERS + place
            pairs = [(number * LINES + line, *texts) for line, *texts in pairs]
            made.append(existing(Path(folder, shard_name(shard))) or writer((shard, pairs)))
        return number, dataclasses.asdict(stream.counts), made


def prepare_with_beam(stream, tokenizer, folder, max_length=256, shard_pairs=100_000, options=None):
    """Prepares a corpus into a folder that kt.Batches reads, with Apache Beam; called again, it goes on.

    Args:
        stream: PairStream of files; without the filter of duplicates, which no worker could decide alone.
        tokenizer: Tokenizer.
        folder: as prepare's, seen by all workers.
        max_length: most positions of a row; longer pairs are left out and counted.
        shard_pairs: pairs of text a shard, at most.
        options: apache_beam.options.pipeline_options.PipelineOptions; None for the DirectRunner.

    Returns:
        PairCounts.

    Raises:
        ValueError: as prepare; Apache Beam is not installed; the text is not in files, or its filters leave out duplicates.

    Example:

        from apache_beam.options.pipeline_options import PipelineOptions
        options = PipelineOptions(["--runner=DataflowRunner", "--project=...", "--region=...", "--temp_location=gs://..."])
        prepare_with_beam(PairStream("train-*.en", "train-*.de"), tokenizer, "/mnt/shared/en-de", options=options)
    """
    beam = of_extra("apache_beam", "This preparation", "beam")
    if stream.filters is not None and stream.filters.duplicates:
        raise ValueError(
            "Duplicates are found by one process that sees all text. Use prepare for it, or leave the filter out."
        )
    for side in (stream.source, stream.target):
        if is_standard_input(side) or not isinstance(side, str | os.PathLike | None):
            received = "standard input" if is_standard_input(side) else "text in memory"
            raise ValueError(f"Beam reads files. Received: {received}. Give paths or patterns, or use prepare.")
    folder = Path(folder).absolute()
    recipe = recipe_of(stream, tokenizer, max_length, shard_pairs)
    finished = finished_before(folder, recipe)
    if finished is not None:
        return finished
    kept = {"columns": stream.columns, "filters": stream.filters}
    kept |= {"normalization": stream.normalization, "on_bad_line": stream.on_bad_line}
    work = _PrepareFiles(os.fspath(folder), tokenizer.to_bytes(), max_length, shard_pairs, kept)
    results = Path(folder, "beam-results")
    with writing(folder, recipe, tokenizer):
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(_elements(stream))
                | "Spread" >> beam.Reshuffle()
                | "Shards" >> beam.Map(work)
                | "Together" >> beam.combiners.ToList()
                | "Note" >> beam.Map(_note, os.fspath(results))
            )
        return _finish(stream, folder, recipe, results)


def _elements(stream):
    sources = shards(stream.source)
    targets = shards(stream.target) if stream.target is not None else [None] * len(sources)
    return [
        (number, os.path.abspath(source), None if target is None else os.path.abspath(target))
        for number, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]


def _note(done, path):
    Path(path).write_text(json.dumps(sorted(done)), encoding="utf-8")


def _finish(stream, folder, recipe, results):
    done = json.loads(results.read_text(encoding="utf-8"))
    read = sum((PairCounts(**counts) for _, counts, _ in done), PairCounts(0, 0))
    made = [about for _, _, shards_of_file in done for about in shards_of_file]
    counts = total_counts(stream, read, made)
    write_manifest(folder, recipe, made, counts)
    results.unlink()
    return counts
