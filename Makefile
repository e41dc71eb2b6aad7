# Python and make are all a fresh machine needs; see README.md.
PYTHON ?= python3
# A release of PyTorch that has CPU wheels in reach; any from 2.4 on will do.
TORCH ?= torch==2.13.0
# The release of torchvision that goes with it. The registries have it with operators for CUDA,
# which no model here uses; torch is not exchanged for one with CUDA as long as both are named.
VISION ?= torchvision==0.28.0
EXTRAS ?= cpu,dev,image
BIN := .venv/bin
STAMP := .venv/.installed

# One thread a process: workers are one a core, and the nets are small.
export OMP_NUM_THREADS ?= 1

.PHONY: setup chromium demo test test-gpu lint docs release-check bench-extract bench-load bench-step bench-store bench-science clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing PyTorch (about 200 MB), then everything else; this takes some minutes.'
	$(BIN)/python -m pip install --quiet '$(TORCH)' '$(VISION)'
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: setup
	$(BIN)/pipeline demo

# The tests open the report in a real browser.
CHROMIUM = for name in chromium chromium-browser google-chrome; do \
	command -v $$name >/dev/null && exit 0; done; exit 1

chromium:
	@($(CHROMIUM)) || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	--no-install-recommends chromium; } || \
	{ echo 'The tests need Chromium: sudo apt-get install chromium, or your system'"'"'s way.' >&2; exit 1; }

test: setup chromium
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not gpu" --cov --cov-report=term --cov-fail-under=85

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@if test -x $(BIN)/hadolint; then $(BIN)/hadolint docker/Dockerfile docker/Dockerfile.gpu; \
	else echo 'The Dockerfiles were not linted: there is no hadolint for this system.' >&2; fi

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/docs/index.html

# Which Pythons a release is tried with; those that are there if none is named.
PYTHONS ?= $(shell for name in python3.11 python3.12 python3.13; do \
	$$name -c "" 2>/dev/null && echo $$name; done; true)

release-check: setup
	BUILDER='$(BIN)/python' TORCH='$(TORCH)' .ci/release-check $(PYTHONS)

# A folder of clips to measure on; the demo's if none is given.
CLIPS ?=
RESULTS = benchmarks/results
TODAY = $(shell date +%F)
RESULT = $(RESULTS)/$@-$(TODAY).json

bench-extract: setup
	$(BIN)/python benchmarks/extract.py $(CLIPS) --copies 20 --out $(RESULT)

bench-load: setup
	$(BIN)/python benchmarks/load.py --out $(RESULT)

bench-step: setup
	$(BIN)/python -m pip install --quiet pytorch-tcn
	$(BIN)/python benchmarks/step.py --out $(RESULT)

bench-store: setup
	$(BIN)/python benchmarks/storage.py --out $(RESULT)

# SCUT=FOLDER with images/ and labels.csv measures stills too; CLIPS as above.
SCUT ?=
# Every model is known to planted.py; these two have what must hold, and take an hour.
PLANTED = 2stcn meanpool
PICTURES = vgg-m alexnet resnet18 resnext50
SCIENCE = $(BIN)/python benchmarks/$(1).py $(2) --out $(RESULTS)/$(1)-$(TODAY).json

bench-science: setup
	$(call SCIENCE,coverage)
	$(call SCIENCE,planted,--models $(PLANTED))
	$(call SCIENCE,demo)
	$(call SCIENCE,mdr,$(CLIPS))
	$(call SCIENCE,au,$(CLIPS))
	test -z '$(SCUT)' || $(call SCIENCE,scut,'$(SCUT)')
	test -z '$(SCUT)' || $(call SCIENCE,deep,'$(SCUT)')
	test -z '$(SCUT)' || $(call SCIENCE,hmtnet,'$(SCUT)' --scratch 16 --networks $(PICTURES))

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .coverage*
