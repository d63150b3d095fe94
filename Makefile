# make demo    set everything up and do the main job
# make test    unit tests, and the scripts of testdata/ against a real guest
# The rest is for who works on stile: see docs/design.md.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# deps.sh puts a Go there if the system's is too old for go.mod.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stile
export PATH := $(CACHE)/go/bin:$(PATH)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The version says what buildvcs would, which fails in a checkout of another user.
GO_BUILD := env CGO_ENABLED=0 go build -trimpath -buildvcs=false
LDFLAGS := -s -w
STILE_LDFLAGS := $(LDFLAGS) -X main.version=$(VERSION)
SHIM_LDFLAGS := $(LDFLAGS) -E github.com/stilehq/stile/interop/early.entryBlocked
export GO_BUILD STILE_LDFLAGS

prefix := $(DESTDIR)$(or $(PREFIX),/usr/local)

.PHONY: all demo build kernel test test-kvm test-long test-fresh test-dist check fuzz bench dist install notices clean

all: build

build:
	@./deps.sh build
	@mkdir -p bin
	@$(GO_BUILD) -ldflags '$(STILE_LDFLAGS)' -o bin/stile .
	@$(GO_BUILD) -ldflags '$(SHIM_LDFLAGS)' -o bin/shim ./shim
	@$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/guestinit ./guestinit

# The guest's kernel, into the cache.
kernel:
	@./deps.sh build
	@go run ./kernel/build

demo: build kernel
	@testdata/demo.sh

# The whole proof. Scripts run as the calling user, and when that is root as a
# plain user too, for that is how people run stile. At last the one file of make
# dist, in a bare system.
test: build kernel
	@./deps.sh test
	@testdata/test.sh
	@testdata/dist.sh
	@testdata/bare.sh

# Our own engine alone, on this host's KVM or the nested lane.
test-kvm: build kernel
	@./deps.sh test
	@testdata/test.sh kvm

# With what takes long: 10 GiB, a thousand commands, a day's worth of idling.
test-long: build kernel
	@./deps.sh test
	@STILE_TEST_LONG=1 testdata/test.sh

# The two commands of the README in a bare system, from nothing. Needs root.
test-fresh:
	@./deps.sh build
	@testdata/fresh.sh

# dist/stile in a bare system. Needs root.
test-dist: dist
	@testdata/bare.sh

# What tools say about the source.
check:
	@./deps.sh check
	@testdata/check.sh

# Every fuzz target for FUZZTIME each (1m).
fuzz:
	@testdata/fuzz.sh

# stile and, in the same run, what one sets up by hand: BENCH=-help says more.
bench: build kernel
	@./deps.sh bench
	@testdata/bench.sh $(BENCH)

# One file that is all of stile: dist/stile.
dist: build kernel
	@./deps.sh dist
	@testdata/dist.sh

# Without the kernel, which each user's cache has: make kernel.
install: build
	@install -D -t '$(prefix)/lib/stile' bin/stile bin/shim bin/guestinit
	@mkdir -p '$(prefix)/bin'
	@ln -sf ../lib/stile/stile '$(prefix)/bin/stile'
	@mkdir -p '$(prefix)/share/man/man1'
	@bin/stile man >'$(prefix)/share/man/man1/stile.1'
	@for c in $$(bin/stile man --list); do bin/stile man "$$c" >'$(prefix)/share/man/man1/stile-'"$$c".1; done

# The licences of what the three programs are linked from.
notices:
	@testdata/notices.sh >THIRD_PARTY_NOTICES.new
	@mv THIRD_PARTY_NOTICES.new THIRD_PARTY_NOTICES

clean:
	@rm -rf bin dist
