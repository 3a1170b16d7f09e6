"""``keras-transformer doctor``."""

import sys

import click


@click.command()
def doctor() -> None:
    """Examines Python, the installed backends and what else is needed; exit code 1 if something is amiss."""
    from keras_transformer.doctor import examine

    observations = examine()
    for seen in observations:
        click.echo(f"{'ok ' if seen.ok else 'BAD'}  {seen.subject}: {seen.text}")
    if not all(seen.ok for seen in observations):
        sys.exit(1)
