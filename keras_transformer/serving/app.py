"""The HTTP application: what each address answers.

POST /v1/translate                texts -> translations, n-best, scores, attention, alignment
POST /v1/translate/stream         one text, greedily, an event a piece
POST /v1/models/NAME:predict      as TensorFlow Serving's REST API, also as /v1/models/NAME/versions/N:predict
GET  /v1/models/NAME              as there: whether the model is available; also /versions/N
GET  /v1/models/NAME/metadata     as there: its signatures; also /versions/N/metadata
GET  /v1/card                     about the model
GET  /healthz  /metrics  /openapi.json
GET  /                            the page
"""

import contextlib
import json
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from keras_transformer._version import __version__
from keras_transformer.decoding.hypotheses import align_words
from keras_transformer.decoding.rules import is_found
from keras_transformer.serving import predict, schema
from keras_transformer.serving.batching import Batcher, Overloaded
from keras_transformer.serving.engine import Engine
from keras_transformer.serving.gate import Gate, Refused
from keras_transformer.serving.metrics import Metrics
from keras_transformer.serving.settings import Settings

PAGE = Path(__file__).with_name("page.html")
# The page is one file and asks no other host for anything.
_PAGE_POLICY = "; ".join(
    [
        "default-src 'none'",
        "connect-src 'self'",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "frame-ancestors 'none'",
    ]
)
_FAILURES = {
    status: {"model": schema.Failure, "description": text}
    for status, text in {
        400: "The request contradicts itself.",
        401: "The key is missing or wrong.",
        403: "A browser asks for a page of another site.",
        413: "The body is too large.",
        422: "The body is not as described, or a text is too long.",
        429: "Too much is in progress.",
        500: "The model failed.",
        503: "Too slow, or stopping.",
    }.items()
}


class Service:
    """What the addresses share.

    Args:
        engine: an Engine.
        settings: Settings.

    Raises:
        ValueError: the engine does not search with as many hypotheses as the settings say. A SavedModel has its own beam.

    Attributes:
        draining: whether the server is about to stop; set it to refuse what comes and finish what is in progress.
    """

    def __init__(self, engine: Engine, settings: Settings):
        sizes = engine.beam_sizes
        if len(sizes) > 1 and settings.beam_size not in sizes:
            raise ValueError(
                f"beam_size must be from {sizes[0]} to {sizes[-1]} for this model. Received: {settings.beam_size}."
            )
        self.engine = engine
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        self.batcher = Batcher(
            engine, settings.batch_tokens, settings.batch_delay, settings.max_waiting_tokens, self.metrics.count_batch
        )

    def beam_size(self, wanted: int | None, num_hypotheses: int = 1) -> int:
        """The beam of a request, checked."""
        sizes = self.engine.beam_sizes
        size = wanted if wanted is not None else min(max(self.settings.beam_size, num_hypotheses, sizes[0]), sizes[-1])
        if size not in sizes:
            shown = str(sizes[0]) if len(sizes) == 1 else f"from {sizes[0]} to {sizes[-1]}"
            raise Refused(422, f"beam_size must be {shown} for this model. Received: {size}.")
        if num_hypotheses > size:
            raise Refused(422, f"num_hypotheses must not exceed the beam, which is {size}. Received: {num_hypotheses}.")
        return size

    def sources(self, texts: list[str]) -> list:
        """Ids of each text, [] for a blank one, checked for their length."""
        if len(texts) > self.settings.max_texts:
            raise Refused(422, f"A request may have {self.settings.max_texts} texts. Received: {len(texts)}.")
        sources = []
        for number, text in enumerate(texts):
            try:
                source = self.engine.source_tokenizer.encode(text, add_eos=True) if text.strip() else []
            except ValueError as error:
                raise Refused(422, str(error)) from None
            if len(source) > self.settings.max_pieces:
                raise Refused(
                    422,
                    f"Text {number} has {len(source)} pieces. At most {self.settings.max_pieces} are translated at a time; split "
                    "it into sentences.",
                )
            sources.append(source)
        return sources

    async def search(self, sources: list, beam_size: int, only_best: bool = False) -> list:
        """The hypotheses of each source; none for a blank one."""
        found = iter(await self.batcher.search([source for source in sources if source], beam_size, only_best))
        return [next(found) if source else [] for source in sources]

    async def translation(self, source: list, hypotheses: list, count: int, with_attention: bool) -> schema.Translation:
        """One text's part of the reply."""
        tokenizer = self.engine.tokenizer
        found = [(ids, score) for ids, score in hypotheses[:count] if is_found(score)]
        shown = [schema.Hypothesis(text=tokenizer.decode(ids), score=score) for ids, score in found]
        translation = schema.Translation(text=shown[0].text if shown else "", hypotheses=shown)
        if with_attention and found:
            rows = [ids for ids, _ in found]
            translation.source_pieces = self.engine.source_tokenizer.pieces(source)
            attention = await self.batcher.run(self.engine.attention, source, rows)
            for hypothesis, ids, weights in zip(shown, rows, attention, strict=True):
                hypothesis.attention = np.round(np.asarray(weights, "float64"), 4).tolist()
                hypothesis.pieces = tokenizer.pieces(ids)
                hypothesis.alignment = align_words(weights, translation.source_pieces, hypothesis.pieces)
        return translation


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """The ASGI application around an engine.

    Args:
        engine: an Engine, as load_engine gives it.
        settings: Settings; None for the defaults.

    Returns:
        FastAPI application; ``app.state.service`` is its Service.

    Raises:
        ValueError: the engine does not search with ``settings.beam_size`` hypotheses.

    Example:

        from keras_transformer.serving.app import create_app
        from keras_transformer.serving.engine import load_engine
        uvicorn.run(create_app(load_engine("runs/en-de")), host="127.0.0.1", port=8000)
    """
    service = Service(engine, settings or Settings())

    @contextlib.asynccontextmanager
    async def lifespan(app):
        service.batcher.start()
        if service.settings.warm_up:
            await service.batcher.run(engine.warm_up, service.beam_size(None))
        yield
        service.draining = True
        await service.batcher.stop()

    app = FastAPI(title="keras_transformer", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, settings=service.settings, metrics=service.metrics, is_draining=lambda: service.draining)
    _add_failures(app)
    _add_translation(app, service)
    _add_predict(app, service)
    _add_rest(app, service)
    return app


