package qemu

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// timing is how the guest learns how fast its clocks run, with no calibration,
// which would be a third of the boot: options of the microvm machine and kernel
// parameters.
//
// TCG hands the host's time stamp counter through, and its local APIC timer
// counts nanoseconds (lapic_khz is kernel/patches' own). With both known nothing
// is left for the PIT and its interrupt controller to do. On a host that does not
// say how fast its counter runs, the PIT serves as clock and calibrates nothing.
func timing() (machine string, params []string) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", []string{"noapictimer"}
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if khz, ok := tscKHz(lines.Text()); ok {
			return ",pit=off,pic=off", []string{"tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", khz), "lapic_khz=1000000",
				fmt.Sprintf("lpj=%d", khz*1000/guestHZ)}
		}
	}
	return "", []string{"noapictimer"}
}

// guestHZ is the kernel's CONFIG_HZ (kernel/config). Loops per jiffy (lpj) are
// counts of the TSC; told what they are, the second CPU does not measure them, which
// took 200 million instructions.
const guestHZ = 100

// tscKHz reads the frequency of the time stamp counter from a line of
// /proc/cpuinfo: the kernel computes bogomips from it, where "cpu MHz" may be
// the present clock of the core.
func tscKHz(line string) (uint64, bool) {
	value, ok := strings.CutPrefix(line, "bogomips")
	if !ok {
		return 0, false
	}
	_, value, ok = strings.Cut(value, ":")
	if !ok {
		return 0, false
	}
	mips, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || mips < 200 || mips > 40000 {
		return 0, false
	}
	return uint64(mips*1000/2 + 0.5), true
}
