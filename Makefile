# `make audit` and `make test` are all that a fresh machine needs; both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: setup audit faults test test-all lint format bench bench-batch bench-gpu fuzz gpu-check regression-gate paper fixtures clean

setup: .venv/.installed

# torch first and by its exact version: on a CPU machine that resolves to the CPU build, and later pins are met by it.
.venv/.installed: pyproject.toml
	@echo "making .venv …"
	@$(PYTHON) -m venv .venv
	@echo "installing torch (about 200 MB, or some GB with CUDA) …"
	@$(PIP) "torch==2.13.0"
	@echo "installing transformers, the other libraries and the development tools (about 100 MB) …"
	@$(PIP) --editable ".[dev,gguf,parquet]"
	@touch $@

audit: setup
	$(BIN)/peelaudit run fixtures/nanogpt/ckpt.pt

faults: setup
	OMP_NUM_THREADS=1 $(BIN)/peelaudit selftest fixtures/llama
	OMP_NUM_THREADS=1 $(BIN)/peelaudit selftest fixtures/nanogpt/ckpt.pt --earlier fixtures/nanogpt/ckpt-000600.pt

# A test module to a process, as many as there are cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

test: setup lint
	$(PYTEST)

test-all: setup lint .venv/.ray
	$(PYTEST) -m "slow or not slow"

.venv/.ray: .venv/.installed
	@echo "installing ray (about 70 MB) …"
	@$(PIP) --editable ".[ray]"
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# CKPT=checkpoint DATA=text: that one instead of the fixtures, by the default schedules.
bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python -u -m bench.solvers $(if $(CKPT),"$(CKPT)" --data "$(DATA)" --schedules default)
	OMP_NUM_THREADS=1 $(BIN)/python -u -m bench.heads $(if $(CKPT),"$(CKPT)" --data "$(DATA)")
	OMP_NUM_THREADS=1 $(BIN)/python -u -m bench.refined $(if $(CKPT),"$(CKPT)" --data "$(DATA)")
	OMP_NUM_THREADS=1 $(BIN)/python -u -m bench.cost $(if $(CKPT),"$(CKPT)" --data "$(DATA)")

regression-gate: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.regression_gate

# 50,000 changed files, a process to each core; ARGS="--format gguf --first 123 --count 1 --keep DIR" makes one again.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -u -m bench.fuzz --jobs $$(nproc) $(ARGS)

bench-gpu: setup
	$(BIN)/python -m bench.device $(ARGS)

# The wheel beside the CPU on the GPU that is here, if any; ARGS="--model PATH" audits a real model too. dist/gpu-check can
# be carried to a machine that has the libraries and nothing else.
gpu-check: setup
	$(BIN)/python -m bench.gpu.bundle dist/gpu-check
	PYTHONPATH=dist/gpu-check/wheel $(BIN)/python dist/gpu-check/bench/gpu_check.py --out dist/gpu-check/results $(ARGS)

bench-batch: setup
	$(BIN)/python -m bench.batch

paper: setup
	$(if $(and $(TRAIN),$(TEST)),,$(error make paper needs TRAIN=text and TEST=text, such as WikiText-2's files))
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.studies.paper --train "$(TRAIN)" --test "$(TEST)"

fixtures: setup
	$(BIN)/python fixtures/make_fixtures.py

clean:
	rm -rf .venv build dist .*_cache
