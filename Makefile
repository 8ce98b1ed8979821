# Every target does its own set-up first; `make install` does only that.
#   make demo               the whole way on the embedded data, into runs/demo
#   make test               lint and tests; TESTS=tests/layers for some of them and no lint,
#                           WORKERS=0 for one process with its output
#   make browser            the page of export-web in CHROMIUM; npm brings the runtime
#   make embed              build/panoptic, the C program of export/embed
#   make install            the tested packages of STACK into VENV
#   make site               build/site, the pages of docs/; in .venv-docs, of Python 3.11.5 or later
#   make dist               dist/, a wheel and a source archive
#   make release TAG=v0.1.0 the same, where TAG is the version and the changelog has its date
# STACK=tf215 is TensorFlow 2.15 with tensorflow-addons, on Python 3.9 to 3.11; STACK=tf220 is 2.20,
# on Python 3.10 to 3.13. Without STACK it is the first that has the Python.
# PYTHON, VENV and STACK can be set: make test PYTHON=python3.10 VENV=.venv310
# UV=uv installs by uv (https://docs.astral.sh/uv), which is sooner, and by pip where it cannot.
PYTHON ?= python3
# .venv, and .venv-tf220 where STACK=tf220 is asked for: the two can live side by side.
ifndef VENV
VENV := .venv$(patsubst %,-%,$(filter-out tf215,$(STACK)))
endif
ifndef STACK
VERSION := $(shell for python in $(VENV)/bin/python '$(PYTHON)'; do \
    $$python -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null && break; done)
STACK := $(if $(wildcard constraints/py$(VERSION)-tf215.txt),tf215,tf220)
endif

UV ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(STACK)
SOURCES := $(wildcard setup.py panoptic_tf experiments export tests benchmarks docs/*.py)
TYPED := $(addprefix panoptic_tf/,structures.py datasets inputs metrics ops serving checkpoints evaluation api)
# And beam, onnx and openvino where the pins have their packages.
EXTRAS_tf215 := addons,dev,png,serving
EXTRAS_tf220 := dev,edge,png,serving
TESTS ?=
WORKERS ?= 2
CHROMIUM ?= chromium
LITERTJS := build/browser/node_modules/@litertjs
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope
CONTRACT := tests/systems/test_contract.py
FOLDERS := tests/systems tests/training tests/accelerator

.DELETE_ON_ERROR:
.PHONY: demo test browser lint install embed site dist release clean

install: $(STAMP)
	@cat $(STAMP)

demo: install
	$(BIN)/panoptic-tf demo --output_dir=runs/demo

embed: install
	mkdir -p build
	$(MAKE) -C export/embed PYTHON='$(abspath $(BIN))/python' OUTPUT='$(CURDIR)/build/panoptic'

# TensorFlow is not needed: the reference of the API is read from the sources.
site: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet --site-dir build/site

.venv-docs/.installed: constraints/docs.txt
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install -qq --no-deps -r $<
	touch $@

# build/lib may hold modules that are no more.
dist: $(STAMP)
	rm -rf dist build/lib
	$(BIN)/python -c "from setuptools import build_meta as build; \
	    build.build_wheel('dist'); build.build_sdist('dist')" >/dev/null

release: VERSION_TAG = v$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' panoptic_tf/__init__.py)
release:
	@test '$(TAG)' = '$(VERSION_TAG)' || { echo "TAG is '$(TAG)', the package $(VERSION_TAG)."; exit 1; }
	@grep -q '^## $(TAG:v%=%) - 20' CHANGELOG.md || \
	    { echo "CHANGELOG.md has no '## $(TAG:v%=%) - <date>'."; exit 1; }
	$(MAKE) dist

# All tests in several runs: a process keeps some memory of every graph that TensorFlow has traced.
test: $(if $(TESTS),$(STAMP),lint)
ifeq ($(TESTS),)
	$(PYTEST) $(CONTRACT)
	$(foreach folder,$(FOLDERS),$(PYTEST) $(folder) --ignore=$(CONTRACT) &&) \
	$(PYTEST) tests $(addprefix --ignore=,$(FOLDERS))
else
	$(PYTEST) $(TESTS)
endif

browser: $(STAMP) $(LITERTJS)
	PANOPTIC_TF_CHROMIUM='$(CHROMIUM)' PANOPTIC_TF_LITERTJS='$(abspath $(LITERTJS))' \
	    $(PYTEST) tests/serving/test_web.py

$(LITERTJS):
	npm install --silent --prefix build/browser @litertjs/core@2.5.3

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(TYPED)

# What was trained, in runs/, stays.
clean:
	rm -rf .venv .venv-tf220 .venv-docs $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One pip call with every version given; done again when a requirement changes.
$(STAMP): setup.cfg setup.py pyproject.toml $(wildcard constraints/py*.txt)
	@start=$$(date +%s); \
	python='$(PYTHON)'; \
	if $(BIN)/python -m pip --version >/dev/null 2>&1; then python='$(BIN)/python'; fi; \
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') || \
	    { echo "No Python runs as '$$python'. Set PYTHON=<path of Python 3.9 to 3.13>."; exit 1; }; \
	pins=constraints/py$$(echo $$version | tr -d .)-$(STACK).txt; \
	test -f $$pins || { \
	    echo "$$python is Python $$version and there is no $$pins."; \
	    echo "Set PYTHON and STACK to what one of these is for:" constraints/py*.txt; \
	    exit 1; }; \
	tensorflow="TensorFlow $$(sed -n 's/^tensorflow==//p' $$pins)"; \
	echo "Installing $$tensorflow for Python $$version into $(VENV); this takes some minutes."; \
	test "$$python" = '$(BIN)/python' || $$python -m venv --clear $(VENV) || \
	    { echo "'$$python -m venv' failed; Debian has it in the package python3-venv."; exit 1; }; \
	rm -f $(VENV)/.installed-*; \
	extras='$(EXTRAS_$(STACK))'; \
	if grep -q '^apache-beam==' $$pins; then extras="$$extras,beam"; fi; \
	if grep -q '^tf2onnx==' $$pins; then extras="$$extras,onnx"; fi; \
	if grep -q '^openvino==' $$pins; then extras="$$extras,openvino"; fi; \
	{ test -n '$(UV)' && '$(UV)' pip install -q --python $(BIN)/python -c $$pins -e ".[$$extras]"; } || \
	    $(BIN)/python -m pip install -qq --no-compile --use-pep517 -c $$pins -e ".[$$extras]" && \
	echo "$$tensorflow, Python $$version ($$pins) in $(VENV); installation took" \
	    "$$(($$(date +%s) - start)) s." > $@
