"""The command ``serve`` as a process: it translates, drains, stands load and nonsense; the page in a browser."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from make_anchor import ANCHOR

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
hypothesis = pytest.importorskip("hypothesis")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="a process of its own, once is enough")
ROOT = Path(__file__).resolve().parents[1]
VERBATIM = json.loads((ANCHOR / "card.json").read_text(encoding="utf-8"))["verbatim"]


def benchmark():
    """benchmarks/serve.py as a module."""
    specification = importlib.util.spec_from_file_location("benchmark_of_serve", ROOT / "benchmarks" / "serve.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_process_translates_and_sigterm_drains():
    """What was asked before SIGTERM is answered after it."""
    with benchmark().server(ANCHOR, "--batch-delay", "1") as (process, address):
        assert httpx.get(f"{address}/healthz").status_code == 200  # since the address was told
        replies = []
        text = next(iter(VERBATIM))

        def ask():
            body = {"texts": [text], "beam_size": 1}
            replies.append(httpx.post(f"{address}/v1/translate", json=body, timeout=60))

        with httpx.Client() as watcher:
            watcher.get(f"{address}/metrics")  # connects
            thread = threading.Thread(target=ask)
            thread.start()
            while "sentences_waiting 1.0" not in watcher.get(f"{address}/metrics").text:
                assert thread.is_alive()
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert replies[0].json()["translations"][0]["text"] == VERBATIM[text]
        assert process.wait(60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz")


def test_what_cannot_be_served_is_told_in_one_line(tmp_path):
    command = [sys.executable, "-m", "keras_transformer", "serve", str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert (
        child.stderr.startswith("Error: ") and child.stderr.count("\n") == 1 and "is not a translator" in child.stderr
    )


def test_a_server_that_did_not_start_is_no_success(monkeypatch):
    """Around a server that ends at once: a real one would set up the logging of this process."""
    import types

    import uvicorn
    from click.testing import CliRunner
    from served_engine import Backwards

    from keras_transformer.cli import main

    bound = types.SimpleNamespace(getsockname=lambda: ("::1", 8123, 0, 0), close=lambda: closed.append(True))
    closed, config = [], types.SimpleNamespace(bind_socket=lambda: bound)
    monkeypatch.setattr("keras_transformer.serving.engine.load_engine", lambda run, name: Backwards())
    monkeypatch.setattr(uvicorn, "Config", lambda app, **options: config)
    ended = types.SimpleNamespace(started=False, startup=None, run=lambda sockets: None)
    monkeypatch.setattr(uvicorn, "Server", lambda config: ended)
    result = CliRunner().invoke(main, ["serve", "somewhere", "--host", "::1"])
    assert result.exit_code == 1 and closed == [True]
    assert "warms up" in result.output and "http" not in result.output  # an address is of a server that answers
    assert "Error: The server could not start" in result.output


def bodies(described):
    """JSON of any kind, bent toward what /openapi.json describes, and bytes that are no JSON.

    Args:
        described: what /openapi.json says, of which the names of all fields are taken.
    """
    strategies = hypothesis.strategies
    leaf = (
        strategies.none()
        | strategies.booleans()
        | strategies.integers()
        | strategies.floats()
        | strategies.text(strategies.characters(), max_size=20)
    )
    schemas = described["components"]["schemas"].values()
    fields = {name for schema in schemas for name in schema.get("properties", {})}
    assert {"texts", "beam_size", "attention", "instances", "inputs", "text"} <= fields
    names = strategies.sampled_from([*sorted(fields), "source", "b64", "x"])
    values = strategies.recursive(
        leaf | strategies.sampled_from(["translate_text", "serving_default"]),
        lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )
    anything = strategies.text(strategies.characters(), max_size=5)  # halves of surrogate pairs too
    objects = strategies.dictionaries(names | anything, values, max_size=5)
    return strategies.one_of(values, objects, objects).map(lambda x: json.dumps(x).encode()) | strategies.binary(
        max_size=40
    )


@pytest.mark.parametrize("examples", [40, pytest.param(500, marks=pytest.mark.deep)])
def test_malformed_bodies_give_4xx_and_never_500(examples):
    from fastapi.testclient import TestClient
    from served_engine import Backwards

    from keras_transformer.serving.app import create_app
    from keras_transformer.serving.settings import Settings

    seen = set()
    with TestClient(create_app(Backwards(), Settings(batch_delay=0)), raise_server_exceptions=False) as client:
        described = client.get("/openapi.json").json()
        posts = [path for path, methods in described["paths"].items() if "post" in methods]
        paths = [path.replace("{name}", "backwards").replace("{version}", "1") for path in posts]
        assert len(paths) == 4

        @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        @hypothesis.given(path=hypothesis.strategies.sampled_from(paths), body=bodies(described))
        def try_one(path, body):
            reply = client.post(path, content=body, headers={"Content-Type": "application/json"})
            seen.add(reply.status_code)
            assert reply.status_code == 200 or 400 <= reply.status_code < 500, (path, body, reply.text)
            if reply.status_code != 200:
                assert reply.json().keys() == {"error"}

        try_one()
    assert 422 in seen


@pytest.mark.deep
def test_a_minute_of_32_clients_and_then_too_many():
    module = benchmark()
    texts = list(VERBATIM)
    expected = module.offline(ANCHOR, texts, 4, "torch")
    with module.server(ANCHOR, "--max-concurrency", "40", backend="torch") as (_, address):
        alone = asyncio.run(module.load(address, texts, expected, 1, 10, 4))
        loaded = asyncio.run(module.load(address, texts, expected, 32, 60, 4))
        for row in (alone, loaded):
            assert row["errors"] == [] and row["wrong"] == []
        assert loaded["sentences_per_second"] > alone["sentences_per_second"]  # they travel together
        crowd = asyncio.run(module.load(address, texts, expected, 120, 5, 4))
        assert {status for status, _ in crowd["errors"]} == {429} and crowd["wrong"] == []
        after = asyncio.run(module.load(address, texts, expected, 1, 2, 4))
        assert after["errors"] == [] and after["wrong"] == []


@pytest.mark.deep
def test_the_page_in_a_browser(tmp_path):
    """A translation appears as one types; the map has a row and a column a piece; what is too long is told. By keyboard alone.

    $KERAS_TRANSFORMER_SCREENSHOTS names a folder for the pictures in docs/.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    text, expected = next(iter(VERBATIM.items()))
    with benchmark().server(ANCHOR, "--max-pieces", "64") as (_, address), playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, scheme in (("", 1000, "light"), ("-dark", 1000, "dark"), ("-phone", 390, "light")):
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
            failures = []
            page.on("pageerror", lambda error, failures=failures: failures.append(str(error)))
            page.goto(address)
            page.keyboard.type(text)  # the field has the focus from the start
            page.wait_for_function(
                "expected => document.getElementById('translation').textContent === expected", arg=expected
            )
            answer = httpx.post(f"{address}/v1/translate", json={"texts": [text], "attention": True}, timeout=60).json()
            (translation,) = answer["translations"]
            assert page.locator("#map tbody tr").count() == len(translation["hypotheses"][0]["pieces"])
            assert page.locator("#map thead th").count() == len(translation["source_pieces"])
            assert page.locator("#alternatives li").count() == 4
            for _ in range(3):
                page.keyboard.press("Tab")  # translation, first alternative, second
            page.keyboard.press("Enter")
            second = page.locator("#alternatives button").nth(1)
            assert second.get_attribute("aria-pressed") == "true"
            assert second.text_content().startswith(page.locator("#translation").text_content())
            for key in ("Shift+Tab", "Enter", "Tab", "Tab", "Tab", "Tab", "ArrowRight", "ArrowRight", "ArrowDown"):
                page.keyboard.press(key)  # the best again, then into the map: its second row, second column
            assert page.locator("#map td.chosen").count() == 1
            (best, *_), pieces = translation["hypotheses"], translation["source_pieces"]
            looked = f"“{best['pieces'][1]}” looks at “{pieces[1]}”: {100 * best['attention'][1][1]:.0f} %"
            looked = looked.replace("\u2581", "\u00b7")
            assert page.locator("#looked").text_content() == looked
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            folder = os.environ.get("KERAS_TRANSFORMER_SCREENSHOTS", str(tmp_path))
            page.screenshot(path=f"{folder}/serving-page{name}.png", full_page=True)
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")  # opens what is said about the model
            assert page.locator("#facts dt").first.is_visible()
            assert "346,848" in page.locator("#facts").text_content()
            assert '"verbatim"' in page.locator("#card").text_content()
            other = list(VERBATIM)[1]
            page.fill("#source", f"{text}\n\n{other}")  # each line is a text of its own
            both = f"{expected}\n\n{VERBATIM[other]}"
            page.wait_for_function("both => document.getElementById('translation').textContent === both", arg=both)
            assert page.locator("h2").first.text_content() == "Alternatives of line 3"
            page.focus("#source")
            page.keyboard.press("Control+Home")
            assert page.locator("h2").first.text_content() == "Alternatives of line 1"
            assert page.locator("#alternatives button").first.text_content().startswith(expected)
            page.locator("#alternatives button").nth(1).click()
            chosen = page.locator("#translation").text_content()
            assert chosen.endswith(f"\n\n{VERBATIM[other]}") and chosen != both
            page.focus("#source")
            page.keyboard.press("Control+End")
            page.keyboard.press("Control+Home")
            assert page.locator("#translation").text_content() == chosen
            page.fill("#source", text * 20)
            page.wait_for_function("() => document.getElementById('message').textContent !== ''")
            assert "At most 64 are translated at a time" in page.locator("#message").text_content()
            assert page.locator("#translation").text_content() == "" and not page.locator("#more").is_visible()
            assert failures == []
            page.close()
        browser.close()


