#!/usr/bin/env bash
# Style and known faults: what a reviewer would have a tool say.
#
# shellcheck disable=SC2317  # it does not see functions that are called by name
set -uo pipefail
cd "$(dirname "$0")/.." || exit
fail=0
check() { # NAME COMMAND...: it must succeed
	"${@:2}" || {
		printf 'check: %s\n' "$1" >&2
		fail=1
	}
}
formatted() {
	local files
	files=$(git ls-files -z '*.go' | xargs -0 gofmt -l) || return
	[ -z "$files" ] || {
		printf '%s\n' "$files"
		return 1
	}
}
# The database of known faults has one address; where that is out of reach there
# is nothing to compare with.
vulnerable() {
	local out
	out=$(go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./... 2>&1) && return
	if grep -q 'fetching vulnerabilities' <<<"$out"; then
		printf 'check: govulncheck is skipped: %s\n' "$(grep -m1 'fetching' <<<"$out")" >&2
		return
	fi
	printf '%s\n' "$out"
	return 1
}
notices() { testdata/notices.sh | diff THIRD_PARTY_NOTICES - >/dev/null; }

mapfile -t scripts < <(git ls-files '*.sh' .ci/run)

check "gofmt: not formatted" formatted
check "go vet" go vet ./... ./testdata/bench/...
check "go vet, of what make dist builds" testdata/dist.sh vet
check "tests of the bench" go test ./testdata/bench/...
# Not U1000, which says that nothing uses what only assembly uses.
check "staticcheck" go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 \
	-checks "all,-SA9003,-ST1000,-ST1003,-ST1016,-ST1020,-ST1021,-ST1022,-ST1023,-U1000" ./... ./testdata/bench/...
check "govulncheck" vulnerable
check "go.mod does not say what is imported: go mod tidy" go mod tidy -diff
check "shellcheck" shellcheck "${scripts[@]}"
check "shfmt: not formatted" shfmt -d "${scripts[@]}"
check "THIRD_PARTY_NOTICES is out of date: make notices" notices
exit "$fail"
