"""benchmarks/gpu.py on the CPU with tiny sizes, its tables and its installation from wheels; ours in benchmarks/decode.py."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"
NAMES = {"jax": "JAX", "torch": "PyTorch"}
BACKENDS = [name for name in NAMES if name == keras.backend.backend()]  # a round of the tests for each


def run(*arguments, flags=(), **environment):
    command = [sys.executable, *flags, str(GPU), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gpu_benchmark_prints_its_tables(backend, tmp_path):
    """Float16 in training and float32 in decoding, so that both ends of the ladder are met."""
    name, file = f"ours, {NAMES[backend]}", tmp_path / "gpu.json"
    for table, precision in (("training", "mixed_float16"), ("decoding", "float32")):
        options = ["--tables", table, "--precisions", precision, "--only", NAMES[backend], "--json", str(file)]
        child = run("--device", "cpu", "--tiny", *options)
        assert child.returncode == 0, child.stderr + child.stdout
        assert "left out" not in child.stdout
        (results,) = json.loads(file.read_text())["results"].values()
        if table == "training":
            assert results[name][0]["tokens_per_second"] > 0
            assert results[f"matrix products, {NAMES[backend]}"][0]["flops"] > 0
        else:
            assert results[f"{name}, float32"][0]["beam 4, batch 2"] > 0


@pytest.mark.skipif("jax" not in BACKENDS, reason="JAX's own")
def test_the_step_in_jax_by_hand_runs():
    code = (
        "import gpu; case = dict(size=gpu.TINY_SIZE, rows=2, length=3, vocabulary=20, dropout=0.1, device='cpu')\n"
        "gpu.jax_by_hand(case | {'precision': 'mixed_bfloat16'})(2)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(GPU.parent), "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


def test_starts_with_the_standard_library_alone():
    """Without site-packages: says what is missing, keras and click among it."""
    child = run("--device", "cpu", "--tiny", flags=("-S",), PYTHONPATH="")
    assert child.returncode == 1
    assert child.stderr.startswith("Missing: keras, ")
    assert "Collect them with --collect FOLDER and give that folder as --wheels." in child.stderr


def test_installs_from_a_folder_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(GPU.parent)
    monkeypatch.setenv("PYTHONPATH", "before")
    import gpu

    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "only_here-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("only_here.py", "")
        about = "only_here-1.0.dist-info"
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: only-here\nVersion: 1.0\nRequires-Dist: numpy==0\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(gpu, "NEEDED", {"only-here": "only_here", "numpy": "numpy"})
    assert gpu.missing_packages() == ["only-here"]
    gpu.install(["only-here"], str(wheels), str(target))
    assert gpu.missing_packages() == []
    assert os.environ["PYTHONPATH"] == f"before{os.pathsep}{target}"
    assert [file.name for file in target.glob("*.py")] == ["only_here.py"]  # and no NumPy
    sys.path.remove(str(target))


@pytest.mark.parametrize("beam", [4, 1])
def test_decoding_writes_as_many_tokens_as_asked_for(monkeypatch, beam):
    """More than a source of that length would get by itself."""
    monkeypatch.syspath_prepend(GPU.parent)
    import decode

    case = {"size": "tiny", "rows": 2, "tokens": 62, "beam": beam}
    source = decode.sources(case)
    assert 2 * source.shape[1] + 10 < case["tokens"]
    assert source.shape == (2, decode.SOURCE_LENGTH) and (source[:, -1] == decode.EOS).all()
    assert decode.ours(case)() == 62


@pytest.mark.deep
def test_the_translation_benchmark(tmp_path):
    """All parts, and what is said before the work."""
    import keras_transformer as kt

    texts = ["a dog runs", "the cat sleeps", "a bird sings"]
    tokenizer = kt.Tokenizer.train(texts, vocabulary_size=300)
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1, seed=1)
    kt.Translator(model, tokenizer).save(tmp_path / "translator")
    (tmp_path / "text").write_text("\n".join(texts) + "\n")
    command = [sys.executable, str(GPU.with_name("translation.py")), str(tmp_path / "translator")]
    command += ["--source", str(tmp_path / "text"), "--target", str(tmp_path / "text"), "--parts"]
    for wrong, message in (("bleu,speed", "'speed' names nothing"), ("speculative", "needs --draft")):
        child = subprocess.run([*command, wrong], capture_output=True, text=True, check=False)
        assert child.returncode and message in child.stderr
    command += ["bleu,precision,batches,speculative", "--beams", "1,2", "--count", "2", "--drafted", "1"]
    command += ["--draft", str(tmp_path / "translator"), "--json", str(tmp_path / "new" / "found.json")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr + child.stdout
    found = json.loads((tmp_path / "new" / "found.json").read_text(encoding="utf-8"))
    name = keras.backend.backend()
    assert len(found[f"{name}: float32, beam 2"]["translations"]) == 3 and f"{name}: int8, beam 4" in found
    assert found[f"{name}: in reverse"] == {"differ": 0, "by 1e-5 or more": 0}
    drafted = found[f"{name}: 1 drafted"]
    assert drafted["same"] == drafted["sentences"] == 2
    assert drafted["steps of the large model"] < found[f"{name}: greedy"]["steps of the large model"]


@pytest.mark.deep
@pytest.mark.skipif("jax" not in BACKENDS, reason="one round is enough")
def test_data(tmp_path, monkeypatch):
    """Its corpus, the preparation by the command line, and readers that give the same tokens."""
    pytest.importorskip("pyarrow")
    script = GPU.with_name("data.py")
    command = [sys.executable, str(script), "--pairs", "1500", "--rounds", "1", "--seconds", "0.2", "--no-step"]
    command += ["--only", "ours", "--folder", str(tmp_path), "--json", str(tmp_path / "data.json")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr + child.stdout
    found = json.loads((tmp_path / "data.json").read_text())
    assert found["preparation"]["pairs"] == 1500 and found["preparation"]["peak_mb"] > 0
    assert all(bursts[0]["tokens_per_second"] > 0 for bursts in found["results"].values())
    monkeypatch.syspath_prepend(script.parent)
    import data

    pairs = data._Pairs(tmp_path / "prepared")
    numbers = sorted(number for batch in pairs.batches() for number in batch)
    assert numbers == list(range(len(pairs)))
    source, target, labels = data._collate([pairs[0], pairs[1]])
    assert (
        source.shape[0] == target.shape[0] == 2
        and (target[:, 1:][labels[:, 1:] != 0] == labels[:, :-1][labels[:, 1:] != 0]).all()
    )