@pytest.mark.parametrize("ends", [True, False])
def test_the_docs_client_reads_what_comes(tmp_path, monkeypatch, capsys, ends):
    """Also a translation that reached its limit, which has no eos."""
    import io
    import re
    import urllib.request

    from exported_models import TOKENIZER
    from fastapi.testclient import TestClient
    from served_engine import Backwards

    from keras_transformer.serving.app import create_app
    from keras_transformer.serving.settings import Settings

    engine = Backwards()
    engine.name = "en-de"
    text, ids = "a dog", TOKENIZER.encode("a dog") + [TOKENIZER.eos_id] * ends
    engine.search = lambda sources, beam_size, only_best=False: [[(ids, 0.0)] * beam_size for _ in sources]
    (tmp_path / "saved_models/en-de").mkdir(parents=True)
    TOKENIZER.save(tmp_path / "saved_models/en-de/tokenizer.model")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with TestClient(create_app(engine, Settings(warm_up=False))) as client:

        def urlopen(request):
            reply = client.post(request.selector, content=request.data, headers=dict(request.header_items()))
            return io.BytesIO(reply.content)

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        exec(code, {})
    assert capsys.readouterr().out == f"{text}\n"


def test_the_docs_name_options_that_exist():
    import re

    import yaml

    from keras_transformer.cli import main

    known = {option for one in main.commands["serve"].params for option in (*one.opts, *one.secondary_opts)}
    manifest = list(yaml.safe_load_all((ROOT / "docs" / "serving-kubernetes.yaml").read_text(encoding="utf-8")))
    assert [one["kind"] for one in manifest] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    (container,) = manifest[0]["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    assert arguments[:2] == ["keras-transformer", "serve"]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 300
    assert {word for word in arguments if word.startswith("--")} <= known
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    text = re.sub(r"^## Load$.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)  # there a benchmark's are told
    assert set(re.findall(r"`(--[\w-]+)", text)) <= known
    for row in re.findall(r"^\| [\d, A-Z].*\| (--[^|]+) \|$", text, re.MULTILINE):
        assert set(row.split(", ")) <= known