def _add_failures(app):
    """Every failure is {"error": reason}; those that the Gate tells are so too."""

    def failed(status, reason):
        return JSONResponse({"error": reason}, status, {"Retry-After": "1"} if status in (429, 503) else None)

    app.add_exception_handler(Refused, lambda request, error: failed(error.status, str(error)))
    app.add_exception_handler(Overloaded, lambda request, error: failed(429, str(error)))
    app.add_exception_handler(HTTPException, lambda request, error: failed(error.status_code, _detail(error)))
    app.add_exception_handler(RequestValidationError, lambda request, error: failed(422, _first_error(error)))


def _detail(error):
    """What FastAPI says, or, of a body that it could not read, what the reader of JSON said."""
    if error.status_code == 400 and error.__cause__ is not None:
        return f"The body cannot be read as JSON: {error.__cause__}."
    return str(error.detail)


def _first_error(error):
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"The body is no JSON from character {first['loc'][-1]} on: {first['ctx']['error']}."
    # Where one of several kinds would do, there is an error for each: the one that came furthest is of the kind that was meant.
    furthest = max(len(one["loc"]) for one in error.errors())
    told = [one for one in error.errors() if len(one["loc"]) == furthest]
    place = _place(told[0])
    return f"{place}: {', or: '.join(dict.fromkeys(one['msg'] for one in told if _place(one) == place))}"


def _place(error):
    return ".".join(str(part) for part in error["loc"] if not _is_kind(part))


def _is_kind(part):
    """Whether Pydantic tells a kind of value with this part of a place, and no name or number."""
    return isinstance(part, str) and (part == "str" or part.startswith(("list[", "dict[")))


def _add_translation(app, service):
    @app.post("/v1/translate", responses=_FAILURES)
    async def translate(request: schema.TranslateRequest) -> schema.TranslateReply:
        """Translates texts."""
        beam_size = service.beam_size(request.beam_size, request.num_hypotheses)
        sources = service.sources(request.texts)
        found = await service.search(sources, beam_size, only_best=request.num_hypotheses == 1)
        translations = [
            await service.translation(source, hypotheses, request.num_hypotheses, request.attention)
            for source, hypotheses in zip(sources, found, strict=True)
        ]
        return schema.TranslateReply(model=service.engine.name, translations=translations)

    @app.post("/v1/translate/stream", responses=_FAILURES | {200: {"content": {"text/event-stream": {}}}})
    async def stream(request: schema.StreamRequest) -> Response:
        """Translates one text greedily: server-sent events with the text so far, the last with done: true, or with error."""
        (source,) = service.sources([request.text])
        return StreamingResponse(_events(service, source), media_type="text/event-stream")


