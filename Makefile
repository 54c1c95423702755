# The habits of this project. Everything is built under build/<preset>; `make help` says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build all run test unit bench format tidy check lint fuzz coverage clean deps deps-test deps-check

# A compiler on gRPC's headers takes up to 1.5 GiB, so memory bounds the number of jobs as processors do.
JOBS ?= $(shell cpus=$$(nproc); fit=$$(awk '/^MemAvailable/ {print int($$2 / 1572864)}' /proc/meminfo); \
  jobs=$$(( fit < cpus ? fit : cpus )); echo $$(( jobs < 1 ? 1 : jobs )))
PRESET ?= release
BUILD := build/$(PRESET)

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

build: deps  ## build build/release/foreshadow
	cmake --preset $(PRESET)
	cmake --build $(BUILD) --target foreshadow -j $(JOBS)

all: deps deps-test  ## build everything, tests and benchmarks too
	cmake --preset $(PRESET)
	cmake --build $(BUILD) -j $(JOBS)

run: build  ## build, then show a volume grow before it is full (ONCE=1: one pass, then exit)
	tools/run-demo $(if $(filter-out 0,$(ONCE)),--once)

test: all  ## build everything and run every test
	ctest --test-dir $(BUILD) --output-on-failure -j2

unit: all  ## the unit tests alone
	ctest --test-dir $(BUILD) --output-on-failure -j2 -L '^unit$$'

bench: all  ## build everything and measure
	bench/run

format: deps-check  ## lay out the C++ code as .clang-format says
	find src sim fuzz tests bench -name '*.h' -print0 -o -name '*.cc' -print0 | xargs -0r clang-format-19 -i

tidy:  ## style and architecture, in a second
	python3 -B tools/tidy.py .

check: tidy deps deps-test  ## tidy, then the unit tests and the short simulation under sanitizers
	cmake --preset asan
	cmake --build build/asan -j $(JOBS)
	ctest --test-dir build/asan --output-on-failure -j2 -L '^(unit|sim)$$'

lint: all deps-check  ## clang-tidy over src; slow (ONLY='src/volume/.*' narrows it)
	run-clang-tidy-19 -quiet -p $(BUILD) -j $(JOBS) '$(CURDIR)/$(or $(ONLY),src/.*)'

fuzz: deps-check  ## build the fuzz targets and run each for a minute (SECONDS_EACH=...)
	cmake --preset fuzz
	cmake --build build/fuzz --target fuzz_targets -j $(JOBS)
	fuzz/run --seconds $(or $(SECONDS_EACH),60)

coverage: deps deps-test  ## line coverage of every room, by unit tests, corpora and a short simulation
	tools/coverage --jobs $(JOBS)

clean:  ## remove all that was built
	rm -rf build

deps:
	@tools/install-dependencies.sh build

deps-test:
	@tools/install-dependencies.sh build test

deps-check:
	@tools/install-dependencies.sh check
