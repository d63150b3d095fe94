#!/usr/bin/env bash
# The README's two commands in a bare system with no compiler and no Go, from
# nothing: what a newcomer does. Arguments are make's targets instead.
set -euo pipefail
cd "$(dirname "$0")/.."
. testdata/root.sh
why=$(root_possible)
if [ -n "$why" ]; then
	echo "stile: test-fresh: $why" >&2
	exit 125
fi
root=$(mktemp -d /var/tmp/stile-fresh.XXXXXX)
trap 'root_remove "$root"' EXIT
root_make "$root" ca-certificates,git,make
# What is committed, and nothing that lies about.
git clone -q --no-hardlinks . "$root/root/stile"
for target in "${@:-demo test}"; do
	for t in $target; do
		printf '\n== make %s\n' "$t"
		root_run "$root" make -C /root/stile "$t"
	done
done
