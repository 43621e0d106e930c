# elsewhere: every target prints what it does; `make help` lists them.
PYTHON ?= python3
# Where torch's CPU build is not the default of your package index, give pip's arguments for it here.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types check faults bench-demo bench-streaming bench-resonant bench-trigger bench-outliers bench-gpu benchmarks samples clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev,sim]'
	@touch $@

setup: $(VENV)/.base ## make .venv with the pinned versions

demo: $(VENV)/.base ## the dijet search and the trigger study on the samples that ship; prints the path of the report
	$(BIN)/elsewhere demo

test: $(VENV)/.dev ## set up and run the tests
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## basedpyright on the product
	$(BIN)/basedpyright

check: test lint types ## everything that continuous integration runs

bench-demo: $(VENV)/.dev ## the demo's acceptance figures -> benchmarks/results/demo.json (makes its samples on first use)
	$(BIN)/python benchmarks/demo.py

faults: $(VENV)/.dev ## the table of faults: each produced for real, and what came of it -> benchmarks/results/faults.json
	$(BIN)/python benchmarks/faults/table.py

bench-streaming: $(VENV)/.dev ## the acceptance figures of streaming -> benchmarks/results/streaming.json (half an hour; 5 GB of files)
	$(BIN)/python benchmarks/faults/exactly_once.py
	$(BIN)/python benchmarks/streaming.py

bench-resonant: $(VENV)/.dev ## the figures of the resonant search -> benchmarks/results/ (many hours; makes its events first; goes on where it was)
	$(BIN)/python benchmarks/physics/statement.py
	$(BIN)/python benchmarks/physics/hunt_null.py
	$(BIN)/python benchmarks/speed/fits.py
	$(BIN)/python benchmarks/speed/bumphunter.py
	$(BIN)/python benchmarks/speed/batched_scan.py
	$(BIN)/python benchmarks/speed/ray_scan.py
	$(BIN)/python benchmarks/speed/flows.py
	$(BIN)/python benchmarks/physics/sample_check.py half
	$(BIN)/python benchmarks/resonant/densities.py
	$(BIN)/python benchmarks/resonant/run.py
	$(BIN)/python benchmarks/resonant/bias.py
	$(BIN)/python benchmarks/resonant/features.py paws --parts 'paws_qq_*'
	$(BIN)/python benchmarks/resonant/priors.py
	$(BIN)/python benchmarks/resonant/blackboxes.py
	$(BIN)/python benchmarks/resonant/collect.py

bench-trigger: $(VENV)/.dev ## the figures of the trigger, from training to firmware -> benchmarks/results/trigger*.json (an hour and a half; makes its events first; needs verilator, yosys)
	$(BIN)/python benchmarks/trigger/run.py
	$(BIN)/python benchmarks/trigger/front.py
	$(BIN)/python benchmarks/trigger/pileup.py

bench-outliers: $(VENV)/.dev ## outlier scores and representations -> benchmarks/results/outliers.json (an hour and a half of one core; makes its events first)
	ELSEWHERE_SET=small $(BIN)/python benchmarks/outliers/dijets.py
	$(BIN)/python benchmarks/outliers/adc.py
	$(BIN)/python benchmarks/outliers/jets.py
	$(BIN)/python benchmarks/outliers/dark.py
	$(BIN)/python benchmarks/outliers/images.py
	$(BIN)/python benchmarks/outliers/classes.py
	$(BIN)/python benchmarks/outliers/resim.py
	$(BIN)/python benchmarks/outliers/throughput.py

bench-gpu: $(VENV)/.dev ## where torch sees a GPU: the scan of networks and the flow of CATHODE on it -> benchmarks/results/gpu.json
	$(BIN)/python benchmarks/speed/gpu.py

benchmarks: bench-demo faults bench-streaming bench-resonant bench-trigger bench-outliers ## every benchmark: the above, how the demo varies with its seed, and the firmware emulator's speed
	$(BIN)/python benchmarks/spread.py
	$(BIN)/python benchmarks/speed/firmware.py

samples: $(VENV)/.dev ## make the shipped samples again from their cards (about an hour on 2 cores)
	$(BIN)/elsewhere simulate --shipped

clean: ## remove .venv, runs and build output
	rm -rf $(VENV) runs build dist *.egg-info
