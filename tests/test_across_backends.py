"""One model, one batch, three backends: logits, gradients, loss curves and files agree.

A process a backend, started by the test and run by this very file (see ``main``); each writes what it found, and the
tests compare. As the three processes are the same whatever backend the tests themselves run on, they run once a
full round: under tensorflow, or under the first backend that is installed.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
# Who goes on with whose training: each backend with the one before it, so that each saves and each loads.
RING = [(BACKENDS[index - 1], backend) for index, backend in enumerate(BACKENDS)]
NORMS = ["pre"]  # test_certify.py compares a model with norm="post"
TRAINED = "pre"  # the one that is trained and saved: it has every kind of weight
STEPS = 50
MORE_STEPS = 5


# What each process does


def batch():
    """16 sentences of a toy language: the target is the source reversed; lengths differ."""
    generator = np.random.default_rng(0)
    source, target, labels = (np.zeros((16, 9), "int32") for _ in range(3))
    for row in range(16):
        words = generator.integers(4, 50, size=generator.integers(2, 8))
        source[row, : len(words) + 1] = [*words, 3]
        target[row, : len(words) + 1] = [2, *words[::-1]]
        labels[row, : len(words) + 1] = [*words[::-1], 3]
    return {"source": source, "target": target}, labels


def new_model(norm):
    import keras

    import keras_transformer as kt

    model = kt.Transformer(50, d_model=16, d_ff=32, num_heads=2, num_layers=2, dropout=0.0, norm=norm, seed=1)
    # compile()'s own optimizer, but for the schedule. The paper's scale would put the peak at 0.056 for so small a
    # model, where training is chaotic: a difference in the last bit grows to 0.01 within 50 steps. 0.005 is the peak
    # of the preset "tiny".
    schedule = kt.WarmupInverseSqrt.from_peak(5e-3, d_model=16, warmup_steps=20)
    model.compile(keras.optimizers.Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
    return model


def logits_of(model, inputs):
    import keras
    from keras import ops

    if keras.backend.backend() == "jax":  # one compilation instead of one an operation
        import jax

        rest = [v.value for v in model.non_trainable_variables]
        weights = [v.value for v in model.trainable_variables]
        return np.asarray(jax.jit(lambda w: model.stateless_call(w, rest, inputs, training=False)[0])(weights))
    return ops.convert_to_numpy(model(inputs, training=False))


def gradients_of(model, inputs, labels):
    import keras
    from keras import ops

    import keras_transformer as kt

    loss = kt.SmoothedCrossentropy(0.1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(labels, model(inputs, training=True))
        gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
    elif keras.backend.backend() == "torch":
        value = loss(labels, model(inputs, training=True))
        value.backward()
        gradients = [v.value.grad for v in model.trainable_variables]
    else:
        import jax

        rest = [v.value for v in model.non_trainable_variables]

        def of_weights(weights):
            return loss(labels, model.stateless_call(weights, rest, inputs, training=True)[0])

        gradients = jax.jit(jax.grad(of_weights))([v.value for v in model.trainable_variables])
    return [ops.convert_to_numpy(gradient) for gradient in gradients]


def losses_of(model, inputs, labels, steps):
    """The loss of each of ``steps`` updates on the whole batch."""
    return model.fit(inputs, labels, batch_size=len(labels), epochs=steps, shuffle=False, verbose=0).history["loss"]


def begin(folder, backend):
    """Logits and gradients of new models; the loss curve of one, its file while training, and what follows it."""
    inputs, labels = batch()
    for norm in NORMS:
        model = new_model(norm)
        found = {"logits": logits_of(model, inputs)}
        for index, gradient in enumerate(gradients_of(model, inputs, labels)):
            found[f"gradient_{index}"] = gradient
        if norm == TRAINED:
            found["losses"] = losses_of(model, inputs, labels, STEPS)
            model.save(folder / f"{backend}.keras")
            model.save_weights(folder / f"{backend}.weights.h5")
            found["trained_logits"] = logits_of(model, inputs)
            found["more_losses"] = losses_of(model, inputs, labels, MORE_STEPS)
        np.savez(folder / f"{backend}_{norm}.npz", **found)


def go_on(folder, origin, backend):
    """Logits of the model that another backend saved; and further losses, where ``origin`` is the backend before."""
    import keras

    inputs, labels = batch()
    model = keras.models.load_model(folder / f"{origin}.keras")
    found = {"logits": logits_of(model, inputs)}
    weighted = new_model(TRAINED)
    weighted.load_weights(folder / f"{origin}.weights.h5")
    found["logits_by_weights"] = logits_of(weighted, inputs)
    if (origin, backend) in RING:
        if backend == "tensorflow":
            model.jit_compile = False  # XLA's compilation would take longer than all the rest
        found["more_losses"] = losses_of(model, inputs, labels, MORE_STEPS)
    np.savez(folder / f"{origin}_on_{backend}.npz", **found)


def main(folder, backend):
    """What is still to be done on this backend: its own part, then every file that it has not yet read."""
    import keras_transformer  # noqa: F401  registers the classes

    if not (folder / f"{backend}.keras").exists():
        begin(folder, backend)
    for origin in BACKENDS:
        saved, read = folder / f"{origin}.keras", folder / f"{origin}_on_{backend}.npz"
        if origin != backend and saved.exists() and not read.exists():
            go_on(folder, origin, backend)


# The tests


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{name: arrays} of all that the processes wrote."""
    import keras

    if len(BACKENDS) < 2:
        pytest.skip(f"compares backends, and only {BACKENDS} is installed")
    if keras.backend.backend() != BACKENDS[0]:
        pytest.skip(f"starts processes of its own for {', '.join(BACKENDS)}; runs once, under {BACKENDS[0]}")
    folder = tmp_path_factory.mktemp("across_backends")
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for backend in (*BACKENDS, *BACKENDS[:-1]):  # all but the last once more, for the files that came after them
        environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, __file__, str(folder)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, f"{backend}:\n{process.stderr[-4000:]}"
    return {file.stem: dict(np.load(file)) for file in folder.glob("*.npz")}


