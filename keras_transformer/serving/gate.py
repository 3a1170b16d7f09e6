"""What stands before every request: the API key, the size of its body, how many there are, how long they take, what is counted.

Plain ASGI, so that a body that is too large is refused before it is kept, and a streamed reply is not held back. A request whose
client has left is given up. Every body is JSON, whatever its Content-Type says, which curl and TensorFlow Serving's examples leave
at a form's.
"""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Callable

from keras_transformer.serving.metrics import Metrics
from keras_transformer.serving.settings import Settings

_OPEN = ("/healthz", "/metrics")  # answered under any load and without a key, for monitoring
# How much of a refused body is read, and for how long: closed while they send, many clients would not see the reason.
_DROPPED_BYTES, _DROPPED_SECONDS = 2**24, 2


class Refused(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        reason: told to the client.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Gate:
    """ASGI middleware around the application.

    Args:
        app: the application.
        settings: Settings.
        metrics: Metrics.
        is_draining: called for whether the server is about to stop.
    """

    def __init__(self, app, settings: Settings, metrics: Metrics, is_draining: Callable[[], bool]):
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.is_draining = is_draining
        self._in_progress = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, reply = time.perf_counter(), _Reply(send)
        self._in_progress += 1
        self.metrics.in_progress.set(self._in_progress)
        try:
            await self._pass(scope, receive, reply)
        except Refused as refusal:
            await reply.refuse(refusal.status, str(refusal))
        except TimeoutError:
            await reply.refuse(
                503, f"The translation took longer than {self.settings.timeout:g} s. Send less at a time."
            )
        except Exception:  # what a model raises is told to the log, not to the world
            await reply.refuse(500, "The model failed; the server's log says how.")
            raise
        finally:
            self._in_progress -= 1
            self.metrics.in_progress.set(self._in_progress)
            self.metrics.count_request(scope, reply.status, time.perf_counter() - begun)

    async def _pass(self, scope, receive, reply):
        if scope["path"] in _OPEN:
            await self.app(scope, receive, reply)
            return
        try:
            self._check(scope)
        except Refused:
            if (b"expect", b"100-continue") not in scope["headers"]:  # else it waits for the answer before it sends
                await _drop(receive, {"more_body": True})
            raise
        async with asyncio.timeout(self.settings.timeout):
            body = await self._read(receive)
            await self._answer(scope, body, receive, reply)

    async def _answer(self, scope, body, receive, reply):
        """Runs the application until it has replied or its client has left, as the page's does at the next key."""
        left = asyncio.ensure_future(_disconnected(receive))
        answer = asyncio.ensure_future(self.app(_as_json(scope), _replayed(body, left), reply))
        try:
            await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not reply.ended:
                raise Refused(499, "The client has left.")
            await answer
        finally:
            answer.cancel()
            left.cancel()
            await asyncio.gather(answer, left, return_exceptions=True)

    def _check(self, scope):
        headers = dict(scope["headers"])
        if self.is_draining():
            raise Refused(503, "The server is stopping. Ask another, or try again.")
        # Since any body is read as JSON, a browser does not ask before it sends one from elsewhere.
        if scope["method"] == "POST" and headers.get(b"sec-fetch-site") == b"cross-site":
            raise Refused(403, "A page of another site may not have this server translate.")
        if self.settings.api_key is not None and scope["path"] != "/":
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.settings.api_key}".encode()):
                raise Refused(401, "This server asks for a key: send the header Authorization: Bearer KEY.")
        if self._in_progress > self.settings.max_concurrency:
            raise Refused(
                429, f"{self.settings.max_concurrency} requests are in progress already. Try again in a moment."
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > self.settings.max_body):
            raise self._too_large()

    def _too_large(self):
        return Refused(413, f"A request may have {self.settings.max_body:,} bytes. Send less at a time.")

    async def _read(self, receive):
        """The whole body, which its announced length may have understated."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(499, "The request ended before its body did.")
            body += message.get("body", b"")
            if len(body) > self.settings.max_body:
                await _drop(receive, message)
                raise self._too_large()
            if not message.get("more_body"):
                return body


def _as_json(scope):
    """The scope with the one kind of body that is read here."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return scope | {"headers": [*headers, (b"content-type", b"application/json")]}


async def _drop(receive, message):
    """Reads on after a part of a body, and keeps nothing of it."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DROPPED_SECONDS):
            while message.get("more_body") and size < _DROPPED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))


async def _disconnected(receive):
    """Returns when the client has left or has its reply."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _replayed(body, left):
    """An ASGI ``receive`` that gives a body that was read already, then waits for the client to leave."""
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": body, "more_body": False}]

    async def again():
        if len(messages) == 1:
            await asyncio.wait((left,))
            return messages[0]
        return messages.pop()

    return again


class _Reply:
    """An ASGI ``send`` that knows what was sent."""

    def __init__(self, send):
        self._send = send
        self.status = None
        self.ended = False
        self._is_stream = False

    async def __call__(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._is_stream = (
                dict(message.get("headers", ())).get(b"content-type", b"").startswith(b"text/event-stream")
            )
        else:
            self.ended = not message.get("more_body")
        await self._send(message)

    async def refuse(self, status, reason):
        """Sends a refusal; where a stream has begun, as its last event."""
        told = json.dumps({"error": reason})
        if self.status is None:
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers += [(b"retry-after", b"1")] if status in (429, 503) else []
            await self({"type": "http.response.start", "status": status, "headers": headers})
            await self({"type": "http.response.body", "body": told.encode()})
        elif self._is_stream and not self.ended:
            await self({"type": "http.response.body", "body": f"data: {told}\n\n".encode()})
