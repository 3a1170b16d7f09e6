"""The command line, as a user meets it."""

import gzip
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer import file_translation
from keras_transformer.callbacks import LearningRate, read_curves
from keras_transformer.checkpoints import average_checkpoints, latest_checkpoint, list_checkpoints
from keras_transformer.cli import main

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings"] * 8
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft", "ein Vogel singt"] * 8

pytestmark = pytest.mark.usefixtures("tiny_is_one_layer")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in (("train.en", EN), ("train.de", DE), ("val.en", EN[:5]), ("val.de", DE[:5])):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def train_arguments(texts, output, *more):
    files = {"source": "train.en", "target": "train.de", "valid-source": "val.en", "valid-target": "val.de"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(texts / file))]
    return ["train", *options, "--output", str(output), "--vocabulary-size", "300", "--batch-tokens", "200", *more]


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory, tiny_is_one_layer):
    folder = tmp_path_factory.mktemp("runs") / "en-de"
    result = CliRunner().invoke(main, train_arguments(texts, folder, "--epochs", "2"), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def failure(*arguments, **kwargs):
    """What a failed command says; it must be one message and no traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **kwargs)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.output


def test_run_folder_holds_all(run):
    names = {path.name for path in run.iterdir()}
    assert {"run.yaml", "tokenizer.model", "checkpoints", "translator", "curves.csv", "tensorboard"} <= names
    rows = read_curves(run / "curves.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "perplexity", "learning_rate", "val_loss", "val_bleu"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("number", "message"), [(np.nan, "holds numbers that are not finite"), (3e38, "logits are not finite")]
)
def test_translate_says_when_numbers_are_none(run, tmp_path, number, message):
    translator = kt.Translator.load(run / "translator")
    translator.model.set_weights([np.full_like(w, number) for w in translator.model.get_weights()])
    translator.save(tmp_path / "translator")
    assert message in failure("translate", tmp_path / "translator", "--beam-size", "1", input="a dog runs\n")


def test_translate_from_stdin_to_stdout(run):
    result = CliRunner().invoke(
        main, ["translate", str(run), "--beam-size", "2"], input="a dog runs\n\nthe cat sleeps\n"
    )
    assert result.exit_code == 0
    expected = kt.Translator.load(run / "translator").translate(["a dog runs", "", "the cat sleeps"], beam_size=2)
    assert result.stdout.splitlines() == expected


def test_translate_files(run, texts, tmp_path):
    arguments = ["translate", str(run), "--source", str(texts / "val.en"), "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == 5


def test_as_many_lines_out_as_in(run, tmp_path):
    """Only a line feed ends a line, in a file and from standard input; a byte order mark is none of the text."""
    content = "\ufeffa dog runs\rthe cat sleeps\r\n\na\u2028bird\u0085sings".encode()
    expected = kt.Translator.load(run / "translator").translate(
        ["a dog runs\rthe cat sleeps", "", "a\u2028bird\u0085sings"], beam_size=1
    )
    for data in (content, gzip.compress(content)):
        (tmp_path / "text").write_bytes(data)
        result = CliRunner().invoke(main, ["translate", str(run), "--beam-size", "1"], input=data)
        assert result.exit_code == 0, result.output
        arguments = ["--source", str(tmp_path / "text"), "--output", str(tmp_path / "out"), "--beam-size", "1"]
        assert CliRunner().invoke(main, ["translate", str(run), *arguments]).exit_code == 0
        assert (tmp_path / "out").read_bytes() == result.stdout_bytes
        assert result.stdout_bytes.decode().split("\n") == [*expected, ""]


def test_translate_under_phrases_and_by_groups(run, tmp_path):
    (tmp_path / "include").write_text("Hund\n\nein\tsingt\n", encoding="utf-8")
    (tmp_path / "avoid").write_text("\nKatze\n\n", encoding="utf-8")
    text = "a dog runs\na cat runs\na bird sings\n"
    arguments = ["translate", str(run), "--beam-size", "4", "--max-length", "40"]
    phrases = ["--include", str(tmp_path / "include"), "--avoid", str(tmp_path / "avoid")]
    result = CliRunner().invoke(main, [*arguments, *phrases], input=text)
    one, two, three = result.stdout.split("\n")[:3]
    assert "Hund" in one and "Katze" not in two and "ein" in three and "singt" in three
    result = CliRunner().invoke(main, [*arguments, *phrases, "--shard", "3/3"], input=text)
    assert result.stdout == three + "\n"
    result = CliRunner().invoke(main, [*arguments, "--groups", "2", "--n-best", "3"], input=text)
    assert [len(line.split("\t")) for line in result.stdout.splitlines()] == [3, 3, 3]
    fewer = failure(*arguments, "--beam-size", "2", "--include", tmp_path / "include", input="a dog runs\n")
    assert "--include has more lines than the source" in fewer
    exclusive = failure("translate", run, *phrases, "--groups", "2", input=text)
    assert "--groups does not go with --include, --avoid" in exclusive
    assert "--sampler does not go with --beam-size" in failure(*arguments, "--sampler", "greedy", input=text)
    assert "length_penalty must be a number from 0" in failure(*arguments, "--length-penalty", "nan", input=text)


def test_line_feed_within_a_translation_ends_no_line(run, monkeypatch):
    found = [[kt.decoding.Hypothesis(text, 0.0, [], True)] for text in ("ein\nHund", "Katze")]
    monkeypatch.setattr(kt.Translator, "hypotheses", lambda *_, **__: found)
    result = CliRunner().invoke(main, ["translate", str(run)], input="a dog\na cat\n")
    assert result.stdout == "ein Hund\nKatze\n"


def test_translate_refuses_before_the_work(run, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(kt.Translator, "load", None)
    source = "--source", texts / "val.en"
    assert "There is no file" in failure("translate", run, "--source", tmp_path / "gone")
    assert "cannot be read: Is a directory" in failure("translate", run, "--source", tmp_path)
    assert "is not UTF-8" in failure("translate", run, input=b"\xff\n")
    assert "--output must be a file. Received: the folder" in failure("translate", run, *source, "--output", tmp_path)
    output = failure("translate", run, *source, "--output", tmp_path / "gone" / "out")
    assert "--output must be in a folder that exists" in output
    for options in ([], ["--resume"]):
        both = failure("translate", run, *source, "--output", texts / "." / "val.en", *options)
        assert "--output must be another file than those that are read" in both
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    output = failure("translate", run, *source, "--output", tmp_path / "out")
    assert "--output must be a file that can be written" in output
    assert not (tmp_path / "out").exists()


def test_translate_goes_on_and_in_shards(run, tmp_path):
    lines = ["a dog runs", "", "the cat sleeps", "a bird sings", "a dog runs"]
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    arguments = ["translate", str(run), "--source", str(tmp_path / "text"), "--beam-size", "1", "--chunk", "2"]
    whole = CliRunner().invoke(main, arguments).stdout_bytes
    expected = kt.Translator.load(run / "translator").translate(lines, beam_size=1)
    assert whole.decode().split("\n") == [*expected, ""]
    output = tmp_path / "out"
    first = len("\n".join(expected[:1]).encode()) + 1
    output.write_bytes(whole[: first + 2])  # broken off within the second or third line
    assert CliRunner().invoke(main, [*arguments, "--output", str(output), "--resume"]).exit_code == 0
    assert output.read_bytes() == whole
    shards = [CliRunner().invoke(main, [*arguments, "--shard", f"{i}/2"]).stdout.split("\n")[:-1] for i in (1, 2)]
    assert shards == [expected[::2], expected[1::2]]
    foreign = failure("translate", run, "--output", output, "--resume", input="a\n")
    assert "out has 5 lines, and the text to translate only 1" in foreign and output.read_bytes() == whole
    assert "--resume needs an --output file" in failure("translate", run, "--resume", input="a\n")
    for wrong in ("2/1", "0/2", "a/b", "2"):
        assert "--shard must be I/N" in failure("translate", run, "--shard", wrong, input="a\n")


def test_what_is_cut_off_or_split_is_counted(run):
    arguments = ["translate", str(run), "--beam-size", "1", "--max-length", "1"]
    result = CliRunner().invoke(main, arguments, input="a dog runs\n\nthe cat sleeps\n")
    translator = kt.Translator.load(run / "translator")
    search = kt.decoding.GreedySearch(translator.model, max_length=1)
    cut_off = sum(not found[0].ended for found in translator.hypotheses(["a dog runs", "the cat sleeps"], search))
    assert cut_off and "3 lines" in result.stderr
    assert f"1 blank; {cut_off} translations cut off at the limit of tokens" in result.stderr
    arguments = ["translate", run, "--longest", "3", "--over-long", "refuse"]
    refused = failure(*arguments, "--output", run / "refused", input="the cat sleeps on the mat\n")
    assert "Line 1 has " in refused and not (run / "refused").exists()
    assert CliRunner().invoke(main, ["translate", str(run), "--output", str(run / "none")], input="").exit_code == 0
    assert (run / "none").read_bytes() == b""
    (longest,) = (parameter for parameter in main.commands["translate"].params if parameter.name == "longest")
    assert longest.default == file_translation.LONGEST  # which imports Keras, and --help does not


def test_score(run, tmp_path):
    (tmp_path / "en").write_text("a dog runs\nthe cat sleeps\n")
    (tmp_path / "de").write_text("ein Hund rennt\ndie Katze\n")
    arguments = ["score", str(run), "--source", str(tmp_path / "en"), "--target", str(tmp_path / "de"), "--alignments"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    scored = kt.Translator.load(run / "translator").score(
        ["a dog runs", "the cat sleeps"], ["ein Hund rennt", "die Katze"]
    )
    assert result.stdout.splitlines() == [f"{one.log_probability:.6f}\t{one.pharaoh}" for one in scored]
    (tmp_path / "de").write_text("ein Hund rennt\n")
    assert "has 2 lines" in failure(*arguments)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_saves_and_the_same_command_goes_on(texts, tmp_path, monkeypatch, number, code):
    arguments = train_arguments(texts, tmp_path / "run", "--epochs", "2")
    with monkeypatch.context() as patch:
        hook = lambda self, batch, logs=None: signal.raise_signal(number) if batch == 1 else None  # noqa: E731
        patch.setattr(LearningRate, "on_train_batch_begin", hook)
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1] == (
        f"Stopped. Received {number.name}. {tmp_path / 'run'} is saved: the same command goes on after update 1."
    )
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-1"
    assert (tmp_path / "run" / "translator").is_dir()
    if number == signal.SIGINT:
        assert CliRunner().invoke(main, arguments).exit_code == 0
        assert [row["epoch"] for row in read_curves(tmp_path / "run" / "curves.csv")] == [1, 2]


def test_interrupt_before_there_is_anything_to_save(monkeypatch, run):
    monkeypatch.setattr(kt.Translator, "load", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    result = CliRunner().invoke(main, ["translate", str(run)], input="a dog\n")
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")


def test_evaluate_prints_score_and_signature(run, texts):
    arguments = ["evaluate", str(run), "--source", str(texts / "val.en"), "--target", str(texts / "val.de")]
    result = CliRunner().invoke(main, arguments)
    translations = kt.Translator.load(run / "translator").translate(EN[:5])
    assert result.stdout.startswith(f"{kt.bleu(translations, DE[:5])}\nchrF2 = ")
    assert result.stdout.startswith("BLEU = ")


def test_train_again_goes_on(run, texts):
    result = CliRunner().invoke(main, train_arguments(texts, run, "--epochs", "3"))
    assert result.exit_code == 0
    assert "going on after update" in result.stderr and "in epoch 3" in result.stderr
    assert [row["epoch"] for row in read_curves(run / "curves.csv")] == [1, 2, 3]
    output = failure(*train_arguments(texts, run, "--preset", "small"))
    assert "holds a run with preset='tiny'. Received: preset='small'" in output


def test_average_of_checkpoints(run, tmp_path):
    result = CliRunner().invoke(main, ["average", str(run), "--output", str(tmp_path / "mean"), "--last", "2"])
    assert result.exit_code == 0, result.output
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert all(name in result.stderr for name in steps)
    means = kt.Translator.load(tmp_path / "mean").model.get_weights()
    model, both = kt.Translator.load(run / "translator").model, []
    for path in list_checkpoints(run / "checkpoints"):
        average_checkpoints(model, [path])
        both.append(model.get_weights())
    for mean, *values in zip(means, *both, strict=True):
        np.testing.assert_array_equal(mean, np.mean(np.array(values, "float64"), axis=0).astype("float32"))
    assert "it holds 2 checkpoints to take, 5 are wanted" in failure(
        "average", run, "--output", tmp_path / "five", "--last", "5"
    )


def test_steps_and_config_file(texts, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("steps: 3\nseed: 5\n")
    result = CliRunner().invoke(main, [*train_arguments(texts, tmp_path / "run"), "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert read_curves(tmp_path / "run" / "curves.csv")[-1]["step"] == 3
    assert "seed: 5" in (tmp_path / "run" / "run.yaml").read_text()
    config.write_text("stepps: 3\n")
    assert "holds stepps, which train does not take" in failure(
        *train_arguments(texts, tmp_path / "run"), "--config", config
    )


def test_config_file_that_is_none(texts, tmp_path):
    config = tmp_path / "run.yaml"
    arguments = [*train_arguments(texts, tmp_path / "run"), "--config", config]
    for content, words in (
        (b"steps: [3", "is not a YAML file"),
        (b"a: b: c", "is not a YAML file"),
        (b"\xff\xfe\x00", "is not a YAML file"),
        (b"- 3", "must hold a mapping"),
        (b"3: 4", "holds 3, which train does not take"),
        (b"config: other.yaml", "holds config, which train does not take"),
        (b"steps: many", "'many' is not a valid integer"),
    ):
        config.write_bytes(content)
        assert words in " ".join(failure(*arguments).replace("\u2502", " ").split())


def test_bad_texts_are_one_line_and_leave_no_folder(texts, tmp_path):
    shorter = tmp_path / "shorter.de"
    shorter.write_text("ein Hund\n")
    latin = tmp_path / "latin.de"
    latin.write_bytes("schön\n".encode("latin-1") * 40)
    empty = tmp_path / "empty.de"
    empty.write_text("")
    for target, words in (
        (shorter, "40"),
        (latin, "not UTF-8"),
        (empty, "is empty"),
        (tmp_path / "gone", "There is no file"),
    ):
        output = failure("train", "--source", texts / "train.en", "--target", target, "--output", tmp_path / "run")
        assert words in output
        assert not (tmp_path / "run").exists()


def test_impossible_values(texts, tmp_path):
    assert "No preset is called 'huge'" in failure(*train_arguments(texts, tmp_path / "run", "--preset", "huge"))
    assert "Validation needs both sides" in failure(
        *("train", "--source", texts / "train.en", "--target", texts / "train.de"),
        *("--output", tmp_path / "run", "--valid-source", texts / "val.en"),
    )
    for option in ("--batch-tokens", "--vocabulary-size", "--steps"):
        assert "0 is not in the range x>=1" in failure(*train_arguments(texts, tmp_path / "run", option, "0"))
    assert "There is no folder" in failure("translate", tmp_path / "gone", input="a\n")
    assert "translator.json is missing" in failure("translate", tmp_path)
    assert "No backend is called 'theano'" in failure("translate", tmp_path, "--backend", "theano")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["--help"], 0, "translate"), (["translate", "run", "--beam-size", "0"], 2, "0 is not in the range x>=1")],
)
def test_help_and_an_impossible_option_do_not_import_keras(arguments, code, words):
    program = (
        f"import sys; sys.argv = ['keras-transformer', *{arguments}]\n"
        "from keras_transformer.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('keras', 'numpy', 'tensorflow', 'jax', 'torch') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert child.returncode == code
    assert words in child.stdout + child.stderr
    assert child.stdout.splitlines()[-1] == "[]"


def test_as_a_process_with_another_backend_asked_for(run):
    """--backend decides even though the variable says otherwise."""
    import keras

    command = [sys.executable, "-m", "keras_transformer", "translate", str(run), "--backend", keras.backend.backend()]
    child = subprocess.run(
        command,
        input="a dog runs\n",
        env=os.environ | {"KERAS_BACKEND": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == "" or "cut off at the limit of tokens" in child.stderr
    assert child.stdout == kt.Translator.load(run / "translator").translate(["a dog runs"])[0] + "\n"


def test_export_scores_and_refuses_before_it_works(run, texts, tmp_path):
    pytest.importorskip("ctranslate2")
    files = ["--source", texts / "val.en", "--target", texts / "val.de"]
    options = ["--format", "ctranslate2", "--quantization", "int8", "--beam-size", "2", "--licence", "CC0", *files]
    output = tmp_path / "export"
    result = CliRunner().invoke(main, [str(word) for word in ("export", run, output, *options)])
    assert result.exit_code == 0, result.output
    card = json.loads((output / "card.json").read_text())
    assert (card["quantization"], card["licence"]) == ("int8", "CC0")
    scores = card["scores"]
    assert (
        scores["of"] == "the model in Python, before the export"
        and scores["on"] == "val.de"
        and scores["beam_size"] == 2
    )
    assert scores["bleu"].startswith("BLEU = ") and "nrefs:1" in scores["bleu"]
    assert len(card["data"]) == 4 and card["made_by"]["settings"]["vocabulary_size"] == 300
    message = "--quantization is an option of --format ctranslate2. Received also: --format onnx"
    assert message in failure("export", run, output, "--format", "onnx", "--quantization", "int8")
    message = "--text is an option of --format saved_model. Received also: --format ctranslate2"
    assert message in failure("export", run, output, "--format", "ctranslate2", "--no-text")
    assert "Give --source as well" in failure("export", run, output, "--target", texts / "val.de")
    assert "holds other files" in failure("export", tmp_path / "none", texts)  # before it looks for a model


def test_export(run, tmp_path):
    pytest.importorskip("tensorflow", reason="a SavedModel is written by TensorFlow")
    result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "saved"), "--no-text"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "saved" / "card.json").read_text())["search"]["beam_size"] == 4
    assert (tmp_path / "saved" / "1" / "saved_model.pb").is_file()
