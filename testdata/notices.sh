#!/usr/bin/env bash
# Prints the third-party notices: the licences of the modules that stile's
# programs are linked from, as each module has them, and what is said of the
# kernel. `make notices` keeps them in THIRD_PARTY_NOTICES, `make check` compares.
set -euo pipefail
cd "$(dirname "$0")/.."

heading() { printf '\n%s\n%s\n\n' "$(printf '=%.0s' {1..72})" "$*"; }

texts() { # FOLDER: the files in it that state a licence
	local found
	found=$(find -L "$1" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'patents*' \) | LC_ALL=C sort)
	if [ -z "$found" ]; then
		echo "notices: $1 has no licence" >&2
		return 1
	fi
	while read -r file; do
		cat "$file"
		echo
	done <<<"$found"
}

cat <<'END'
stile is under the Apache License, version 2.0: see LICENSE. Its programs are
linked from the Go modules below, each under its own licence.

The file that `make dist` makes has the Linux kernel inside, which is a program of
its own, under the GNU General Public License, version 2. Its complete source is
the one that kernel/pin names, with the patches and the configuration in kernel/;
`make kernel` builds it.
END
heading "The Go standard library and runtime"
texts "$(go env GOROOT)"
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' . ./shim ./guestinit |
	LC_ALL=C sort -u | while read -r module version dir; do
	heading "$module $version"
	texts "$dir"
done
