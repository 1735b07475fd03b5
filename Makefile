# Trainshed from a checkout: `make`, `make demo`, `make test`. Everything goes into .venv; wheels only, pinned by hash.

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PYPROJECTS := pyproject.toml client/pyproject.toml

# What a user's own pip settings may not change: where to install to, and what. Index, proxy and certificates stay theirs.
PIP := env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_NO_BINARY -u PIP_ONLY_BINARY \
	-u PIP_CONSTRAINT -u PIP_REQUIREMENT -u PIP_EDITABLE -u PIP_NO_DEPS -u PIP_DRY_RUN -u PIP_REQUIRE_HASHES \
	PIP_USER=0 $(PY) -P -m pip --disable-pip-version-check --no-input
WHEELS := $(PIP) install -qq --require-hashes --only-binary :all:

# An environment that does not run (its Python is gone) or was made in another folder (a moved checkout) is made anew.
$(shell test "$$(cat $(VENV)/.checkout 2>/dev/null)" = "$(CURDIR)" && $(PY) -P -c '' 2>/dev/null || rm -f $(VENV)/.stamp-*)

.PHONY: install demo test test-unit test-client test-frameworks test-vm faults cluster lint format sync-face bench schema lock clean
.DEFAULT_GOAL := install

install: $(VENV)/.stamp-install
	@echo "Trainshed is installed: $(VENV)/bin/trainshed --help"

# make demo            a short tour with real training runs, on a stack of its own in a temporary folder
# make demo STATE=DIR  the same, and the folder is kept
demo: $(VENV)/.stamp-install $(VENV)/.stamp-demo
	@$(PY) -P examples/demo.py $(if $(STATE),"$(STATE)")

# make test                            everything, a file's tests in one of two processes
# make test ARGS="tests/unit -k name"
test: $(VENV)/.stamp-install $(VENV)/.stamp-demo $(VENV)/.stamp-dev
	@$(PY) -m pytest $(or $(ARGS),-n 2 --dist loadfile)

# make test-unit                       the pure tests alone: under a minute, no server and no process of the stack
test-unit: $(VENV)/.stamp-install $(VENV)/.stamp-demo $(VENV)/.stamp-dev
	@$(PY) -m pytest -q -n 2 --dist loadfile tests/unit $(ARGS)

# make test-frameworks                                 the callbacks for training frameworks with the real ones, in an
# make test-frameworks TORCH="torch==2.13.0+cpu"       environment of their own; 1.2 GB with torch for CPUs alone, if your index has it
test-frameworks: $(VENV)/.stamp-install $(VENV)/.stamp-demo $(VENV)/.stamp-dev $(VENV)/frameworks/.stamp
	@$(PY) -m pytest tests/integration/frameworks $(ARGS)

# make test-vm                         cgroup v2's memory controller, in a guest of QEMU (without KVM: ACCEL=tcg)
test-vm: $(VENV)/.stamp-install $(VENV)/.stamp-dev
	@ACCEL=$(or $(ACCEL),kvm) tests/vm/run

# make faults                                                  a minute of faults, 1,000 races, the model's search
# make faults DURATION=10m SEED=7, make faults ARGS="--only shim"   docs/faults.md
faults: $(VENV)/.stamp-install $(VENV)/.stamp-demo $(VENV)/.stamp-dev
	@$(PY) -m tests.faults \
		$(if $(SEED),--seed $(SEED)) --duration $(or $(DURATION),60s) $(ARGS)
ifeq ($(ARGS),)
	@$(PY) -m tests.faults.races 1000
	@$(PY) -m tests.model --states $(or $(STATES),20000)
endif

# make cluster KILLS=10                three servers under load, the log's leader killed again and again: docs/three-servers.md
cluster: $(VENV)/.stamp-install $(VENV)/.stamp-demo $(VENV)/.stamp-dev
	@$(PY) -m tests.integration.three_servers $(or $(KILLS),10)

# make test-client                    the client on Python 3.9 and 3.13, in chroots of Debian made by debootstrap; as root
test-client: $(VENV)/.stamp-install $(VENV)/.stamp-dev
	@$(PY) -m tests.client_pythons

# The blocking face of the client, written anew from the asynchronous one.
sync-face: $(VENV)/.stamp-install $(VENV)/.stamp-dev
	@$(PY) -m tests.support.sync_face

