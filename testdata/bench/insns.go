package main

import (
	"bufio"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// bootMemory is that of the guest whose boot is counted: the kernel's work is
// some 10 million instructions for each GiB.
const bootMemory = "512MiB"

// insns counts the instructions of a boot on the engine qemu, by a plugin of
// QEMU's (testdata/bench/insns): to guestinit's first one, to guestinit's word
// that it is up, to the first command's output; and says which functions took
// most of those before guestinit. It is stile's alone.
func (b *bench) insns() error {
	s, ok := b.sides[0].(*stile)
	if !ok {
		return nil
	}
	counted, err := b.countingStile(s)
	if err != nil {
		return err
	}
	var all [3][]uint64
	for range b.repeats {
		counts, err := counted.count(b)
		if err != nil {
			return err
		}
		for i, n := range counts {
			all[i] = append(all[i], n)
		}
	}
	for i, line := range []struct {
		what string
		aim  float64
	}{{"guestinit", 20}, {"guestinit up", 60}, {"first output", 0}} {
		// The least: where the host is slow a guest does more of its own while it waits.
		m := float64(slices.Min(all[i])) / 1e6
		aim := ""
		if line.aim != 0 {
			aim = fmt.Sprintf("%g M: reached", line.aim)
			if m > line.aim {
				aim = fmt.Sprintf("%g M: missed", line.aim)
			}
		}
		fmt.Fprintf(b.out, tableFormat, "instructions to "+line.what, fmt.Sprintf("%.1f M", m), "", "", aim)
	}
	return counted.top(b)
}

// A counting is a stile whose machine has one CPU and counts.
type counting struct {
	*stile
	counts string // path of the plugin's file
}

// bootMarks are the functions of guestinit before which the plugin takes the
// count, besides its first instruction.
var bootMarks = []string{"main.afterReady"}

func (b *bench) countingStile(s *stile) (*counting, error) {
	dir := filepath.Join(b.work, "insns")
	config := filepath.Join(dir, "stile")
	if err := os.MkdirAll(config, 0o700); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("engine = \"qemu\"\nmemory = %q\ncpus = 1\nidle = \"24h\"\n", bootMemory)
	if err := os.WriteFile(filepath.Join(config, "config.toml"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	plugin := filepath.Join(dir, "insns.so")
	if err := run(exec.CommandContext(b.ctx, "gcc", "-O2", "-shared", "-fPIC", "-o", plugin, filepath.Join(b.source, "testdata/bench/insns/insns.c"))); err != nil {
		return nil, err
	}
	marks, err := addresses(filepath.Join(b.bin, "guestinit"))
	if err != nil {
		return nil, err
	}
	real, err := exec.LookPath(qemuProgram)
	if err != nil {
		return nil, err
	}
	c := &counting{counts: filepath.Join(dir, "counts")}
	script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" -plugin %s,into=%s%s\n", real, plugin, c.counts, marks)
	if err := os.WriteFile(filepath.Join(dir, qemuProgram), []byte(script), 0o700); err != nil {
		return nil, err
	}
	own := *s
	c.stile = &own
	var env []string
	for _, e := range s.env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "XDG_CONFIG_HOME":
			e = name + "=" + dir
		case "PATH":
			e = name + "=" + dir + ":" + value
		}
		env = append(env, e)
	}
	c.env = env
	return c, nil
}

// addresses are the plugin's marks in guestinit.
func addresses(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines, text := f.Section(".gopclntab"), f.Section(".text")
	if lines == nil || text == nil {
		return "", fmt.Errorf("%s is no Go program", path)
	}
	data, err := lines.Data()
	if err != nil {
		return "", err
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return "", err
	}
	marks := fmt.Sprintf(",mark=%#x", f.Entry)
	for _, name := range bootMarks {
		fn := table.LookupFunc(name)
		if fn == nil {
			return "", fmt.Errorf("%s has no function %s", path, name)
		}
		marks += fmt.Sprintf(",mark=%#x", fn.Entry)
	}
	return marks, nil
}

// count boots once and returns the counts at the marks and at the first byte of
// a command's output.
func (c *counting) count(b *bench) (counts [3]uint64, err error) {
	if err := os.WriteFile(c.counts, make([]byte, 4096), 0o600); err != nil {
		return counts, err
	}
	if _, err := c.boot(b.ctx); err != nil {
		return counts, err
	}
	page, err := os.ReadFile(c.counts)
	if err := errors.Join(err, c.stop()); err != nil {
		return counts, err
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(page[8*i:]) }
	counts = [3]uint64{at(1), at(2), at(0)}
	if counts[0] == 0 || counts[1] <= counts[0] || counts[2] <= counts[1] {
		err = fmt.Errorf("the plugin counted %v", counts)
	}
	return counts, err
}

// top prints the functions that executed most instructions before guestinit, by
// the guest's own symbols.
func (c *counting) top(b *bench) error {
	if _, err := c.boot(b.ctx); err != nil {
		return err
	}
	symbols, err := output(c.stile.stile(b.ctx, "run", "-u", "root", "cat", "/proc/kallsyms"))
	if err := errors.Join(err, c.stop()); err != nil {
		return err
	}
	type function struct {
		at   uint64
		name string
	}
	var functions []function
	for line := range strings.Lines(symbols) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.Contains("tTwW", fields[1]) {
			continue
		}
		at, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			return fmt.Errorf("kallsyms: %q", line)
		}
		functions = append(functions, function{at, fields[2]})
	}
	slices.SortFunc(functions, func(x, y function) int {
		if x.at < y.at {
			return -1
		}
		return 1
	})
	f, err := os.Open(c.counts + ".profile")
	if err != nil {
		return err
	}
	defer f.Close()
	sums := make(map[string]uint64)
	for blocks := bufio.NewScanner(f); blocks.Scan(); {
		var at, n uint64
		if _, err := fmt.Sscanf(blocks.Text(), "%x %d", &at, &n); err != nil {
			return fmt.Errorf("profile: %q: %w", blocks.Text(), err)
		}
		name := "before virtual addresses"
		if i, found := slices.BinarySearchFunc(functions, at, func(x function, at uint64) int {
			if x.at < at {
				return -1
			}
			if x.at > at {
				return 1
			}
			return 0
		}); found {
			name = functions[i].name
		} else if i > 0 {
			name = functions[i-1].name
		}
		sums[name] += n
	}
	names := make([]string, 0, len(sums))
	for name := range sums {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return int(sums[y]) - int(sums[x]) })
	for _, name := range names[:min(10, len(names))] {
		fmt.Fprintf(b.out, "  %5.2f M  %s\n", float64(sums[name])/1e6, name)
	}
	return nil
}
