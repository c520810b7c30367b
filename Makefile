# Two commands do everything on a machine with only Python >= 3.11 and make:
#   make train    set up, then train on the built-in demo set (ARGS="--data.csv my.csv ..." for your own)
#   make test     set up, then run every test this machine can run
# For those who change the code:
#   make lint     ruff, mypy and clang-format, each set up as needed
#   make docs     the API reference of the docstrings as HTML in build/docs
#   make examples every file of examples/, with Lightning and accelerate
PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/.dependencies
STAMP := $(VENV)/.installed
# What a user names, and the rooms behind it. The package itself names ops and surgery.
MODULES := $(filter-out ops surgery,$(sort $(basename $(notdir $(wildcard gaal_fast/[a-z]*.py))) \
  $(notdir $(patsubst %/__init__.py,%,$(wildcard gaal_fast/[a-z]*/__init__.py)))))
NATIVE_SOURCES := $(shell find csrc -type f 2>/dev/null)

.PHONY: train test lint docs examples install doctor bench clean

train: $(STAMP)
	$(BIN)/python -m gaal_fast.train $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.extra-lint
	PATH="$(abspath $(BIN)):$$PATH" PYTHON="$(abspath $(BIN))/python" .ci/lint

docs: $(STAMP) $(VENV)/.extra-docs
	$(BIN)/python -m pdoc --docformat google --output-directory build/docs \
	  gaal_fast $(addprefix gaal_fast.,$(MODULES))
	@echo "build/docs/index.html"

examples: $(STAMP) $(VENV)/.extra-examples
	$(BIN)/python -m pytest tests/test_examples.py $(ARGS)

doctor: $(STAMP)
	$(BIN)/python -m gaal_fast.doctor $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench.ops $(ARGS)

install: $(STAMP)

# What the package needs, without the package: reading the code builds nothing.
$(DEPENDENCIES): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: gaal_fast needs Python 3.11 or newer, PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what gaal_fast needs into $(VENV) (torch with CUDA is about 6 GB; minutes on a new machine)"
	@$(BIN)/python -c 'import sys, tomllib; print(*tomllib.load(sys.stdin.buffer)["project"]["dependencies"], sep="\n")' \
	  < pyproject.toml > $(VENV)/dependencies.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/dependencies.txt
	@touch $@

$(STAMP): $(DEPENDENCIES) setup.py $(NATIVE_SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

# An extra of pyproject.toml on top of the dependencies.
$(VENV)/.extra-%: $(DEPENDENCIES)
	@$(BIN)/python -c 'import sys, tomllib; print(*tomllib.load(sys.stdin.buffer)["project"]["optional-dependencies"]["$*"], sep="\n")' \
	  < pyproject.toml > $(VENV)/$*.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/$*.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info gaal_fast/*.so
