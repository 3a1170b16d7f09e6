"""What all tests share: a compile cache for JAX, a preset that compiles in a moment, and where figures are written down."""

import importlib.util
import json
import os
import random
import signal
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

# Many tests build the same small model: JAX then compiles it once a run. A new folder each run, so that no run leans on another.
_CACHE = tempfile.TemporaryDirectory(prefix="jax-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _seed(name):
    """One run draws what another drew, whatever ran before: what fails once fails again. TEST_SEED=1, 2, ... draws something else.

    Keras draws the seeds of its layers from `random`; `keras.utils.set_random_seed` would import TensorFlow on every backend.
    """
    seed = zlib.crc32(f"{os.environ.get('TEST_SEED', 0)} {name}".encode())
    random.seed(seed)
    np.random.seed(seed)


def pytest_collectstart(collector):
    """Seeds before a file is imported, since many files make a model at that moment."""
    if isinstance(collector, pytest.Module):
        _seed(collector.name)


@pytest.fixture(autouse=True, scope="module")
def _seed_of_a_file(request):
    _seed(request.node.name)


@pytest.fixture(autouse=True)
def _seed_of_a_test(request):
    _seed(request.node.name)


@pytest.fixture(scope="module")
def tiny_is_one_layer():
    """Lets the preset "tiny" mean a model that is compiled in a moment: these tests are about what is around it."""
    from keras_transformer.presets import PRESETS

    with pytest.MonkeyPatch.context() as patch:
        sizes = {"num_layers": 1, "d_model": 8, "d_ff": 16, "num_heads": 2, "dropout": 0.0}
        patch.setitem(PRESETS["tiny"], "model", sizes)
        yield


def _write_figure(fault, cases, result, backend=True):
    path = os.environ.get("RELIABILITY_FIGURES")
    backend = os.environ.get("KERAS_BACKEND") if backend else "none"
    row = {"fault": fault, "cases": cases, "result": result, "backend": backend}
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def figure():
    """Writes down what a test has counted, where RELIABILITY_FIGURES names a file; `make reliability` makes a table of it."""
    return _write_figure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test marked ``counts`` that has run and passed is one case more."""
    report = yield
    mark = item.get_closest_marker("counts")
    if mark is not None and report.when == "call" and report.passed:
        _write_figure(*mark.args, **mark.kwargs)
    return report


@pytest.fixture
def ctrl_c():
    """SIGINT as in a terminal: a shell starts what runs in the background with that signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# What is around `fit` makes and compiles a model for nearly each test. `make test` runs these files on PyTorch, where nothing is
# compiled, and of each the named tests everywhere; `make test-all` runs all on every backend.
_ON_PYTORCH = {
    "test_bleu.py": {"test_bleu_reaches_history_and_stock_callbacks"},
    "test_callbacks.py": {"test_no_step_waits_for_the_device"},
    "test_cli.py": {
        "test_evaluate_prints_score_and_signature",
        "test_export",
        "test_run_folder_holds_all",
        "test_train_again_goes_on",
        "test_translate_files",
    },
    "test_curves.py": set(),
    "test_early_stopping.py": set(),
    "test_examples.py": {"test_copy_task_is_learnt"},
    "test_finite_guard.py": set(),
    "test_interruption.py": {"test_signals_end_training_between_two_batches"},
    "test_learning_rate.py": set(),
    "test_limit.py": {"test_limit_counts_updates_and_not_micro_batches"},
    "test_mid_epoch.py": {"test_training_from_the_middle_ends_with_the_same_weights"},
    "test_numbers.py": {"test_the_step_is_left_out"},
    "test_progress.py": {"test_progress_leaves_jax_state_whole"},
    "test_properties_attention.py": set(),
    "test_properties_losses.py": set(),
    "test_properties_search.py": set(),
    "test_resume_data.py": {
        "test_a_place_within_an_execution_is_refused",
        "test_the_epoch_gone_on_in_is_that_of_one_fit",
    },
    "test_runs.py": set(),
    "test_spike_rollback.py": set(),
    "test_tensorboard.py": set(),
    "test_training_memory.py": set(),
}
# Each of these exports by TensorFlow, or translates 600 sentences; export from every backend is shown by test_saved_model.py.
_ON_TENSORFLOW = {
    "test_other_answers_are_an_error",
    "test_prints_what_was_counted",
    "test_without_tensorflow_it_says_so",
}
# These take 10 to 70 seconds each on JAX, and much on TensorFlow, nearly all of it compiling: they run on PyTorch, and a quicker
# test of the same part on every backend.
_LONG_TO_COMPILE = {
    "test_a_batch_that_shrinks_and_a_cache_that_grows_change_nothing",
    "test_a_beam_sampler_is_a_beam_search_without_length_penalty",
    "test_a_branch_at_zero_is_no_finding",
    "test_a_correct_model_of_another_kind_learns_ten_pairs",
    "test_a_fresh_process_loads_and_translates_the_same",
    "test_a_frozen_part_stays_as_it_is_also_through_saving",
    "test_a_hypothesis_sees_what_its_ancestors_wrote",
    "test_a_loss_may_be_a_mean_or_a_sum",
    "test_a_model_of_two_vocabularies_trains_and_translates_and_comes_back",
    "test_a_narrow_beam_meets_them_all_the_same",
    "test_a_run_with_separate_vocabularies",
    "test_an_adapter_whose_weights_are_new_has_gradients",
    "test_an_ensemble_translates_text",
    "test_an_ensemble_with_a_draft",
    "test_an_id_that_is_forbidden_hides_nothing",
    "test_attention_that_fixed_its_scale_when_it_was_made",
    "test_beam_one_is_greedy_and_batches_of_few_tokens_change_nothing",
    "test_chunks_change_little_in_16_bits",
    "test_clipping_holds_under_loss_scaling_and_accumulation",
    "test_diverse_search_equals_the_algorithm_written_out",
    "test_dropout_of_long_sequences_has_seeds_that_are_positive",
    "test_each_text_gets_its_own_translation_in_the_order_given",
    "test_fit_takes_a_py_dataset_of_differing_shapes",
    "test_greedy_is_greedy_search",
    "test_hypotheses_say_what_was_found",
    "test_impossible_phrases",
    "test_logits_that_are_no_numbers_are_one_finding",
    "test_loss_gradients_and_dropout_are_the_same",
    "test_lower_precision_is_near",
    "test_mean_is_exact",
    "test_mixed_precision_searches_in_float32",
    "test_no_false_alarm_on_correct_models_of_other_kinds",
    "test_numbers_that_are_none_raise",
    "test_one_group_is_beam_search",
    "test_one_seed_gives_one_training_with_dropout",
    "test_options_of_compile_change_no_number",
    "test_packed_loss_logits_and_gradients_equal_the_unpacked",
    "test_phrases_belong_to_lines",
    "test_relative_positions",
    "test_rules_and_limits_hold",
    "test_rules_that_contradict_them",
    "test_samples_do_not_depend_on_batches",
    "test_score_and_attention",
    "test_scores_are_of_the_mean_probability",
    "test_several_translations_of_a_line",
    "test_sides_of_different_lengths",
    "test_smoothing_over_the_others_is_told_where_v_is_large",
    "test_source_padding_is_looked_for_in_the_sources_own_table",
    "test_survives_saving",
    "test_the_anchors_certificate_is_of_this_code",
    "test_the_backends_own_error_of_too_little_memory_is_known",
    "test_the_early_stop_finds_the_same_best",
    "test_the_gpu_benchmark_prints_its_tables",
    "test_the_shift_of_packed_batches_and_of_padding",
    "test_the_step_in_jax_by_hand_runs",
    "test_translations_are_the_large_models_greedy_ones",
    "test_under_loss_scaling",
    "test_under_mixed_precision",
    "test_what_a_model_raises_is_not_checked",
    "test_what_is_added_to_the_loss_is_reported_and_trained",
    "test_what_several_groups_find_comes_once",
    "test_without_phrases_it_is_beam_search",
}

_HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    backend = os.environ.get("KERAS_BACKEND")
    for item in items:
        name, file = item.originalname, Path(item.fspath).name
        elsewhere = backend != "torch" and name not in _ON_PYTORCH.get(file, {name})
        elsewhere |= backend != "torch" and name in _LONG_TO_COMPILE
        # Its code ends in an export, so that with JAX it runs where TensorFlow is too (test-jax in the Makefile).
        elsewhere |= backend == "jax" and name == "test_python_code_runs_as_it_stands" and not _HAS_TENSORFLOW
        elsewhere |= backend != "tensorflow" and file == "test_demo_run.py" and name in _ON_TENSORFLOW
        if elsewhere:
            item.add_marker(pytest.mark.deep)
