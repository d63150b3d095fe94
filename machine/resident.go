package machine

import (
	"bytes"
	"os"
	"strconv"
)

// resident is the host memory in bytes that a process of ours holds now, 0 if
// it has gone.
func resident(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// countProcess counts what a process of ours has open. What /proc does not show is 0.
func countProcess(name string, pid, goroutines int) Process {
	count := func(folder string) int {
		names, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/" + folder)
		if err != nil {
			return 0
		}
		if pid == os.Getpid() && folder == "fd" {
			return len(names) - 1 // that by which they were read
		}
		return len(names)
	}
	return Process{Name: name, PID: pid, Goroutines: goroutines, Threads: count("task"), Descriptors: count("fd")}
}
