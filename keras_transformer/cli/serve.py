"""``keras-transformer serve``."""

import contextlib

import click

from keras_transformer.cli.options import backend_option
from keras_transformer.serving.settings import Settings


@click.command()
@click.argument("run")
@backend_option
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes a free one and prints it.")
@click.option("--name", help="Name of the model in /v1/models/NAME; the folder's if not given.")
@click.option(
    "--beam-size",
    type=click.IntRange(1),
    default=Settings.beam_size,
    help="Hypotheses searched for requests that do not say how many.",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    default=Settings.batch_tokens,
    help="Most positions searched at a time, padding and hypotheses included.",
)
@click.option(
    "--batch-delay",
    type=click.FloatRange(0),
    default=Settings.batch_delay,
    help="Seconds a lone sentence waits for company.",
)
@click.option(
    "--max-waiting-tokens",
    type=click.IntRange(1),
    default=Settings.max_waiting_tokens,
    help="Positions that may wait; beyond them a request gets 429.",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1),
    default=Settings.max_concurrency,
    help="Requests in progress at a time; beyond them a request gets 429.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=Settings.max_body,
    help="Most bytes of a request; a larger one gets 413.",
)
@click.option(
    "--max-texts",
    type=click.IntRange(1),
    default=Settings.max_texts,
    help="Most texts of a request; one with more gets 422.",
)
@click.option(
    "--max-pieces",
    type=click.IntRange(1),
    default=Settings.max_pieces,
    help="Most pieces of a text; a longer one gets 422.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=Settings.timeout,
    help="Most seconds a request may take; after them it gets 503.",
)
@click.option(
    "--grace", type=click.IntRange(0), default=30, help="Seconds that SIGTERM leaves to requests in progress."
)
@click.option(
    "--warm-up/--no-warm-up", default=Settings.warm_up, help="Whether it first translates something for itself."
)
@click.option(
    "--api-key",
    envvar="KERAS_TRANSFORMER_API_KEY",
    help="What requests must send as Authorization: Bearer KEY. Better given by the variable: others see a command line.",
    show_envvar=True,
)
def serve(run, backend, host, port, name, grace, **settings):
    """Serves the model in RUN over HTTP: a run folder, a saved translator, or an exported SavedModel.

    POST /v1/translate, /v1/models/NAME:predict as TensorFlow Serving has it, /metrics, and a page at /.
    """
    try:
        import uvicorn

        from keras_transformer.serving.app import create_app
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}: pip install 'keras-transformer[serve]'.") from None
    from keras_transformer.serving.engine import load_engine

    app = create_app(load_engine(run, name), Settings(**settings))
    config = uvicorn.Config(
        app, host=host, port=port, timeout_graceful_shutdown=grace, log_level="warning", access_log=False
    )
    server = uvicorn.Server(config)
    with contextlib.closing(config.bind_socket()) as socket:
        address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}/"
        if settings["warm_up"]:
            click.echo("The model is loaded and warms up; the address follows when it takes requests.", err=True)
        _tell_when_started(server, f"{address} translates with {run}. Ctrl-C or SIGTERM ends it.")
        server.run(sockets=[socket])
    if not server.started:
        raise ValueError("The server could not start; its log above says why.")


def _tell_when_started(server, message):
    """Has a uvicorn.Server say ``message`` once it answers."""
    start = server.startup

    async def startup(sockets=None):
        await start(sockets=sockets)
        click.echo(message, err=True)

    server.startup = startup
