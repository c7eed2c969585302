# The two commands: `make demo` and `make test`; `make slow` is what .ci/run adds. They make .venv first; nothing is installed outside it.
PYTHON ?= python3
BIN := .venv/bin

# Bytecode is kept: torch compiled anew costs every process seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow check fix docs constraints
demo: .venv/installed
	$(BIN)/alexnet demo

test: check
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile \
	  --no-loadscope-reorder --max-worker-restart 0

slow: .venv/installed
	$(BIN)/python -m pytest -m slow --numprocesses auto --dist worksteal --max-worker-restart 0
	@echo "once more what the compiled layers stand for, with the compiler hidden"
	CXX=hidden $(BIN)/python -m pytest --numprocesses auto tests/test_model.py tests/test_augment.py

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documents as a site in dist/site; a link that leads nowhere ends it.
docs: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv .venv || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt --editable . --group dev
	@touch $@

# The newest versions of everything, written as constraints that name no download address.
constraints: .venv/installed
	@{ echo "# The versions that make installs; refreshed by: make constraints"; \
	  printf 'uv\nhatchling\n' | $(BIN)/uv pip compile pyproject.toml - --group dev --group docs --universal --python-version 3.11 \
	  --upgrade --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet; } > constraints.txt
