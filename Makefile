# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup lock demo test test-slow lint types docs studio studio-check check ui schedule clean
.PHONY: pull restore retrain push register pull-request workspace-check promotion-check candidates promote comment summary

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The two packages of ONNX Runtime overwrite each other's files, so the environment has one: for NVIDIA where there is such a GPU.
RUNTIME ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
# CUDA's packages take gigabytes, so uv looks which build of torch this machine needs; a folder of wheels says so itself.
ifndef PIP_FIND_LINKS
export UV_TORCH_BACKEND ?= auto
endif

setup: $(VENV)/.ready ## make .venv with the pinned versions (again only when pyproject or constraints changed)

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "==> Installing Lekhani and its pinned dependencies into $(VENV) (some minutes the first time)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv pip uninstall --quiet --python $(VENV)/bin/python onnxruntime onnxruntime-gpu
	@$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python $${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS} -c constraints.txt -e '.[$(RUNTIME),dev]'
	@touch $@

lock: setup ## write again the locks with hashes in deploy/, from constraints.txt
	@for lock in "light cpu" "gpu gpu,all,s3,server"; do set -- $$lock; \
		uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --constraint constraints.txt \
			--custom-compile-command "make lock" --extra "$${2//,/ --extra }" --output-file deploy/requirements-$$1.txt pyproject.toml; done

demo: export LEKHANI_PIPELINE := demo-$(shell date -u +%Y%m%dT%H%M%SZ)
demo: setup ## the whole pipeline on the embedded data: judge, train, export, score, compare, register, promote, write
	@echo "==> Running the pipeline (profile as in params.yaml; stages that did not change are skipped)"
	@pipelines/repro.sh
	@echo "==> Registering the best variant of each dataset in MLflow"
	@lekhani register
	@echo "==> Letting the gate decide whether they become champions"
	@lekhani promote || [ $$? -eq 3 ]
	@echo "==> Writing some glyphs with the champion"
	@lekhani generate --dataset devanagari --label क=8 --label ०=8 --seed 7 --out generated/demo --overwrite
	@echo
	@cat reports/leaderboard.md
	@echo "Look at   reports/leaderboard.png   reports/devanagari/flow_matching/grid.png   generated/demo/"
	@echo "Compare   make ui   (MLflow at http://127.0.0.1:5000)"
	@echo "Write     source $(VENV)/bin/activate && lekhani generate --dataset devanagari --label क=8 --out my_glyphs"
	@echo "dvc.lock now records this run: commit it, or 'git checkout dvc.lock' to go back to the one in the repository."

# How many processes share the tests; each takes whole files, in the order of tests/conftest.py.
WORKERS ?= 2
PYTEST = pytest -q -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test: setup ## all tests but the slow ones
	@echo "==> Running the tests"
	@$(PYTEST) -m "not slow"

test-slow: setup ## the slow tests
	@$(PYTEST) -m slow

lint: setup ## ruff and the import contracts
	@ruff check .
	@ruff format --check .
	@lint-imports --no-logo
	@! git grep -nE '^(<{7}|>{7}) ' # what a merge left behind

types: setup ## mypy, strict
	@mypy

docs: setup ## the documentation as a site in site/, which can be read offline
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

# What the page is built with, as package-lock.json has it; no package runs a script of its own.
studio/node_modules/.package-lock.json: studio/package.json studio/package-lock.json
	@command -v npm >/dev/null || { echo "make: building the studio needs Node.js with npm; install it from https://nodejs.org" >&2; exit 2; }
	@npm ci --prefix studio --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

PAGE_FILES := src/lekhani/serve/page_files
# The package for browsers brings no licence of its own.
LICENCES = import onnxruntime, pathlib, shutil; folder = pathlib.Path(onnxruntime.__file__).parent; \
	[shutil.copy(folder / name, "$(PAGE_FILES)/ort") for name in ("LICENSE", "ThirdPartyNotices.txt")]
RUNTIME_OF_PAGE := ort.wasm.bundle.min.mjs ort-wasm-simd-threaded.wasm

studio: studio/node_modules/.package-lock.json ## build the page, and bring ONNX Runtime for browsers for `lekhani studio build` (needs npm)
	@npm run --silent --prefix studio check
	@npm run --silent --prefix studio build
	@mkdir -p $(PAGE_FILES)/ort
	@cp $(RUNTIME_OF_PAGE:%=studio/node_modules/onnxruntime-web/dist/%) $(PAGE_FILES)/ort/
	@python -c '$(LICENCES)' 2>/dev/null || echo "==> For a wheel that you give to others, run \`make setup\` first: ONNX Runtime's licence comes from its Python package"

studio-check: studio/node_modules/.package-lock.json ## the page in the package is what its source gives (needs npm)
	@npm run --silent --prefix studio check
	@rm -rf build/studio && npm run --silent --prefix studio build -- $(CURDIR)/build/studio
	@diff --recursive --brief --exclude ort build/studio $(PAGE_FILES) || \
		{ echo "make: the page is not built from its source; run \`make studio\` and commit it" >&2; exit 1; }

check: lint types test docs ## everything that CI checks

