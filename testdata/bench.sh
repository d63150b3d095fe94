#!/usr/bin/env bash
# stile against what one sets up by hand, in one run: testdata/bench says more.
# Arguments are its flags. `make bench` has built bin/ and the kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/bench" ./testdata/bench
"$work/bench" "$@"
