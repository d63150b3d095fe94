package root

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keepCache is how much of the page cache stays. It takes twice as much for
	// anything to go: a small working set is left alone.
	keepCache = 64 << 20
	// reclaimStep is what is asked for at a time: a step can't be broken off.
	reclaimStep = 64 << 20
)

// Reclaim shrinks a large page cache of the distro to what was used last, as far
// as it comes within the limit, and returns how many bytes went. What is free
// then goes back to the host by free page reporting; what is missed later is
// most likely in the host's own page cache.
func Reclaim(limit time.Duration) (uint64, error) {
	before, err := cached()
	if err != nil || before < 2*keepCache {
		return 0, err
	}
	left := before
	for end := time.Now().Add(limit); left > keepCache && time.Now().Before(end); {
		n := min(left-keepCache, reclaimStep)
		err := os.WriteFile(cgroupDir+"/memory.reclaim", strconv.AppendUint(nil, n, 10), 0)
		// EAGAIN: it could not find as much, for it is in use or has to be
		// written back first.
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return 0, fmt.Errorf("reclaim memory: %w", err)
		}
		now, serr := cached()
		if serr != nil {
			return 0, serr
		}
		if now >= left {
			break
		}
		left = now
	}
	return before - min(left, before), nil
}

// cached is the size of the distro's page cache in bytes, what no file is behind
// (tmpfs) excepted. Which of it was used often the kernel does not say: with
// CONFIG_LRU_GEN reads leave all of it on the list that memory.stat calls
// inactive.
func cached() (uint64, error) {
	b, err := os.ReadFile(cgroupDir + "/memory.stat")
	if err != nil {
		return 0, fmt.Errorf("reclaim memory: %w", err)
	}
	var sum uint64
	for line := range bytes.Lines(b) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if string(name) != "inactive_file" && string(name) != "active_file" {
			continue
		}
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reclaim memory: %s: %w", name, err)
		}
		sum += n
	}
	return sum, nil
}
