# make help
SHELL := /bin/bash
VENV := .venv/bin
STEPS ?= lint plain asan tsan pytest

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup:           ## packages (as root), .venv, C extension, test tools; called by the others
	@.ci/setup test

run:             ## start the appliance; ARGS="--listen ... --data-dir ... --run-dir ..."
	@.ci/setup run
	@exec $(VENV)/vswitch serve $(ARGS)

test: setup      ## lint, C tests (plain, ASan+UBSan, TSan), pytest; STEPS= picks
	@.ci/test $(STEPS)

demo:            ## two namespaces, one switch, ping and iperf3 through it
	@.ci/setup run
	@docs/examples/demo

bench: setup     ## beside every peer that is installed and a bare loop, in one run
	@$(VENV)/python -m tests.bench $(ARGS)

bench-peers:     ## the same, after installing the peers (Debian's packages) and what draws plots
	@.ci/setup peers
	@$(VENV)/python -m tests.bench $(ARGS)

lint: setup      ## ruff, mypy, import-linter, clang-format
	@.ci/lint

openapi: setup   ## rewrite openapi.json from the code
	@$(VENV)/python -m vswitch.openapi > openapi.json.new && mv openapi.json.new openapi.json

test-docker:     ## the container: build, run, join two namespaces, clean up
	@.ci/setup test
	@tests/docker/run

test-netmap:     ## kernel netmap ports in an emulated machine; says what it needs
	@.ci/setup test
	@$(VENV)/python -m tests.netmap $(ARGS)

fuzz: setup      ## every fuzz target for SECONDS=60
	@.ci/fuzz $(or $(SECONDS),60)

clean:           ## remove what was built
	rm -rf build build-* .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup run test demo bench bench-peers lint openapi test-docker test-netmap fuzz clean
