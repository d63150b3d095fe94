#!/usr/bin/env bash
# stile against what one sets up by hand, in one run: testdata/bench says more.
# Arguments are its flags. With -lane as the first it runs in the nested lane, on
# the engine kvm: stile's rows alone, and as small as there is time for. `make
# bench` has built bin/ and the kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/bench" ./testdata/bench
if [ "${1:-}" != -lane ]; then
	"$work/bench" "$@"
	exit
fi
shift
distros=("${XDG_CACHE_HOME:-$HOME/.cache}"/stile/test-distros/*/distro.tar)
[ -f "${distros[0]}" ] || {
	echo "bench.sh: no distro for the lane: make test makes one" >&2
	exit 1
}
go run ./kernel/build -set l1
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/guest" ./testdata/bench/guest
cp bin/stile bin/shim bin/guestinit "$work"
echo "In the nested lane: QEMU's TCG emulates the CPU and its KVM. Ratios count, not times, and"
echo "not those of one run on a busy host. QEMU is read from the host's files (9P) and stile from"
echo "memory; each had a run before to be read in."
testdata/lane/run -memory 5G -copy "$work" "$work/bench" -accel kvm -only stile -bin "$work" -guest "$work/guest" \
	-distro "${distros[0]}" -work /tmp -cpus 1 -colds 3 -rounds 100 -trimmed 256 -rest 40s -rows memory,rest,trim,engine "$@"
