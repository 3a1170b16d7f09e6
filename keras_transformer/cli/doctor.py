"""``keras-transformer doctor``."""

import sys

import click


@click.command()
def doctor() -> None:
    """Examines Python, the installed backends and what else is needed; exit code 1 if something is amiss."""
    from keras_transformer.doctor import examine

    findings = examine()
    for finding in findings:
        click.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.subject}: {finding.text}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)
