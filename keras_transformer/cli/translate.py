"""``keras-transformer translate``."""

import contextlib
import io
import itertools
import os
import sys

import click

from keras_transformer.cli.options import (
    backend_option,
    beam_size_option,
    find_translator,
    length_penalty_option,
    load_translator,
    precision_option,
)


@click.command()
@click.pass_context
@click.argument("run")
@backend_option
@click.option("--source", type=click.Path(allow_dash=True), default="-", help="Text, a sentence a line, plain or .gz.")
@click.option("--output", type=click.Path(allow_dash=True), default="-", help="Where the translations go.")
@beam_size_option
@length_penalty_option
@click.option(
    "--max-length",
    type=click.IntRange(1),
    help="Most tokens of a translation; never more than twice the source's and ten.",
)
@click.option("--n-best", type=click.IntRange(1), default=1, help="Translations of a line, separated by tabs.")
@click.option(
    "--groups", type=click.IntRange(1), default=1, help="Groups of the beam, which are made to differ from each other."
)
@click.option(
    "--diversity", type=click.FloatRange(0), default=0.5, help="What a token costs that another group has just taken."
)
@click.option(
    "--include",
    type=click.Path(exists=True, dir_okay=False),
    help="File of phrases that translations must have: those of a line on a line, separated by tabs.",
)
@click.option("--avoid", type=click.Path(exists=True, dir_okay=False), help="File of phrases that they must not have.")
@click.option(
    "--sampler",
    help="A sampler of keras-nlp in place of beam search: a name, such as top_p, or JSON of class_name and config.",
)
@precision_option
@click.option("--chunk", type=click.IntRange(1), default=1000, help="Lines at a time; 1 answers each at once.")
@click.option(
    "--longest",
    type=click.IntRange(2),
    default=1024,
    help="Most ids of a source, eos included; see --over-long for what is longer.",
)
@click.option(
    "--over-long",
    type=click.Choice(["split", "refuse"]),
    default="split",
    help="What to do with a longer source: split it at the ends of sentences, and too long a sentence between words; or fail.",
)
@click.option("--resume", is_flag=True, help="Goes on after the lines that --output already has.")
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    help="Translates every N-th line from the I-th on: the share of one of N machines.",
)
def translate(
    context,
    run,
    backend,
    source,
    output,
    chunk,
    longest,
    over_long,
    resume,
    shard,
    include,
    avoid,
    n_best,
    precision,
    **how,
):
    """Translates line by line with the model in RUN, a run folder or a saved translator."""
    from keras_transformer import file_translation
    from keras_transformer.text.corpus import read_lines

    find_translator(run)  # what is wrong is told before the work, and before standard input is waited for
    _check_output(output, resume, [source, include, avoid])
    number, count = _shard(shard)
    _check_search(context, include or avoid)
    lines = read_lines(source if source != "-" else _standard_input())
    lines = itertools.chain(list(itertools.islice(lines, chunk)), lines)
    done = file_translation.complete_lines(output) if resume else 0

    lines = file_translation.skip_lines(file_translation.shard(lines, number, count), done, output)
    phrases = {
        name: itertools.islice(file_translation.shard(_phrases(path), number, count), done, None)
        for name, path in (("include", include), ("avoid", avoid))
        if path
    }
    translator = load_translator(run, precision)
    search = _search(translator.model, bool(phrases), n_best, **how)
    counts = None
    with _writer(output, resume) as write, _progress() as show:
        for counts in file_translation.translate_lines(
            translator,
            lines,
            write,
            search,
            chunk_lines=chunk,
            longest=longest,
            over_long=over_long,
            first=number + count * done,
            stride=count,
            n_best=n_best,
            **phrases,
        ):
            show(counts)
    for name, rows in phrases.items():
        if next(rows, None) is not None:
            raise ValueError(
                f"--{name} has more lines than the source: they do not belong together, and what was written was made with the "
                "wrong phrases. Give a line of phrases, which may be blank, for each line of the source."
            )
    if counts is not None and (counts.split or counts.cut_off):
        click.echo(str(counts), err=True)


def _phrases(path):
    """Yields the phrases of each line of a file."""
    from keras_transformer.text.corpus import read_lines

    for line in read_lines(path):
        yield [phrase for phrase in line.split("\t") if phrase.strip()]


def _check_search(context, phrases):
    """Raises if options exclude one another."""
    given = {
        f"--{name.replace('_', '-')}"
        for name in ("beam_size", "groups", "diversity", "n_best", "sampler", "length_penalty")
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    } | ({"--include, --avoid"} if phrases else set())
    for one, others in (
        ("--sampler", {"--beam-size", "--groups", "--diversity", "--n-best", "--length-penalty", "--include, --avoid"}),
        ("--groups", {"--include, --avoid"}),
    ):
        if one in given and given & others:
            raise ValueError(f"{one} does not go with {', '.join(sorted(given & others))}. Leave out one of them.")


def _search(model, phrases, n_best, beam_size, length_penalty, max_length, groups, diversity, sampler):
    """The search that the options ask for."""
    from keras_transformer import decoding
    from keras_transformer.decoding.samplers import find_sampler

    if sampler is not None:
        return decoding.sampler_search(find_sampler(sampler), model, max_length)
    options = {"length_penalty": length_penalty, "max_length": max_length}
    if phrases:
        return decoding.ConstrainedBeamSearch(model, beam_size, n_best=n_best, **options)
    if groups > 1:
        return decoding.DiverseBeamSearch(model, beam_size, groups, diversity, n_best=n_best, **options)
    if beam_size == 1 and n_best == 1:
        return decoding.GreedySearch(model, **options)
    return decoding.BeamSearch(model, beam_size, n_best=n_best, **options)


def _standard_input():
    """sys.stdin.buffer, which may lack ``peek``."""
    buffer = sys.stdin.buffer
    return buffer if hasattr(buffer, "peek") else io.BufferedReader(buffer)


def _shard(text):
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard must be I/N with I from 1 to N. Received: {text!r}.")
    return int(number), int(count)


@contextlib.contextmanager
def _writer(output, resume):
    """A context that gives a function which writes translations, each on a line, and leaves none of them in a buffer.

    The file is opened with the first of them: what fails before leaves none, and an older one as it is.
    """
    with contextlib.ExitStack() as stack:
        file = sys.stdout.buffer if output == "-" else None

        def write(translations):
            nonlocal file
            file = file or stack.enter_context(open(output, "ab" if resume else "wb"))
            file.write("".join(translation + "\n" for translation in translations).encode("utf-8"))
            file.flush()

        yield write
        write([])  # of a text without lines


@contextlib.contextmanager
def _progress():
    """A context that gives a function which shows Counts on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda counts: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        yield lambda counts: bar.update(task, description=str(counts))


def _check_output(path, resume, inputs):
    """Raises before the work if its result could not be written, or would overwrite what is read."""
    from keras_transformer.text.formats import shards

    if path == "-":
        if resume:
            raise ValueError("--resume needs an --output file to go on with. Received none.")
        return
    files = [file for given in inputs if given not in (None, "-") for file in shards(given)]
    if any(os.path.exists(file) and os.path.exists(path) and os.path.samefile(file, path) for file in files):
        raise ValueError(f"--output must be another file than those that are read. Received: {path} for both.")
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise ValueError(f"--output must be a file. Received: the folder {path}. Name a file in it.")
    if not os.path.isdir(folder):
        raise ValueError(f"--output must be in a folder that exists. Received: {path}. Make {folder} first.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise ValueError(f"--output must be a file that can be written. Received: {path}. Change its permissions.")
