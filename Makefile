# Every target below needs nothing but itself on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One release for everybody; a CPU build where the package index has one, else with CUDA libraries (gigabytes).
TORCH := torch==2.13.0
STAMP := $(VENV)/.installed
WEB := runtimes/web
WEB_STAMP := $(WEB)/node_modules/.installed

.PHONY: setup demo test quick check conformance bench bench-peers clean

setup: $(STAMP)

$(STAMP): pyproject.toml runtimes/python/pyproject.toml integrations/optimum/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e runtimes/python -e integrations/optimum -e '.[test]'
	touch $@

# The packages of the runtime for the web; without Node.js it is left out, which is said.
$(WEB_STAMP): $(WEB)/package-lock.json
	@if command -v npm >/dev/null; then \
	  cd $(WEB) && npm ci --loglevel error --no-audit --no-fund && touch node_modules/.installed; \
	else echo "note: Node.js is not installed: $(WEB) is neither checked nor tested"; fi

demo: $(STAMP)
	$(BIN)/python -m tests.demo

# In two processes. Whole files, so that what a file's tests share is made once. A process that dies ends the run: with
# whole files pytest-xdist runs the file of the test that killed it again and again, and may then wait forever.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

test: $(STAMP) $(WEB_STAMP)
	$(PYTEST)

# The same without the tests marked slow.
quick: $(STAMP) $(WEB_STAMP)
	$(PYTEST) -m "not slow"

check: $(STAMP) $(WEB_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -e $(WEB_STAMP) ]; then cd $(WEB) && npm run --silent check; fi

# Writes tests/conformance/*.json anew, from the Python runtime.
conformance: $(STAMP)
	$(BIN)/python -m tests.conformance.make

bench: $(STAMP)
	$(BIN)/python -m tests.bench

# Beside other runtimes, each in an environment of its own (docs/peers.md); PEERS_ARGS="--rounds 1 --peer llama.cpp"
bench-peers: $(STAMP)
	$(BIN)/python -m tests.bench.peers $(PEERS_ARGS)

clean:
	rm -rf $(VENV) build dist demo_out $(WEB)/node_modules $(WEB)/build $(WEB)/dist $(WEB)/demo/dist
