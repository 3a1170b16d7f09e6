"""The application over HTTP's words, around an engine without a model; and around real ones, compared with Python's answers."""

import contextlib
import json
import threading

import keras
import numpy as np
import pytest
from exported_models import TOKENIZER, make_model

import keras_transformer as kt

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from fastapi.testclient import TestClient
from served_engine import Backwards, backwards

from keras_transformer.serving.app import create_app
from keras_transformer.serving.engine import TranslatorEngine, load_engine, padded
from keras_transformer.serving.settings import Settings

once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
TEXTS = ["a dog runs", "", "two cats", "a dog runs"]


def client_of(engine=None, **settings):
    settings = Settings(**{"warm_up": False} | settings)
    return TestClient(create_app(engine or Backwards(), settings), raise_server_exceptions=False)


@pytest.fixture
def client():
    with client_of() as client:
        yield client


def refused(reply, status, words):
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error"} and words in reply.json()["error"], reply.json()


@once
def test_translate(client):
    reply = client.post("/v1/translate", json={"texts": TEXTS, "beam_size": 3, "num_hypotheses": 2}).json()
    assert reply["model"] == "backwards"
    assert [one["text"] for one in reply["translations"]] == [backwards(text) for text in TEXTS]
    assert [len(one["hypotheses"]) for one in reply["translations"]] == [2, 0, 2, 2]
    assert [one["score"] for one in reply["translations"][0]["hypotheses"]] == [0.0, -1.0]
    assert reply["translations"][0]["hypotheses"][0]["attention"] is None


@once
def test_attention_has_a_row_a_piece(client):
    (one,) = client.post("/v1/translate", json={"texts": ["two cats"], "attention": True}).json()["translations"]
    hypothesis = one["hypotheses"][0]
    assert one["source_pieces"] == TOKENIZER.pieces(TOKENIZER.encode("two cats", add_eos=True))
    assert len(hypothesis["attention"]) == len(hypothesis["pieces"])
    assert {len(row) for row in hypothesis["attention"]} == {len(one["source_pieces"])}


@once
def test_words_are_aligned_with_what_they_looked_at_most():
    class Looking(Backwards):
        def attention(self, source, hypotheses):
            """Each piece looks at the one it is, which stands as far from the end as it from the beginning."""
            return [np.eye(len(source))[[*range(len(source) - 2, -1, -1), -1]] for _ in hypotheses]

    with client_of(Looking()) as client:
        (one,) = client.post("/v1/translate", json={"texts": ["two cats"], "attention": True}).json()["translations"]
    hypothesis = one["hypotheses"][0]
    assert hypothesis["text"] == "stac owt "  # three words: the mark of a word's beginning is a piece of its own
    assert hypothesis["alignment"] == [[1, 0], [0, 1], [0, 2]]
    assert hypothesis["attention"][0] == [0.0] * 8 + [1.0, 0.0]


