#!/usr/bin/env bash
# The whole proof: unit tests with the race detector, then the scripts of this
# folder against a real guest, as the calling user and, if that is root, as a
# plain user too, then on our own engine (kvm.sh). `make test` has built bin/ and
# the kernel.
#
#	test.sh [kvm]    with the word: our own engine's part alone
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}
work=$(mktemp -d /tmp/stile-test.XXXXXX)
trap 'rm -rf "$work"' EXIT

step() { printf '\n== %s\n' "$*"; }

if [ "${1:-}" != kvm ]; then
	step "unit tests, race detector on"
	go vet ./...
	go list ./... | grep -v '/stile$' | xargs go test -race -timeout 10m
fi

# The distro that the scripts get copies of: made by stile itself, kept by the
# content of what makes it.
key=$(cat distro/template.zst distro/debian/*.go guestinit/untar/*.go | sha256sum | cut -c1-12)
distro=$cache/stile/test-distros/$key
if [ ! -f "$distro/distro.tar" ]; then
	step "a Debian for the scripts (kept in the cache)"
	mkdir -p "$work/make/home" "$cache/stile/test-distros"
	env -u XDG_RUNTIME_DIR HOME="$work/make/home" XDG_CONFIG_HOME="$work/make/config" \
		XDG_DATA_HOME="$work/make/data" XDG_CACHE_HOME="$cache" XDG_RUNTIME_DIR="$work/make" \
		bin/stile install debian --name deb
	rm -rf "$distro"
	mkdir -p "$distro.new"
	tar -cSf "$distro.new/distro.tar" -C "$work/make/data/stile/distros/deb" disk.img settings.toml
	mv "$distro.new" "$distro"
fi

# The binaries under test: stile with the race detector, the others as users
# have them; and all as users have them, for a second run.
mkdir -p "$work/bin" "$work/plain"
go build -race -o "$work/bin/stile" .
cp bin/shim bin/guestinit "$work/bin/"
# A test that a guest runs in a share.
CGO_ENABLED=0 go test -c -trimpath -ldflags '-s -w' -o "$work/bin/posix.test" ./vmm/fileserver
cp "$work/bin/posix.test" "$work/plain/"
cp bin/stile bin/shim bin/guestinit "$work/plain/"
CGO_ENABLED=0 go test -c -o "$work/plain/scripts.test" .

# Other projects' tests, which judge too: from the Go proxy, kept in the cache.
STILE_TEST_JUDGES=$cache/stile/judges/$(sha256sum testdata/judges.sh | cut -c1-12)
export STILE_TEST_JUDGES
testdata/judges.sh "$STILE_TEST_JUDGES"

# What the main job stands on runs under the race detector, as a plain user and, in
# kvm.sh, on our own engine; the rest runs once, with what users have.
core='TestScripts/(context|git|import|input_bad|machine_|run_|share|status|terminal)'
rest='Test(Scripts|Completion)/(bash|disk_full|engine_|exact|explain|host|^idle$|init|judge_|link|notfound|posix|shells|sudo|testscript_)'

scripts() { # TITLE TESTS BIN CACHE DISTRO COMMAND...
	step "scripts against a real guest, $1"
	STILE_TEST_BIN=$3 STILE_TEST_DISTRO=$5 STILE_TEST_CACHE=$4 \
		"${@:6}" "$work/plain/scripts.test" -test.v -test.count=1 -test.timeout 40m -test.run "${STILE_TEST_RUN:-$2}" >"$work/log" 2>&1 ||
		{
			cat "$work/log"
			return 1
		}
	grep -E '^(ok|PASS|FAIL)|^ +--- ' "$work/log"
	printf '%d scripts passed, %d skipped\n' "$(grep -c -- '^ *--- PASS: Test[A-Z][a-z]*/' "$work/log")" \
		"$(grep -c -- '^ *--- SKIP: Test[A-Z][a-z]*/' "$work/log" || true)"
}

if [ "${1:-}" != kvm ]; then
	scripts "as $(id -un), race detector on" "$core" "$work/bin" "$cache" "$distro"
	scripts "as $(id -un)" "$rest" "$work/plain" "$cache" "$distro"
fi
if [ "${1:-}" != kvm ] && [ "$(id -u)" = 0 ]; then
	# What a plain user has: a cache of his own, no privilege.
	user_cache=$work/user/cache
	mkdir -p "$user_cache/stile"
	cp -a "$cache/stile/kernels" "$user_cache/stile/"
	cp -a "$distro" "$work/user/distro"
	chmod 755 "$work"
	chown -R nobody:nogroup "$work/user"
	scripts "as a plain user" "$core" "$work/plain" "$user_cache" "$work/user/distro" \
		setpriv --reuid=nobody --regid=nogroup --clear-groups env USER=nobody HOME="$work/user" TMPDIR=/tmp
fi
if [ "${1:-}" != kvm ]; then
	step "all passed; the kvm engine has a run of its own: make test-kvm"
	exit
fi
testdata/kvm.sh "$work/plain" "$distro" "$cache" >"$work/log" 2>&1 || {
	cat "$work/log"
	exit 1
}
step "the kvm engine"
grep -E '^(lane|ok|PASS|FAIL)|^ +--- ' "$work/log"
printf '%d scripts passed, %d skipped\n' "$(grep -c -- '^ *--- PASS: TestScripts/' "$work/log")" \
	"$(grep -c -- '^ *--- SKIP: TestScripts/' "$work/log" || true)"
step "all passed"
