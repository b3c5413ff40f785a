# Everything below needs only Python >= 3.11 and make. See CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTO ?= examples/astronaut.jpg
QUERY ?= the person
# Test processes, each with one thread: two suit a laptop and a small CI machine alike.
TEST_PROCESSES ?= 2
UV := UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup weights run demo test lint format clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

setup: $(VENV)/.ready  ## make .venv with the package and its development tools

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(UV) -e '.[dev]'
	touch $@

weights: $(VENV)/.ready  ## fetch the pre-trained weights into the cache (about 210 MB, once)
	$(BIN)/mllmseg weights fetch

run: weights  ## answer one question about one photo: make run PHOTO=… QUERY="…"
	mkdir -p out
	$(BIN)/mllmseg segment "$(PHOTO)" "$(QUERY)" --overlay out/overlay.png

demo: $(VENV)/.ready  ## start the web demo; missing weights are fetched while its page is open already
	$(BIN)/python demo/app.py

test: weights  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal

lint: $(VENV)/.ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what runs leave behind
	rm -rf $(VENV) build dist out .hypothesis .mypy_cache .pytest_cache .ruff_cache
