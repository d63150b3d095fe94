#!/usr/bin/env bash
# Style and known faults: what a reviewer would have a tool say.
set -euo pipefail
cd "$(dirname "$0")/.."
fail=0
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	printf 'gofmt: %s\n' "$unformatted"
	fail=1
fi
go vet ./... || fail=1
go run honnef.co/go/tools/cmd/staticcheck@latest ./... || fail=1
mapfile -t shell < <(git ls-files '*.sh' .ci/run)
shellcheck "${shell[@]}" || fail=1
shfmt -d "${shell[@]}" || fail=1
exit "$fail"
