"""What stands before the application, asked in ASGI's words. Its refusals over HTTP are in test_app.py."""

import asyncio
import json
import time

import keras
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from fastapi.testclient import TestClient
from served_engine import Backwards

from keras_transformer.serving import gate
from keras_transformer.serving.app import create_app
from keras_transformer.serving.settings import Settings

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


async def ask(app, path, body, left=None):
    """(status, text of the reply) of a POST whose client leaves when ``left`` is set."""
    sent = []
    messages = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive():
        if messages:
            return messages.pop()
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "app": app}
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def serve(scenario, engine, **settings):
    """What ``scenario(app)`` returns, and the text of the metrics after it."""

    async def main():
        app = create_app(engine, Settings(**{"warm_up": False, "batch_delay": 0} | settings))
        async with app.router.lifespan_context(app):
            found = await asyncio.wait_for(scenario(app), 20)
        return found, app.state.service.metrics.text()[0].decode()

    return asyncio.run(main())


def test_what_a_client_asked_who_has_left_is_not_searched():
    async def scenario(app):
        first = asyncio.ensure_future(ask(app, "/v1/translate", {"texts": ["a dog"]}))
        await asyncio.to_thread(engine.begun.wait, 10)
        left = asyncio.Event()
        second = asyncio.ensure_future(ask(app, "/v1/translate", {"texts": ["two cats"]}, left))
        while not app.state.service.batcher.waiting:
            await asyncio.sleep(0.001)
        left.set()
        gone = await second
        engine.may_go_on.set()
        return gone[0], (await first)[0]

    engine = Backwards()
    engine.may_go_on.clear()
    statuses, metrics = serve(scenario, engine)
    assert statuses == (499, 200) and engine.batches == [1]
    assert 'requests_total{path="/v1/translate",status="499"} 1.0' in metrics


@pytest.mark.parametrize("length", [b"2000", b"1"])
def test_a_refused_body_is_let_come_to_its_end(length, monkeypatch):
    """Else the client, still sending, meets a closed connection and no reason. But not for ever."""

    async def scenario(app):
        log = []

        async def refused(parts, *headers):
            messages = [{"type": "http.request", "body": b" " * 100, "more_body": more} for more in parts]

            async def receive():
                if not messages:
                    await asyncio.Event().wait()
                log.append("part")
                return messages.pop(0)

            async def send(message):
                log.append(message.get("status", "reason"))

            headers = [(b"content-length", length), *headers]
            await app({"type": "http", "method": "POST", "path": "/v1/translate", "headers": headers}, receive, send)
            found = log.copy()
            log.clear()
            return found

        whole = await refused([True, True, True, False])
        expecting = await refused([True, False], (b"expect", b"100-continue"))
        return whole, expecting, await refused([True, True])

    monkeypatch.setattr(gate, "_DROPPED_SECONDS", 0.1)
    (whole, expecting, stuck), _ = serve(scenario, Backwards(), max_body=150)
    assert whole == ["part"] * 4 + [413, "reason"]
    assert expecting == ["part"] * (0 if length == b"2000" else 2) + [413, "reason"]
    assert stuck == ["part"] * 2 + [413, "reason"]


class Failing(Backwards):
    def search(self, sources, beam_size, only_best=False):
        raise ValueError("secret weights")

    def stream(self, source):
        yield source[0]
        raise ValueError("secret weights")


def test_what_a_model_raises_is_counted_as_500():
    async def scenario(app):
        with pytest.raises(ValueError, match="secret weights"):  # for the server's log
            await ask(app, "/v1/translate", {"texts": ["a dog"]})

    _, metrics = serve(scenario, Failing())
    assert 'requests_total{path="/v1/translate",status="500"} 1.0' in metrics and 'status="499"' not in metrics


def events_of(engine, **settings):
    app = create_app(engine, Settings(warm_up=False, **settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        reply = client.post("/v1/translate/stream", json={"text": "a dog"})
    return [json.loads(line.removeprefix("data: ")) for line in reply.text.strip().split("\n\n")]


def test_a_stream_that_breaks_off_says_why():
    class Slow(Backwards):
        def stream(self, source):
            yield source[0]
            time.sleep(0.5)
            yield source[0]

    for engine, settings, reason in (
        (Failing(), {}, "The model failed"),
        (Slow(), {"timeout": 0.2}, "longer than 0.2 s"),
    ):
        first, last = events_of(engine, **settings)
        assert not first["done"] and last.keys() == {"error"} and reason in last["error"]