@once
def test_stream_sends_the_text_as_it_grows(client):
    reply = client.post("/v1/translate/stream", json={"text": "a dog runs"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert events[-1] == {"text": backwards("a dog runs"), "piece": None, "done": True}
    assert len(events) == len(TOKENIZER.encode("a dog runs", add_eos=True)) + 1
    assert client.post("/v1/translate/stream", json={"text": " "}).text.count("data:") == 1


@once
def test_limits_are_told_with_their_reason():
    settings = {"max_body": 300, "max_texts": 3, "max_pieces": 12, "api_key": "secret"}
    with client_of(**settings) as client:
        refused(client.post("/v1/translate", json={"texts": ["a"]}), 401, "Authorization: Bearer KEY")
        assert client.get("/healthz").status_code == 200
        client.headers["Authorization"] = "Bearer secret"
        refused(client.post("/v1/translate", json={"texts": ["a" * 400]}), 413, "A request may have 300 bytes")
        chunks = (b" " * 100 for _ in range(5))  # of no announced length
        refused(client.post("/v1/translate", content=chunks), 413, "A request may have 300 bytes")
        refused(client.post("/v1/translate", json={"texts": ["a"] * 4}), 422, "A request may have 3 texts. Received: 4")
        refused(client.post("/v1/translate", json={"texts": ["a", "a " * 20]}), 422, "Text 1 has 41 pieces. At most 12")
        refused(client.post("/v1/translate", json={"texts": ["a"], "beam_size": 9}), 422, "from 1 to 4 for this model")
        hypotheses = {"texts": ["a"], "beam_size": 2, "num_hypotheses": 3}
        refused(client.post("/v1/translate", json=hypotheses), 422, "must not exceed the beam")
        refused(client.post("/v1/translate", json={"text": "a"}), 422, "body.texts: Field required")
        header = {"Content-Type": "application/json"}
        refused(client.post("/v1/translate", content=b"{", headers=header), 422, "JSON")
        half = b'{"texts": ["\\ud800"]}'  # of a surrogate pair: no text
        refused(client.post("/v1/translate", content=half, headers=header), 422, "lone surrogate")
        half = b'{"texts": ["a"], "\\ud800": 1}'
        refused(client.post("/v1/translate", content=half, headers=header), 422, "valid string")
        endless = header | {"Content-Length": "9" * 5000}
        refused(client.post("/v1/translate", content=b"{}", headers=endless), 413, "A request may have 300 bytes")
        refused(client.get("/nowhere"), 404, "Not Found")
        refused(client.get("/v1/translate"), 405, "Method Not Allowed")


@once
def test_a_body_is_json_whatever_its_content_type(client):
    body = json.dumps({"texts": ["two cats"]}).encode()
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", None):
        headers = {} if kind is None else {"Content-Type": kind}
        reply = client.post("/v1/translate", content=body, headers=headers)
        assert reply.json()["translations"][0]["text"] == backwards("two cats"), (kind, reply.text)
    cross = {"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}
    refused(client.post("/v1/translate", content=body, headers=cross), 403, "A page of another site")
    assert client.get("/", headers=cross).status_code == 200  # a link
    refused(client.post("/v1/translate", content=b'{"texts": [}'), 422, "no JSON from character 11 on: Expecting value")
    refused(
        client.post("/v1/translate", content=b'"\xff"'), 400, "cannot be read as JSON: 'utf-8' codec can't decode byte"
    )
    refused(client.post("/v1/translate", content=b"[" * 10**5), 400, "cannot be read as JSON: maximum recursion depth")


@once
def test_a_beam_that_the_engine_does_not_search_is_told_at_the_start():
    with pytest.raises(ValueError, match="beam_size must be from 1 to 4 for this model. Received: 9"):
        create_app(Backwards(), Settings(beam_size=9))


@contextlib.contextmanager
def busy(client, engine):
    """While a request is held up in the engine: a list that gets its reply when the block has ended."""
    replies = []
    engine.may_go_on.clear()
    first = threading.Thread(target=lambda: replies.append(client.post("/v1/translate", json={"texts": ["a dog"]})))
    first.start()
    assert engine.begun.wait(10)
    try:
        yield replies
    finally:
        engine.may_go_on.set()
        first.join()


@once
def test_too_slow_and_too_many():
    def post():
        return client.post("/v1/translate", json={"texts": ["a dog"]})

    engine = Backwards()
    engine.may_go_on.clear()
    with client_of(engine, timeout=0.1) as client:
        refused(post(), 503, "longer than 0.1 s")
        assert client.get("/healthz").status_code == 200
        engine.may_go_on.set()
    engine = Backwards()
    with client_of(engine, max_concurrency=1) as client:
        with busy(client, engine) as replies:
            reply = post()
            refused(reply, 429, "1 requests are in progress already")
            assert reply.headers["retry-after"] == "1"
        assert replies[0].status_code == post().status_code == 200


@once
def test_a_stopping_server_finishes_and_refuses():
    engine = Backwards()
    with client_of(engine) as client, busy(client, engine) as replies:
        client.app.state.service.draining = True
        refused(client.get("/healthz"), 503, "stopping")
        refused(client.post("/v1/translate", json={"texts": ["a dog"]}), 503, "The server is stopping")
    assert replies[0].json()["translations"][0]["text"] == backwards("a dog")


@once
def test_warms_up_before_the_first_request():
    class Watched(Backwards):
        rows, lengths, streamed = set(), set(), []

        def attention(self, source, hypotheses):
            self.rows.add(len(hypotheses))
            self.lengths |= {len(ids) for ids in hypotheses}
            return super().attention(source, hypotheses)

        def stream(self, source):
            for token in super().stream(source):
                self.streamed.append(len(source))
                yield token

    engine = Watched()
    with client_of(engine, warm_up=True):
        assert engine.batches == [1, 1, 2, 2]
        assert (engine.rows, engine.lengths) == ({1, 2}, {1, 3})
        assert engine.streamed == [1, len(TOKENIZER.encode("1 2 3 4 5", add_eos=True))]


@pytest.mark.deep
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere nothing is traced, or each shape")
def test_a_warm_server_traces_nothing_more():
    engine = TranslatorEngine(kt.Translator(make_model(), TOKENIZER))
    engine.warm_up(2)
    functions = [engine._encode, engine._advance, engine._forced._forced]
    counts = [function.experimental_get_tracing_count() for function in functions]
    assert all(counts)
    for text in ("a dog runs", "two cats sleep", "a"):
        source = TOKENIZER.encode(text, add_eos=True)
        for hypotheses in ([[5, 6, 7, 3]], [[5, 3], [3], [5, 5, 5, 5, 3]]):
            engine.attention(source, hypotheses)
        list(engine.stream(source))
    assert [function.experimental_get_tracing_count() for function in functions] == counts


@once
def test_a_failing_model_is_no_traceback():
    class Failing(Backwards):
        def search(self, sources, beam_size, only_best=False):
            raise ValueError("secret weights")

    with client_of(Failing()) as client:
        refused(client.post("/v1/translate", json={"texts": ["a"]}), 500, "The model failed")
        assert client.get("/healthz").json() == {"status": "ok"}


@once
def test_metrics_card_and_page(client):
    client.post("/v1/translate", json={"texts": TEXTS})
    client.get("/guessed")
    text = client.get("/metrics").text
    assert 'keras_transformer_requests_total{path="/v1/translate",status="200"} 1.0' in text
    assert 'keras_transformer_requests_total{path="other",status="404"} 1.0' in text
    assert "keras_transformer_sentences_total 3.0" in text
    about = client.get("/v1/card").json()
    assert about["card"] == {"kind": "a test"} and about["beam_size"] == 4 and about["limits"]["max_pieces"] == 256
    page = client.get("/")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")  # nothing from another host


@once
def test_predict_as_tensorflow_serving_has_it(client):
    source = TOKENIZER.encode("two cats", add_eos=True)
    address = "/v1/models/backwards:predict"
    by_row = client.post(address, json={"instances": [{"source": source}, {"source": [*source, 0, 0]}]}).json()
    assert [len(one["ids"]) for one in by_row["predictions"]] == [4, 4]
    assert by_row["predictions"][0] == by_row["predictions"][1]
    ids = by_row["predictions"][0]["ids"][0]
    assert (
        len(ids) == 2 * len(source) + 10 and ids[: len(source)] == [*source[-2::-1], 3] and not any(ids[len(source) :])
    )
    by_column = client.post(address, json={"inputs": {"source": [source]}, "signature_name": "serving_default"}).json()
    assert by_column["outputs"] == {"ids": [by_row["predictions"][0]["ids"]], "scores": [[0.0, -1.0, -2.0, -3.0]]}
    texts = {"signature_name": "translate_text", "instances": ["two cats", {"text": ""}]}
    assert client.post(address, json=texts).json() == {"predictions": [backwards("two cats"), ""]}
    state = client.get("/v1/models/backwards").json()["model_version_status"][0]
    assert (state["version"], state["state"]) == ("1", "AVAILABLE")
    refused(client.post("/v1/models/other:predict", json={"instances": [source]}), 404, "No model is called 'other'")
    for body, status, words in (
        ({"instances": [[5]]}, 422, "end with eos_id 3"),
        ({"instances": [[500, 3]]}, 422, "ids below"),
        ({"instances": [[5, 0, 3]]}, 422, "behind that only"),
        ({"instances": ["a"]}, 422, "must be a list of ids"),
        ({"instances": []}, 422, "from 1 to 256 rows"),
        ({"instances": [{"ids": [3]}]}, 400, "Expected the input 'source' and no other"),
        ({"instances": [[3]], "inputs": [[3]]}, 400, "either instances"),
        ({"signature_name": "x", "instances": [[3]]}, 400, "must be one of"),
        ({"instances": [[-1, 3]]}, 422, "body.instances.0.0: Input should be greater than or equal to 0"),
        (
            {"instances": [{"source": [1.5, 3]}]},
            422,
            "body.instances.0.source.0: Input should be a valid integer",
        ),
        ({"inputs": {"source": [[True, 3]]}}, 422, "body.inputs.source.0.0: Input should be a valid integer"),
        ({"instances": [7]}, 422, "body.instances.0: Input should be a valid string, or: Input should be a valid list"),
        ({"signature_name": "translate_text", "instances": [{"b64": "x"}]}, 422, "Row 0 is no text of UTF-8 in base64"),
        ({"signature_name": "translate_text", "instances": [{"b64": "/w=="}]}, 422, "Row 0 is no text of UTF-8"),
        ({"instances": [{"source": {"b64": "YQ=="}}]}, 422, "must be a list of ids"),
        ({"signature_name": "translate_text", "instances": [[3]]}, 422, "takes texts"),
    ):
        refused(client.post(address, json=body), status, words)


@once
def test_versions_metadata_and_base64_as_tensorflow_serving_has_them(client):
    address, source = "/v1/models/backwards", TOKENIZER.encode("two cats", add_eos=True)
    body = {"instances": [source]}
    expected = client.post(f"{address}:predict", json=body).json()
    assert client.post(f"{address}/versions/1:predict", json=body).json() == expected
    refused(client.post(f"{address}/versions/7:predict", json=body), 404, "no version '7' here. This server has 1")
    assert client.get(f"{address}/versions/1").json() == client.get(address).json()
    refused(client.get(f"{address}/versions/7"), 404, "no version '7' here")
    about = client.get(f"{address}/metadata").json()
    assert about == client.get(f"{address}/versions/1/metadata").json()
    assert about["model_spec"] == {"name": "backwards", "signature_name": "", "version": "1"}
    signatures = about["metadata"]["signature_def"]["signature_def"]
    assert set(signatures["serving_default"]["outputs"]) == set(expected["predictions"][0])
    assert len(signatures["serving_default"]["outputs"]["ids"]["tensor_shape"]["dim"]) == 3
    text = {"b64": "dHdvIGNhdHM="}
    for rows in ({"instances": [{"text": text}, text]}, {"inputs": {"text": [text, "two cats"]}}):
        (found,) = client.post(f"{address}:predict", json={"signature_name": "translate_text"} | rows).json().values()
        assert found == [backwards("two cats")] * 2


def test_a_translator_served_says_what_it_says_offline(tmp_path):
    """Several clients at once, whose sentences travel in common batches; and the stream is greedy search."""
    translator = kt.Translator(make_model(), TOKENIZER)
    texts = ["a dog runs", "two cats sleep", "a", "two dogs", "a cat runs two dogs"]
    expected = translator.translate(texts, beam_size=2)
    greedy = translator.translate(texts[:3], beam_size=1)
    warm_up = keras.backend.backend() == "torch"  # elsewhere it compiles shapes that are not met here
    with client_of(TranslatorEngine(translator), batch_delay=0.2, beam_size=2, warm_up=warm_up) as client:
        replies = [None] * len(texts)

        def post(index):
            replies[index] = client.post(
                "/v1/translate", json={"texts": [texts[index]], "attention": index == 0}
            ).json()

        threads = [threading.Thread(target=post, args=(index,)) for index in range(len(texts))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert [reply["translations"][0]["text"] for reply in replies] == expected
        sums = np.sum(replies[0]["translations"][0]["hypotheses"][0]["attention"], axis=1)
        np.testing.assert_allclose(sums, 1, atol=1e-3)
        for text, expected in zip(texts, greedy, strict=False):  # of several lengths
            reply = client.post("/v1/translate/stream", json={"text": text})
            assert json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))["text"] == expected
    translator.save(tmp_path / "run" / "translator")
    engine = load_engine(tmp_path / "run")
    assert isinstance(engine, TranslatorEngine) and engine.name == "run"
    with pytest.raises(ValueError, match="There is no folder"):
        load_engine(tmp_path / "gone")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_saved_model_served_says_what_python_says(tmp_path):
    translator = kt.Translator(make_model(), TOKENIZER)
    translator.export(tmp_path / "export", beam_size=3, text=False)
    texts = ["a dog runs", "two cats sleep"]
    expected = translator.translate(texts, beam_size=3)
    engine = load_engine(tmp_path / "export", name="en-de")
    with client_of(engine, warm_up=True) as client:
        reply = client.post("/v1/translate", json={"texts": texts, "num_hypotheses": 3, "attention": True}).json()
        assert [one["text"] for one in reply["translations"]] == expected
        assert len(reply["translations"][0]["hypotheses"]) == 3
        np.testing.assert_allclose(np.sum(reply["translations"][1]["hypotheses"][2]["attention"], axis=1), 1, atol=1e-3)
        refused(client.post("/v1/translate", json={"texts": texts, "beam_size": 2}), 422, "beam_size must be 3")
        stream = client.post("/v1/translate/stream", json={"text": texts[0]})
        greedy = json.loads(stream.text.strip().split("\n\n")[-1].removeprefix("data: "))["text"]
        assert greedy == translator.translate(texts[:1], beam_size=1)[0]
    with open(tmp_path / "export" / "tokenizer.model", "r+b") as file:
        file.seek(100)
        file.write(b"!")
    with pytest.raises(ValueError, match="tokenizer.model cannot be used: corrupt: its sha256 is not"):
        load_engine(tmp_path / "export")


@once
def test_where_shapes_are_compiled_they_are_few():
    assert padded([[5, 3]] * 3, 0, few_shapes=True).shape == (4, 8)
    assert padded([[5, 3], [5, 6, 3]], 0, few_shapes=False).tolist() == [[5, 3, 0], [5, 6, 3]]
    assert len({padded([[3] * length], 0, few_shapes=True).shape for length in range(1, 257)}) == 11
