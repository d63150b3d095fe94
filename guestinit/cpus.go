package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/stilehq/stile/guestinit/root"
)

// startCPUs starts the CPUs that the kernel has been told to leave alone
// (maxcpus=1, which vmm/qemu says why of), after what changes the kernel's code:
// the first use of each cgroup controller does. Elsewhere there are none, and
// the controllers come when the guest is up.
func startCPUs() error {
	switches, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	if err != nil {
		return err
	}
	var parked []string
	for _, path := range switches {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("start CPUs: %w", err)
		}
		if b[0] == '0' {
			parked = append(parked, path)
		}
	}
	if len(parked) == 0 {
		return nil
	}
	if err := root.Controllers(); err != nil {
		return err
	}
	for _, path := range parked {
		if err := os.WriteFile(path, []byte("1"), 0); err != nil {
			return fmt.Errorf("start CPUs: %w", err)
		}
	}
	return nil
}