async def _events(service, source):
    ids, steps = [], service.engine.stream(source) if source else iter(())
    while (token := await service.batcher.run(next, steps, None)) is not None:
        ids.append(token)
        yield _event(service, ids, done=False)
    yield _event(service, ids, done=True)


def _event(service, ids, done):
    tokenizer = service.engine.tokenizer
    piece = tokenizer.pieces(ids[-1:])[0] if ids and not done else None
    return f"data: {json.dumps({'text': tokenizer.decode(ids), 'piece': piece, 'done': done})}\n\n"


def _add_predict(app, service):
    @app.post("/v1/models/{name}:predict", responses=_FAILURES | {404: {"model": schema.Failure}})
    async def predict_call(name: str, request: schema.PredictRequest) -> Response:
        """TensorFlow Serving's predict call, for the signatures serving_default and translate_text."""
        return await answer(name, None, request)

    @app.post("/v1/models/{name}/versions/{version}:predict", responses=_FAILURES | {404: {"model": schema.Failure}})
    async def predict_call_of_version(name: str, version: str, request: schema.PredictRequest) -> Response:
        """The same, where the version is the one that is served."""
        return await answer(name, version, request)

    async def answer(name, version, request):
        _check_name(service, name, version)
        rows, by_row = predict.rows_of(request)
        if len(rows) > service.settings.max_texts or not rows:
            raise Refused(
                422, f"A request may have from 1 to {service.settings.max_texts} rows. Received: {len(rows)}."
            )
        beam_size = service.beam_size(None)
        if request.signature_name == "translate_text":
            return JSONResponse(await _predict_texts(service, rows, beam_size, by_row))
        tokenizer = service.engine.source_tokenizer
        sources = predict.checked_ids(rows, tokenizer, service.settings.max_pieces)
        ids, scores = predict.as_arrays(await service.search(sources, beam_size), sources, tokenizer.pad_id)
        if by_row:
            pairs = zip(ids, scores, strict=True)
            return JSONResponse({"predictions": [{"ids": one, "scores": score} for one, score in pairs]})
        return JSONResponse({"outputs": {"ids": ids, "scores": scores}})

    @app.get("/v1/models/{name}/versions/{version}/metadata", responses={404: {"model": schema.Failure}})
    @app.get("/v1/models/{name}/metadata", responses={404: {"model": schema.Failure}})
    async def metadata(name: str, version: str | None = None) -> dict:
        """The signatures, as TensorFlow Serving tells them."""
        _check_name(service, name, version)
        return predict.metadata(name, service.engine.version)

    @app.get("/v1/models/{name}/versions/{version}", responses={404: {"model": schema.Failure}})
    @app.get("/v1/models/{name}", responses={404: {"model": schema.Failure}})
    async def status(name: str, version: str | None = None) -> dict:
        """Whether the model is available, as TensorFlow Serving tells it."""
        _check_name(service, name, version)
        state = "UNLOADING" if service.draining else "AVAILABLE"
        well = {"error_code": "OK", "error_message": ""}
        return {"model_version_status": [{"version": str(service.engine.version), "state": state, "status": well}]}


def _check_name(service, name, version):
    engine = service.engine
    if name != engine.name:
        raise Refused(404, f"No model is called {name[:80]!r}. This server has {engine.name!r}.")
    if version not in (None, str(engine.version)):
        raise Refused(404, f"{name!r} has no version {version[:80]!r} here. This server has {engine.version}.")


async def _predict_texts(service, rows, beam_size, by_row):
    if not all(isinstance(row, str) for row in rows):
        raise Refused(422, "The signature translate_text takes texts.")
    sources = service.sources(rows)
    found = await service.search(sources, beam_size, only_best=True)
    best = [service.engine.tokenizer.decode(hypotheses[0][0]) if hypotheses else "" for hypotheses in found]
    return {"predictions" if by_row else "outputs": best}


def _add_rest(app, service):
    @app.get("/healthz")
    async def healthz() -> dict:
        """Whether this server takes requests: 503 when it is about to stop."""
        if service.draining:
            raise Refused(503, "stopping")
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    async def metrics():
        service.metrics.waiting.set(service.batcher.waiting)
        text, media_type = service.metrics.text()
        return Response(text, media_type=media_type)

    @app.get("/v1/card")
    async def card() -> dict:
        """About the model, and the limits of this server."""
        limits = {"max_texts": service.settings.max_texts, "max_pieces": service.settings.max_pieces}
        about = {"name": service.engine.name, "beam_size": service.beam_size(None), "limits": limits}
        return about | {"card": service.engine.card}

    @app.get("/", include_in_schema=False)
    async def page():
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _PAGE_POLICY})
