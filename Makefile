# Two commands do everything on a machine with only Python >= 3.11 and make:
#   make train    set up, then train on the built-in demo set (ARGS="--data.csv my.csv ..." for your own)
#   make test     set up, then run every test this machine can run
PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE_SOURCES := $(shell find csrc -type f 2>/dev/null)

.PHONY: train test install doctor bench clean

train: $(STAMP)
	$(BIN)/python -m gaal_fast.train $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

doctor: $(STAMP)
	$(BIN)/python -m gaal_fast.doctor $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench.ops $(ARGS)

install: $(STAMP)

$(STAMP): pyproject.toml setup.py $(NATIVE_SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: gaal_fast needs Python 3.11 or newer, PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing gaal_fast and what it needs into $(VENV) (torch with CUDA is about 6 GB; minutes on a new machine)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info gaal_fast/*.so