# The page of an experiment opens on what MLflow has for language models; the address that is printed, on the comparison of trainings.
PAGE = from lekhani import params; from lekhani.tracking import store, view; print(view.page(store.connect(), params.load().tracking.experiment))

ui: setup ## the MLflow UI on http://127.0.0.1:5000
	@echo "==> The trainings side by side: http://127.0.0.1:$${PORT:-5000}$$(python -W ignore -c '$(PAGE)')"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --host 127.0.0.1 --port $${PORT:-5000} --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlruns/mlflow.db}

# The server forgets who holds a concurrency limit when it ends, unless that is kept in files. SQLite has one writer at a time, so the
# server writes the states of tasks once a second rather than one by one.
schedule: setup ## Prefect's server and a worker on this machine, with the deployments of prefect.yaml; Ctrl-C ends them
	@port=$${PORT:-4200}; export PREFECT_API_URL=http://127.0.0.1:$$port/api; \
	export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem; \
	export PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE=100 PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL=1; \
	if (exec 3<>/dev/tcp/127.0.0.1/$$port) 2>/dev/null; then \
		echo "Port $$port is taken; end the server that listens there, or choose another one: make schedule PORT=4201" >&2; exit 2; fi; \
	prefect server start --host 127.0.0.1 --port $$port & server=$$!; \
	trap 'kill $$server 2>/dev/null; wait $$server' EXIT; \
	until (exec 3<>/dev/tcp/127.0.0.1/$$port) 2>/dev/null; do kill -0 $$server; sleep 1; done; \
	prefect work-pool create lekhani --type process --overwrite; \
	for gpu in $$(nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p'); do prefect concurrency-limit create gpu-$$gpu 1; done; \
	prefect automation inspect "runs whose process is gone" >/dev/null 2>&1 || prefect automation create --from-file pipelines/crashed.yaml; \
	prefect --no-prompt deploy --all; \
	echo "==> The UI is at http://127.0.0.1:$$port; to start a run yourself: PREFECT_API_URL=$$PREFECT_API_URL prefect deployment run retrain/nightly-quick"; \
	prefect worker start --pool lekhani --work-queue default

clean: ## remove what the pipeline made (not the environment, not MLflow's runs)
	@rm -rf data models reports generated checkpoints

# What the workflows in .github run. They read what was asked for from the environment, so that no input becomes part of a command:
# DATASET (all when empty), MODEL_VERSION (the challenger when empty), FORCE_REASON (go around the gate, for this reason), PULL_REQUEST.
ASKED = $${DATASET:+--dataset "$$DATASET"} $${MODEL_VERSION:+--version "$$MODEL_VERSION"}
SUMMARY = tee -a "$${GITHUB_STEP_SUMMARY:-/dev/null}"
DECISION = build/promotion.md

# Where BASE names a commit, its leaderboard comes as well, for `workspace-check` to compare with.
pull: setup ## the data and models that dvc.lock names, from the DVC remote
	@dvc pull
	@rm -f build/base.csv; mkdir -p build; [ -z "$${BASE:-}" ] || dvc get --quiet --rev "$$BASE" --out build/base.csv . reports/leaderboard.csv || true

restore: setup ## what the DVC remote has of them, so that only the rest runs again
	@dvc pull --allow-missing

push: setup ## data and models to the DVC remote
	@dvc push --run-cache

retrain: setup ## every stage that is out of date, as a Prefect flow
	@python pipelines/retrain.py --no-register

register: setup ## the best variant of each dataset in MLflow, as challenger
	@lekhani register $${DATASET:+--dataset "$$DATASET"}

pull-request: ## a pull request with the dvc.lock of a retraining, if that changed it
	@.github/pull_request.sh

workspace-check: setup ## would the best model of this dvc.lock become champion? For a pull request, which `comment` tells
	@lekhani promote --check --workspace --report build $${BASE:+--base build/base.csv} $${DATASET:+--dataset "$$DATASET"} | $(SUMMARY)

promotion-check: setup ## would the challenger become champion? A refusal fails, unless FORCE_REASON is set
	@lekhani promote --check --report build $(ASKED) | $(SUMMARY) || { [ $$? = 3 ] && [ -n "$${FORCE_REASON:-}" ]; }

candidates: ## the datasets that one of these checks leaves to `promote`, as JSON
	@python -c 'import json, os, sys; wanted = ("promote", "refuse") if os.environ.get("FORCE_REASON") else ("promote",); \
		print("datasets=" + json.dumps([name for name, verdict in json.load(sys.stdin).items() if verdict in wanted]))' \
		< build/promotion.json | tee -a "$${GITHUB_OUTPUT:-/dev/null}"

promote: setup ## decide again, and make the challenger champion
	@lekhani promote $(ASKED) $${FORCE_REASON:+--force --reason "$$FORCE_REASON"} | $(SUMMARY)

comment: ## what workspace-check decided, as the comment on PULL_REQUEST, which is written anew each time
	@mkdir -p build
	@[ -s $(DECISION) ] || echo "The gate came to no decision; the log of the run says why." > $(DECISION)
	@.github/comment.sh "$$PULL_REQUEST" $(DECISION)

summary: ## the leaderboard on the page of the workflow's run
	@$(SUMMARY) < reports/leaderboard.md
