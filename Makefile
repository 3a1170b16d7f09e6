# make demo   sets everything up, trains the built-in task, translates, exports
# make test   sets everything up, passes the tests on three backends and in an environment without TensorFlow
# Both work on a fresh machine with Python 3.11 or later and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BACKEND ?= tensorflow
PIP = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two processes of one thread each: most of the time goes into tracing and compiling, which use one core.
PYTEST = -m pytest --numprocesses 2 --dist loadfile
test-% reliability: export OMP_NUM_THREADS = 1

# On Linux PyPI's torch brings CUDA libraries of several GB. Where pip finds no CPU build by itself, name PyTorch's index of CPU builds:
# make demo TORCH_INDEX=...
TORCH_INDEX ?=
TORCH = $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0

BENCH = .venv-bench/bin/python benchmarks

.PHONY: demo test test-tensorflow test-jax test-torch test-without-tensorflow test-all reliability lint format clean \
	bench-train bench-operations bench-loss bench-start bench-length bench-fit bench-decode bench-data test-beam

demo: .venv/ready
	.venv/bin/keras-transformer demo --backend $(BACKEND) --output saved_models/demo

test: lint test-tensorflow test-torch test-without-tensorflow test-jax

test-tensorflow: .venv/ready
	KERAS_BACKEND=tensorflow .venv/bin/python $(PYTEST) -m "not deep"

test-torch: .venv/ready
	KERAS_BACKEND=torch .venv/bin/python $(PYTEST) -m "not deep"

# The whole of JAX's tests run where there is no TensorFlow ...
test-without-tensorflow: .venv-jax/ready
	KERAS_BACKEND=jax .venv-jax/bin/python $(PYTEST) -m "not deep"

# ... and what needs TensorFlow beside JAX runs here: four whole files, and of others what -k names. A few long tests: each goes
# to the process that is free.
test-jax: .venv/ready
	KERAS_BACKEND=jax .venv/bin/python $(PYTEST) --dist worksteal -m "not deep" tests/test_saved_model.py \
		tests/test_keras_nlp_equivalence.py tests/test_testing_keras_nlp.py tests/test_readme.py \
		tests/test_transformer.py tests/test_trainer.py tests/test_cli.py tests/test_inputs.py \
		-k "test_saved_model or keras_nlp or test_readme or tf_data or tf.data or data_loader or DataLoader or export"

# Apache Beam asks for an older protobuf than TensorFlow: an environment of its own, with its own versions.
test-beam: .venv-beam/ready
	KERAS_BACKEND=jax .venv-beam/bin/python -m pytest tests/test_beam.py

.venv-beam/ready: pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[jax,beam]' 'pytest>=8.3'
	touch $@

test-all: test
	.venv/bin/python $(PIP) --editable '.[browser]'
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend .venv/bin/python $(PYTEST) -m deep || exit 1; done

FAULTS = tests/reliability tests/test_resume.py tests/test_hostile_text.py tests/test_workers.py \
	tests/test_search.py::test_decode_cases tests/test_batches.py::test_a_workers_end_ends_fit_and_the_state_goes_on

# Kills, full disks, flipped bits, bad numbers, hostile files; prints the table of docs/reliability.md.
reliability: .venv/ready
	mkdir -p build && rm -f build/reliability.jsonl
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend RELIABILITY_FIGURES=$(CURDIR)/build/reliability.jsonl \
		.venv/bin/python $(PYTEST) $(FAULTS) || exit 1; done
	.venv/bin/python tests/reliability/table.py build/reliability.jsonl

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	KERAS_BACKEND=jax .venv/bin/lint-imports

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# torch first and by itself, from TORCH_INDEX: any other requirement for it is then met.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(TORCH)
	.venv/bin/python $(PIP) --editable '.[tensorflow,jax,torch,nlp,data,plots,ctranslate2,onnx,marian,serve,dev]'
	touch $@

.venv-jax/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/python $(PIP) --editable '.[jax,data,plots,dev]'
	touch $@

# Each prints a table and writes its measurements as JSON; docs/performance.md holds the figures.
bench-train: .venv-bench/ready
	for size in small base; do for dropout in 0.1 0; do \
		$(BENCH)/train.py --size $$size --dropout $$dropout --json build/train-$$size-$$dropout.json || exit 1; done; done

bench-operations: .venv-bench/ready
	$(BENCH)/operations.py --json build/operations.json

bench-loss: .venv-bench/ready
	$(BENCH)/loss.py --json build/loss.json

bench-start: .venv-bench/ready
	$(BENCH)/start.py --json build/start.json

bench-length: .venv-bench/ready
	$(BENCH)/length.py --plot build/length.png --json build/length.json

bench-fit: .venv-bench/ready
	$(BENCH)/fit.py --json build/fit.json

bench-decode: .venv-bench/ready
	for part in beam greedy; do $(BENCH)/decode.py --parts $$part --json build/decode-$$part.json || exit 1; done
	$(BENCH)/decode.py --parts length --only ours --only CTranslate2 --json build/decode-length.json

# 10 million pairs: about 4 GB on disk, of which nothing stays.
bench-data: .venv-bench/ready
	$(BENCH)/data.py --json build/data.json

# The peers, from their packages. JoeyNMT asks for an old protobuf that TensorFlow cannot use and does not need it to train.
.venv-bench/ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python $(TORCH)
	.venv-bench/bin/python $(PIP) --editable '.[tensorflow,jax,torch,nlp,data,plots]'
	.venv-bench/bin/python $(PIP) --requirement benchmarks/requirements.txt
	.venv-bench/bin/python $(PIP) --no-deps joeynmt==2.3.0
	mkdir -p build
	touch $@

clean:
	rm -rf .venv .venv-jax .venv-bench .venv-beam .pytest_cache .ruff_cache build *.egg-info
