"""Several pairs in a line: nothing is lost, attention stays inside a pair, and the loss is that of the pairs alone."""

import gzip
import os
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.layers import segment_mask, segment_positions
from keras_transformer.text.packing import pack

PAD, BOS, EOS = 0, 2, 3
MULTI30K = Path(os.environ.get("KERAS_TRANSFORMER_MULTI30K") or Path(__file__).parents[2] / "shared/data/multi30k")


class Letters:
    """An id a character."""

    pad_id, bos_id, eos_id, unk_id, vocabulary_size = PAD, BOS, EOS, 1, 30

    def encode(self, texts, add_bos=False, add_eos=False):
        return [[BOS] * add_bos + [4 + ord(letter) - ord("a") for letter in text] + [EOS] * add_eos for text in texts]


def random_texts(count, longest, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest, (2, count))
    return [["".join(generator.choice(list("abcdefgh"), length)) for length in side] for side in lengths]


@pytest.mark.parametrize("seed", range(4))
def test_every_pair_is_in_one_line_that_holds_it(seed):
    generator = np.random.default_rng(seed)
    source, target = generator.integers(2, 25, (2, 500))
    packs = pack(source, target, 64)
    lines = packs.lines(np.arange(len(packs)))
    members = [line[line >= 0] for line in lines]
    assert sorted(np.concatenate(members).tolist()) == list(range(500))
    assert all(source[line].sum() <= packs.source_length <= 64 for line in members)
    assert all(target[line].sum() <= packs.target_length <= 64 for line in members)
    fill = (source.sum() + target.sum()) / (len(packs) * (packs.source_length + packs.target_length))
    assert fill > 0.9
    assert packs.lines([-1, 0]).tolist()[0] == [-1] * len(members[0])


def test_the_time_depends_on_the_lengths_and_not_on_the_pairs():
    source, target = np.random.default_rng(0).integers(2, 6, (2, 100_000))
    packs = pack(source, target, 64)
    assert (np.bincount(packs.pairs, minlength=100_000) == 1).all()


def test_batches_serve_every_pair_once_with_its_segments():
    source, target = random_texts(60, 9)
    batches = kt.Batches(source, target, Letters(), batch_tokens=64, packed_length=32)
    assert len(batches.shapes) == 1 and batches.num_pairs == 60
    found = []
    for place in range(len(batches)):
        inputs, labels = batches[place]
        for row in range(len(labels)):
            for segment in range(1, inputs["source_segments"][row].max() + 1):
                own, mine = inputs["source_segments"][row] == segment, inputs["target_segments"][row] == segment
                found.append(
                    (
                        inputs["source"][row][own].tolist(),
                        inputs["target"][row][mine].tolist(),
                        labels[row][mine].tolist(),
                    )
                )
            padding = inputs["target_segments"][row] == 0
            assert (inputs["target"][row][padding] == PAD).all() and (labels[row][padding] == PAD).all()
    encode = Letters().encode
    expected = zip(
        encode(source, add_eos=True), encode(target, add_bos=True), encode(target, add_eos=True), strict=True
    )
    assert sorted(found) == sorted(expected)
    real = sum(len(s) + len(t) + 2 for s, t in zip(source, target, strict=True))
    positions = len(batches) * batches.shapes[0][0] * sum(batches.shapes[0][1:])
    assert batches.padding_share == pytest.approx(1 - real / positions)


def as_numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_segment_masks_and_positions():
    segments = np.array([[1, 1, 2, 3, 3, 3, 0]])
    mask = as_numpy(segment_mask(segments, segments))
    expected = [[a == b and a > 0 for b in segments[0]] for a in segments[0]]
    assert mask.shape == (1, 1, 7, 7) and mask[0, 0].tolist() == expected
    assert as_numpy(segment_positions(segments))[0].tolist()[:6] == [0, 1, 0, 0, 1, 2]


@pytest.mark.parametrize("tie_embeddings", ["all", None])
def test_packed_loss_logits_and_gradients_equal_the_unpacked(tie_embeddings):
    source, target = random_texts(24, 9, seed=1)
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 2, "d_ff": 16, "dropout": 0.0, "seed": 3}
    model = kt.Transformer(30, tie_embeddings=tie_embeddings, **sizes)
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    before = [np.array(weight) for weight in model.get_weights()]
    alone = kt.Batches(source, target, Letters(), batch_tokens=256, num_buckets=1, shuffle=False)
    packed = kt.Batches(source, target, Letters(), batch_tokens=256, packed_length=32, shuffle=False)
    assert len(alone) == len(packed) == 1 and packed.shapes[0][0] < alone.shapes[0][0]
    logits = {}
    for batches in (alone, packed):
        inputs, labels = batches[0]
        values = as_numpy(model(inputs))
        for row in range(len(labels)):
            segments = inputs.get("target_segments", (inputs["target"] != PAD).astype(int))[row]
            for segment in range(1, segments.max() + 1):
                key = tuple(
                    inputs["source"][row][inputs.get("source_segments", (inputs["source"] != PAD) * 1)[row] == segment]
                )
                key += tuple(labels[row][segments == segment])
                if key in logits:
                    np.testing.assert_allclose(values[row][segments == segment], logits[key], atol=1e-5)
                logits[key] = values[row][segments == segment]
    losses = [model.evaluate(batches, verbose=0, return_dict=True)["loss"] for batches in (alone, packed)]
    assert abs(losses[0] - losses[1]) < 1e-5
    steps = []
    for batches in (alone, packed):  # one step of plain gradient descent: the weights move by the gradient
        model.set_weights(before)
        model.fit(batches, verbose=0)
        steps.append([after - start for after, start in zip(model.get_weights(), before, strict=True)])
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.skipif(
    not (MULTI30K / "train.de.gz").is_file(), reason="no Multi30k; KERAS_TRANSFORMER_MULTI30K names its folder"
)
def test_multi30k_pads_less_than_three_per_cent():
    """Words stand for pieces here: about as many, and no tokenizer need be trained."""
    sides = [
        gzip.decompress((MULTI30K / f"train.{side}.gz").read_bytes()).decode().split("\n")[:-1] for side in ("en", "de")
    ]
    source, target = (np.array([len(line.split()) + 1 for line in lines]) for lines in sides)
    packs = pack(source, target, 128)
    assert 1 - (source.sum() + target.sum()) / (len(packs) * (packs.source_length + packs.target_length)) < 0.03
