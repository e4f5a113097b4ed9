# make demo: train, search, export and verify a small model on real images; results in runs/demo/
# make docs: write the documentation as a site to build/site/
# make faults: run the fault suite (tests/faults/README.md) and print the table; takes over half an hour
# make test: run the fast tests; make slow: run the slow tests; make lint: check style and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WITH_DOCS := $(VENV)/.installed-docs

.PHONY: install demo docs test slow faults lint format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
		|| { echo "Python 3.11 to 3.14 is required; select one with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/python -m alphanet_zoo.cli.demo --output runs/demo

$(WITH_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

docs: $(WITH_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: install
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --quiet -n auto --maxprocesses 4 --dist loadfile \
		-o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

slow: $(WITH_DOCS)
	$(BIN)/python -m pytest --quiet -m slow

faults: install
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python tests/faults/table.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
