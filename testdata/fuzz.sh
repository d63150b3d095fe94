#!/usr/bin/env bash
# Every fuzz target for FUZZTIME of CPU time each (default: one minute).
set -euo pipefail
cd "$(dirname "$0")/.."
go list ./... | while read -r pkg; do
	dir=$(go list -f '{{.Dir}}' "$pkg")
	grep -hoE '^func (Fuzz[A-Za-z0-9_]+)' "$dir"/*_test.go 2>/dev/null | cut -d' ' -f2 | while read -r target; do
		printf '%s %s\n' "$pkg" "$target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-1m}" -fuzzminimizetime 2s -parallel 1 "$pkg" </dev/null
	done
done
