#!/usr/bin/env bash
# Other projects' tests of their command lines, for judge_suites.txtar:
#
#	judges.sh DIR	makes DIR/NAME/program and DIR/NAME/suite of each, if they lack
#
# The program is the project's own test program, which is its command when it is
# called by that name; the suite is its scripts, as they are.
set -euo pipefail
out=$(realpath -m "$1")
[ -f "$out/done" ] && exit
rm -rf "$out"
mkdir -p "$out/module"
cd "$out/module"
go mod init judges >/dev/null 2>&1

judge() { # NAME MODULE VERSION PACKAGE SUITE
	go get -t "$2/$4@$3" >/dev/null 2>&1
	mkdir "$out/$1"
	CGO_ENABLED=0 go test -c -ldflags '-s -w' -o "$out/$1/program" "$2/$4"
	cp -r "$(go list -m -f '{{.Dir}}' "$2")/$4/$5" "$out/$1/suite"
}
judge age filippo.io/age v1.2.1 cmd/age testdata
judge shfmt mvdan.cc/sh/v3 v3.11.0 cmd/shfmt testdata/script
rm -r "$out/module"
chmod -R u+w,a+rX "$out"
: >"$out/done"
