# make demo    set everything up and do the main job
# make test    unit tests, and the scripts of testdata/ against a real guest
# The rest is for who works on stile: see docs/design.md.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATIC := CGO_ENABLED=0 go build -trimpath
LDFLAGS := -s -w
STILE_LDFLAGS := $(LDFLAGS) -X main.version=$(VERSION)
SHIM_LDFLAGS := $(LDFLAGS) -E main.entry

.PHONY: all demo build kernel test test-unit test-scripts test-user test-long test-fresh check fuzz bench dist install notices deps deps-test clean

all: build

deps:
	@./deps.sh build

deps-test:
	@./deps.sh test

build: deps
	@mkdir -p bin
	@$(STATIC) -ldflags '$(STILE_LDFLAGS)' -o bin/stile .
	@$(STATIC) -ldflags '$(SHIM_LDFLAGS)' -o bin/shim ./shim
	@$(STATIC) -ldflags '$(LDFLAGS)' -o bin/guestinit ./guestinit

kernel: deps
	@go run ./kernel/build

demo: build kernel
	@testdata/demo.sh

# The whole proof. Scripts run as the calling user, and when that is root as a
# plain user too, for that is how people run stile.
test: deps-test build kernel
	@testdata/test.sh

test-long: deps-test build kernel
	@STILE_TEST_LONG=1 testdata/test.sh

check:
	@testdata/check.sh

fuzz:
	@testdata/fuzz.sh

bench: deps-test build kernel
	@testdata/bench.sh

dist: build kernel
	@testdata/dist.sh

test-fresh:
	@testdata/fresh.sh

install: build
	@install -D -t "$(or $(DESTDIR),)$(or $(PREFIX),/usr/local)/lib/stile" bin/stile bin/shim bin/guestinit
	@mkdir -p "$(or $(DESTDIR),)$(or $(PREFIX),/usr/local)/bin"
	@ln -sf ../lib/stile/stile "$(or $(DESTDIR),)$(or $(PREFIX),/usr/local)/bin/stile"

clean:
	@rm -rf bin dist
