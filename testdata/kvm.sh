#!/usr/bin/env bash
# Our own engine on a real KVM: this host's where it is usable, else one of the
# nested lane (testdata/lane): the engine's package tests, then the scripts that
# a guest answers. test.sh calls it with what it has built.
#
#	kvm.sh FOLDER-OF-BINARIES DISTRO CACHE
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1 distro=$2 cache=$3

lane=()
slow=1
if ! "$bin/stile" doctor | grep -q '^ok *KVM'; then
	lane=("$PWD/testdata/lane/run" -timeout 30m -copy "$bin")
	slow=6
	go run ./kernel/build -set l1
	echo "lane: nested, under TCG"
else
	echo "lane: this host's KVM"
fi

printf '\n== tests of vmm/kvm\n'
go test -count=1 -timeout 20m ${lane[@]:+-exec "${lane[*]}"} ./vmm/kvm/...

printf '\n== scripts on the kvm engine\n'
# What is the same whatever runs the guest, or what the lane has no time for, is
# run on qemu alone.
run=${STILE_TEST_RUN:-TestScripts/(context|disk_full|engine_confined|engine_end|git|machine_crash|machine_idle|run_args|run_pipe|run_signal|share|status|terminal)}
STILE_TEST_BIN=$bin STILE_TEST_DISTRO=$distro STILE_TEST_CACHE=$cache STILE_TEST_SLOW=$slow STILE_ENGINE=kvm \
	"${lane[@]}" "$bin/scripts.test" -test.v -test.count=1 -test.timeout 30m -test.run "$run"