lint: $(VENV)/.stamp-install $(VENV)/.stamp-demo $(VENV)/.stamp-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.stamp-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The contract's files anew: schemas and samples of the types, and TypeScript's of the schemas (needs Node).
schema: $(VENV)/.stamp-install $(VENV)/.stamp-dev
	@$(VENV)/bin/trainshed schema --out docs/schema
	@$(PY) -m tests.support.samples
	@cd tests/node && npm ci --silent --ignore-scripts --no-audit --no-fund --prefer-offline \
		&& node types.mjs <../../docs/schema/trainshed.schema.json >types.tmp && mv types.tmp ../../docs/schema/trainshed.d.ts

# make bench ARGS=...
bench: $(VENV)/.stamp-install $(VENV)/.stamp-demo
	@$(PY) -m bench $(ARGS)

# Pins anew what requirements/*.in ask for (all of it with UPGRADE=1); needs an index, and pip-tools in a throwaway venv.
lock: $(VENV)/.stamp-venv
	@rm -rf $(VENV)/lock && $(PY) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install -qq 'pip-tools>=7.6,<8'
	@cd requirements && for set in run build demo dev client; do \
		CUSTOM_COMPILE_COMMAND='make lock' ../$(VENV)/lock/bin/pip-compile -q $(if $(UPGRADE),--upgrade) --strip-extras \
			--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
			--output-file $$set.txt $$set.in || exit 1; \
	done; rm -rf ../$(VENV)/lock

# Runs' state is not here but in the state folder, which this leaves alone.
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build client/dist client/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-install: $(VENV)/.stamp-run $(PYPROJECTS)
	@$(PIP) install -qq --no-deps --no-build-isolation --no-index -e ./client -e .
	@touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-venv requirements/run.txt requirements/build.txt
	@echo "Installing what Trainshed needs into $(VENV) (about 30 MB) ..."
	@$(WHEELS) -r requirements/run.txt -r requirements/build.txt
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-run requirements/demo.txt
	@echo "Installing gymnasium, NumPy and rich for the demo (about 25 MB) ..."
	@$(WHEELS) -r requirements/demo.txt
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-run requirements/dev.txt
	@echo "Installing what the tests need (about 115 MB) ..."
	@$(WHEELS) -r requirements/dev.txt
	@touch $@

$(VENV)/frameworks/.stamp: $(VENV)/.stamp-venv requirements/frameworks.in
	@echo "Installing Stable-Baselines3, Lightning, Hugging Face Transformers and torch into $(VENV)/frameworks ..."
	@$(PY) -m venv $(VENV)/frameworks
	@$(subst $(PY),$(VENV)/frameworks/bin/python,$(PIP)) install -qq --only-binary :all: -r requirements/frameworks.in $(or $(TORCH),torch)
	@touch $@

# PYTHON=/path/to/python3.12 makes the choice; else the first of these that is 3.11 or newer and can make environments.
$(VENV)/.stamp-venv:
	@found=; old=; bare=; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14); do \
		version=$$("$$python" -E -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
			|| { $(if $(PYTHON),old="$$python does not run";) continue; }; \
		if ! "$$python" -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then old="$${old:+$$old, }$$python is $$version"; \
		elif ! "$$python" -E -c 'import venv, ensurepip' 2>/dev/null; then bare="$$version"; \
		else found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
		echo "Python $$bare is here without venv: install it (Debian, Ubuntu: apt install python$$bare-venv), then run make again." >&2; exit 1; \
	elif [ -z "$$found" ]; then \
		echo "Trainshed needs Python 3.11 or newer ($${old:-there is no python3}): install it (Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3.12) or name it with make PYTHON=/path/to/python3.12." >&2; exit 1; \
	fi; \
	if [ -e $(VENV) ] && { ! $(PY) -c '' 2>/dev/null || { [ -e $(VENV)/.checkout ] && [ "$$(cat $(VENV)/.checkout)" != "$(CURDIR)" ]; }; }; then \
		rm -rf $(VENV); \
	fi; \
	[ -x $(PY) ] || "$$found" -E -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	printf '%s\n' "$(CURDIR)" > $(VENV)/.checkout; \
	touch $@
