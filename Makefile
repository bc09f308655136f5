# The single door: `make help` lists what it can do. Each target sets up what it needs, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := $(VENV)/peers
PIP := python -m pip install --quiet --no-compile --disable-pip-version-check
DEMO := demo
PHOTO_LABELS := cat,cup of coffee,motorcycle,rocket,horse,astronaut,moon,brick wall,coins
EMOJI_LABELS := animal,food,flag,vehicle,face,clothing,sport,musical instrument,plant

# pip compiles nothing here, so what is imported is compiled by the first who does, and kept: else
# each process would do so again, for ten seconds and more.
unexport PYTHONDONTWRITEBYTECODE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install format check test test-all peers bench bench-quick demo

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

install: $(VENV)/.dev  ## Make .venv with everything that the tests need

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/.dev  ## Lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py

test: check  ## Check, and run the tests (minutes)
	$(BIN)/pytest -q -n 2

test-all: check  ## Also run the tests that take long
	$(BIN)/pytest -q -n 2 -m 'not gpu'

# Peers that clash with clipkit: clip-retrieval has its own versions of what it needs, and what it
# does not name, such as torch, from .venv. Whoever cannot be had is missing from the table.
$(PEERS)/clip-retrieval/.made: Makefile $(VENV)/.dev
	$(PYTHON) -m venv $(@D)
	echo 'import sys; sys.path += ["'$$(realpath $(VENV)/lib/python*/site-packages)'"]' \
	  > $$(echo $(@D)/lib/python*/site-packages)/clipkit.pth
	$(@D)/bin/$(PIP) --no-warn-conflicts clip-retrieval==2.45.0 'setuptools<81'
	@touch $@

$(PEERS)/clip_benchmark/.made: Makefile $(VENV)/.dev
	$(BIN)/$(PIP) --no-deps --upgrade --target $(@D) clip_benchmark==1.6.2
	@touch $@

peers: $(VENV)/.dev
	-$(MAKE) --no-print-directory -k $(PEERS)/clip-retrieval/.made $(PEERS)/clip_benchmark/.made

bench: peers  ## Measure clipkit beside its peers (half an hour): benchmarks.md
	$(BIN)/python -m tests.benchmarks

bench-quick: peers  ## The same on small sizes (minutes)
	$(BIN)/python -m tests.benchmarks --quick

demo: $(VENV)/.demo  ## Fine-tune on emoji, classify, export and search, from nothing
	@echo "== 1. fine-tune the starter on 3,144 emoji and their names; 800 others are held out"
	$(BIN)/clipkit train openmoji out=$(DEMO)/run --restart
	@echo "== 2. classify with labels made up on the spot: photographs with the starter, emoji with the new model"
	$(BIN)/clipkit classify skimage_photos --model starter --labels "$(PHOTO_LABELS)" --format table
	$(BIN)/clipkit classify openmoji@test --model $(DEMO)/run/model --labels "$(EMOJI_LABELS)" --sample 10 --format table
	@echo "== 3. export the embeddings of the whole set, and search it"
	$(BIN)/clipkit embed openmoji --model $(DEMO)/run/model --out $(DEMO)/store
	$(BIN)/clipkit search $(DEMO)/store "a red flag" "a happy cat" "someone riding a bicycle" -k 3 --format table
	@echo "== the fine-tuned model: $(DEMO)/run/model, its scores: $(DEMO)/run/metrics.json, the embeddings: $(DEMO)/store"
	@echo "== next, with pictures of your own:"
	@echo "     . $(BIN)/activate"
	@echo "     clipkit classify PHOTOS --labels cat,dog"
	@echo "     clipkit recipes show openmoji > mine.yaml    # put your data in, then: clipkit train mine.yaml"