def assert_close(a, b, tolerance, scale):
    assert np.isfinite(a).all() and a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * scale, f"{np.abs(a - b).max() / scale:.2e} of the largest entry"


@pytest.mark.parametrize("norm", NORMS)
def test_logits_agree(found, norm):
    first, *others = (found[f"{backend}_{norm}"]["logits"] for backend in BACKENDS)
    for other in others:
        assert_close(other, first, 1e-5, np.abs(first).max())


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_agree(found, norm):
    """Within 1e-5 of the largest entry of all: a key's bias has no gradient but rounding, so no scale of its own."""
    first, *others = (found[f"{backend}_{norm}"] for backend in BACKENDS)
    names = [name for name in first if name.startswith("gradient_")]
    assert len(names) == (65 + 4 if norm == "pre" else 65)  # 2 x 12 + 2 x 20 + the table; two final norms
    largest = max(np.abs(first[name]).max() for name in names)
    assert largest > 1e-3
    for other in others:
        for name in names:
            assert_close(other[name], first[name], 1e-5, largest)


def test_loss_curves_of_50_steps_agree(found):
    first, *others = (found[f"{backend}_{TRAINED}"]["losses"] for backend in BACKENDS)
    assert first.shape == (STEPS,)
    assert first[-1] < 0.8 * first[0]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("origin", "backend"), list(itertools.permutations(BACKENDS, 2)))
def test_a_file_saved_on_one_backend_gives_the_same_logits_on_another(found, origin, backend):
    before, after = found[f"{origin}_{TRAINED}"]["trained_logits"], found[f"{origin}_on_{backend}"]
    for kind in ("logits", "logits_by_weights"):
        assert_close(after[kind], before, 1e-5, np.abs(before).max())


@pytest.mark.parametrize(("origin", "backend"), RING)
def test_training_goes_on_on_another_backend(found, origin, backend):
    """The losses of training that was never interrupted: weights, optimizer and schedule go on."""
    before, after = found[f"{origin}_{TRAINED}"]["more_losses"], found[f"{origin}_on_{backend}"]["more_losses"]
    assert before.shape == (MORE_STEPS,)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ["KERAS_BACKEND"])
