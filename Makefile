# `make study` and `make test` set up .venv on first use; nothing else needs to be installed but Python 3.11+.
PYTHON ?= python3
STUDY ?= docstrings
# A PyTorch build of your own choice, e.g. TORCH="torch==2.13.0 --index-url …" (see docs/development.md).
TORCH ?=
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: setup study test lab figures full-size bench gpu colab soak screens lint clean
.DEFAULT_GOAL := study

setup: $(INSTALLED)

study: $(INSTALLED)
	$(BIN)/distill run $(STUDY)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# On this machine alone, with a token; no news and updates are fetched. LAB holds further options: --no-browser, --port=N, --allow-root.
lab: $(INSTALLED)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks --LabApp.news_url=None \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(LAB)

# Publish the last run: results.json to figures/, its page to docs/results/; of the default study the README's table and docs/notebooks/, too.
figures: $(INSTALLED)
	$(BIN)/python -m distill_utils.report.publish $(STUDY)

# What full size costs here: BART-large's shape with random weights (see docs/full_size.md). PUBLISH=1 writes docs/results/full_size.md.
full-size: $(INSTALLED)
	$(BIN)/python -m benchmarks.full_size --tokenizer "$(TOKENIZER)" --corpus "$(CORPUS)" $(if $(PUBLISH),--publish)

# The engine against a textbook trainer; with TOKENIZER and CORPUS at bart-large's size, too. SECTIONS picks some, STUDY a finished study.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run $(SECTIONS) --study "$(STUDY)" $(if $(TOKENIZER),--tokenizer "$(TOKENIZER)") $(if $(CORPUS),--corpus "$(CORPUS)")
	$(BIN)/python -m benchmarks.report

# What only a GPU can tell: the tests marked `gpu`, then BART-large's training and serving, then, with TEXT, the compact
# teacher's training. PARTS=check needs no files.
gpu: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu $(PARTS) --tokenizer "$(TOKENIZER)" --corpus "$(CORPUS)" --text "$(TEXT)"

# For the owner of a public copy: the repository's address for the notebooks' setup cell, and the README's badges.
colab: $(INSTALLED)
	$(BIN)/python -m benchmarks.colab "$(REPOSITORY)"

# The test that kills a study again and again, more often than `make test` does.
KILLS ?= 1000
soak: $(INSTALLED)
	DISTILL_KILLS=$(KILLS) $(BIN)/python -m pytest tests/end_to_end/test_kills.py

# How JupyterLab and the report of a finished study look, for the README; Chromium has to be installed.
screens: $(INSTALLED)
	$(BIN)/python -m benchmarks.screens $(STUDY)

lint: $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

LOCKS := requirements.lock requirements-ctranslate2.lock requirements-test.lock
$(INSTALLED): $(LOCKS) pyproject.toml
	$(PYTHON) -c 'import distill_utils'  # refuses a Python that is too old
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH),$(BIN)/python -m pip install -q $(TORCH))
	$(BIN)/python -m pip install -q $(LOCKS:%=-r %)
	$(BIN)/python -m pip install -q --no-deps -e .
	touch $@

clean:
	rm -rf .venv runs figures/smoke
