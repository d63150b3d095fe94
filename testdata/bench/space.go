package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// large is the file that the rows about space write and read, in MiB.
const large = 1024

// rest measures what a machine holds of the host's memory when its guest has
// read a large file and nothing has needed it for a while, against a machine
// that has done nothing since its start. It is stile's alone.
func (b *bench) rest() error {
	s, ok := b.sides[0].(*stile)
	if !ok {
		return nil
	}
	if _, err := s.boot(b.ctx); err != nil {
		return err
	}
	held := func() (float64, error) {
		pids, err := s.pids()
		if err != nil {
			return 0, err
		}
		most := uint64(0) // QEMU and the vmm process show the same memory
		for _, pid := range pids {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
			if err != nil {
				return 0, err
			}
			_, guest, err := sumPss(string(data), uint64(b.memory)<<20)
			if err != nil {
				return 0, err
			}
			most += guest
		}
		return float64(most) / 1e6, nil
	}
	// It reads holes, which take guest memory and no disk.
	if err := run(s.shell(b.ctx, fmt.Sprintf("truncate -s %dM /var/tmp/large", large))); err != nil {
		return err
	}
	time.Sleep(b.restTime)
	idle, err := held()
	if err != nil {
		return err
	}
	if err := run(s.shell(b.ctx, "cat /var/tmp/large >/dev/null")); err != nil {
		return err
	}
	read, err := held()
	if err != nil {
		return err
	}
	time.Sleep(b.restTime)
	rested, err := held()
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "guest memory on the host: %.1f MB idle, %.1f MB after %d MiB were read, %.1f MB %v later: %.2f times idle (aim 1.3)\n",
		idle, read, large, rested, b.restTime, rested/idle)
	return errors.Join(run(s.shell(b.ctx, "rm /var/tmp/large")), s.stop())
}

// trim measures what a file that is no more leaves of the disk's image. It is
// stile's alone.
func (b *bench) trim() error {
	s, ok := b.sides[0].(*stile)
	if !ok {
		return nil
	}
	if _, err := s.boot(b.ctx); err != nil {
		return err
	}
	blocks := func() (float64, error) {
		info, err := os.Stat(filepath.Join(s.data, "stile/distros/deb/disk.img"))
		if err != nil {
			return 0, err
		}
		return float64(info.Sys().(*syscall.Stat_t).Blocks) * 512 / 1e6, nil
	}
	var values []float64
	for _, line := range []string{
		"sync; fstrim /",
		fmt.Sprintf("head -c %dM /dev/urandom >/var/tmp/large; sync", b.trimmed),
		"rm /var/tmp/large; sync; fstrim /",
	} {
		cmd := s.stile(b.ctx, "run", "-u", "root", "sh", "-c", line)
		if err := run(cmd); err != nil {
			return err
		}
		n, err := blocks()
		if err != nil {
			return err
		}
		values = append(values, n)
	}
	fmt.Fprintf(b.out, "image on the host: %.1f MB, %.1f MB with a file of %d MiB, %.1f MB without it and trimmed: %.3f times the first (aim 1)\n",
		values[0], values[1], b.trimmed, values[2], values[2]/values[0])
	return s.stop()
}
