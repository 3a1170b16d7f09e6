"""``keras-transformer average``."""

import click

from keras_transformer.cli.options import backend_option


@click.command()
@click.argument("run")
@backend_option
@click.option("--output", required=True, help="Folder of the translator that is written.")
@click.option(
    "--last",
    type=click.IntRange(1),
    help="How many of the newest checkpoints; all if neither --last nor --best is given.",
)
@click.option("--best", type=click.IntRange(1), help="How many of the best checkpoints, by --monitor.")
@click.option("--monitor", default="val_bleu", help="The metric that tells the best, as it is called in curves.csv.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "max", "min"]),
    default="auto",
    help="Whether more or less of --monitor is better; auto tells it by the name, where the name tells.",
)
def average(run, backend, output, last, best, monitor, mode):
    """Writes a translator whose weights are the mean of checkpoints of RUN.

    train --keep N and --best N say how many checkpoints there are. Vaswani et al. 2017 (section 6.1) take the last 5 to 20.
    """
    from keras_transformer.averaging import average_run

    if last is not None and best is not None:
        raise click.UsageError("Give --last or --best, not both.")
    paths = average_run(run, output, last=last, best=best, monitor=monitor, mode=mode)
    click.echo(f"{output} holds the mean of {', '.join(path.name for path in paths)}.", err=True)
