package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tree is a process and all that come from it.
func tree(pid int) ([]int, error) {
	pids := []int{pid}
	// Of each thread: a child is the one's that started it.
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, fmt.Errorf("process %d is gone", pid)
	}
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread ended
		}
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(children)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			below, err := tree(child)
			if err != nil {
				return nil, err
			}
			pids = append(pids, below...)
		}
	}
	return pids, nil
}

// program is the name of what a process runs, with the subcommand of a stile.
func program(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "?"
	}
	args := bytes.Split(data, []byte{0})
	name := filepath.Base(string(args[0]))
	if name == "stile" && len(args) > 1 {
		name += " " + string(args[1])
	}
	return name
}

// guestMemory is what QEMU calls the mapping, in each process that has it. That
// of the engine kvm has no name, but a length that no other has.
const guestMemory = "/memfd:memory-backend-memfd"

// pss is the memory of a process that is not the guest's, in bytes. What
// several processes share counts in parts (Pss, proc(5)).
func pss(pid int, memory uint64) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	own, _, err := sumPss(string(data), memory)
	return own, err
}

// sumPss sums up the memory of a process that is its own, and that of the guest,
// which has as much as memory says.
func sumPss(smaps string, memory uint64) (own, guests uint64, err error) {
	guest := false
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") { // a mapping's first line
			var from, to uint64
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
				return 0, 0, fmt.Errorf("smaps: %q", line)
			}
			guest = len(fields) > 5 && strings.HasPrefix(fields[5], guestMemory) || len(fields) == 5 && to-from == memory
			continue
		}
		if fields[0] != "Pss:" {
			continue
		}
		if len(fields) != 3 || fields[2] != "kB" {
			return 0, 0, fmt.Errorf("smaps: %q", line)
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("smaps: %q", line)
		}
		if guest {
			guests += n << 10
		} else {
			own += n << 10
		}
	}
	return own, guests, nil
}
