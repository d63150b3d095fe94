package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stilehq/stile/vmm/virtio/vsock"
)

// engine compares the engine kvm alone with QEMU's microvm on the same KVM: same
// kernel, initramfs and devices, one vCPU, whole processes. kvmtool is a third
// where there is one (no Debian has it as a package).
func (b *bench) engine() error {
	g, err := b.newGuests()
	if err != nil {
		return err
	}
	defer g.close()
	for _, measure := range []func(*guests) error{b.engineStart, b.enginePaths} {
		if err := measure(g); err != nil {
			return err
		}
	}
	return nil
}

// engineStart measures processes from their start to their end, of a guest that
// ends at once.
func (b *bench) engineStart(g *guests) error {
	var times [2][]time.Duration
	var first []time.Duration
	var exits map[string]uint64
	for i := range b.colds + 1 { // the first brings programs into memory
		cmd := g.alone()
		start := time.Now()
		out, err := output(cmd)
		took := time.Since(start)
		if err != nil {
			return err
		}
		var said aloneResult
		if err := json.Unmarshal([]byte(out), &said); err != nil {
			return fmt.Errorf("%s: %w: %s", cmd.Path, err, out)
		}
		exits = said.Exits
		peer, err := timed(g.qemu("do=off", g.disk))
		if err != nil {
			return err
		}
		if i > 0 {
			times[0] = append(times[0], took)
			times[1] = append(times[1], peer)
			first = append(first, time.Duration(said.Running-start.UnixNano()))
		}
	}
	b.add(result{what: fmt.Sprintf("boot to init and end, %d times; QEMU", b.colds), unit: milliseconds, aim: 1.5}, times, medianMS)
	b.add(result{what: "process to first KVM_RUN", unit: milliseconds}, [2][]time.Duration{first}, medianMS)
	total, kinds := summary(exits, nil)
	fmt.Fprintf(b.out, "%-34s %14d   (aim 400: %s)\n", "exits of that boot", total, kinds)
	if lkvm, err := exec.LookPath("lkvm"); err != nil {
		fmt.Fprintf(b.out, "%-34s %14s\n", "kvmtool", "not installed")
	} else {
		cmd := exec.CommandContext(b.ctx, lkvm, "run", "-c", "1", "-m", strconv.Itoa(g.memory>>20), "-k", g.kernel, "-i", g.initramfs, "-p", "do=off quiet", "--disk", g.disk)
		took, err := timed(cmd)
		if err != nil {
			return err
		}
		r := result{what: "boot to init and end; kvmtool", unit: milliseconds, value: medianMS(times[0]), peer: ms(took)}
		r.print(b.out)
	}
	return nil
}

// enginePaths measures what a guest and the host exchange, in one guest of each.
// The lane has time for few rounds.
func (b *bench) enginePaths(g *guests) error {
	ours, err := g.start()
	if err != nil {
		return err
	}
	defer ours.end()
	if _, err := roundTrips(ours.dev, 1); err != nil { // it is up
		return err
	}
	rounds := b.rounds
	for _, path := range []struct {
		what string
		do   func() error
	}{
		{"vsock round trip", func() error { _, err := roundTrips(ours.dev, rounds); return err }},
		{"block request", func() error { _, err := blockReads(ours.dev, rounds, 4096, 1); return err }},
		{"FUSE request", func() error { _, err := ask(ours.dev, fmt.Sprintf("stat %d", rounds), nil); return err }},
	} {
		before := ours.exits()
		if err := path.do(); err != nil {
			return fmt.Errorf("%s: %w", path.what, err)
		}
		n, kinds := summary(ours.exits(), before)
		fmt.Fprintf(b.out, "%-34s %14.3f   (of %d: %s)\n", "exits for each "+path.what, float64(n)/float64(rounds), rounds, kinds)
	}
	peer, err := g.startQEMU()
	if err != nil {
		return err
	}
	defer peer.end()
	labs := []*lab{ours, peer}
	both := func(r result, n int, measure func(*vsock.Device) (float64, error)) error {
		var values [2][]float64
		for range n {
			for i, l := range labs {
				v, err := measure(l.dev)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", r.what, l.name, err)
				}
				values[i] = append(values[i], v)
			}
		}
		r.value, r.peer = median(values[0]), median(values[1])
		r.print(b.out)
		return nil
	}
	if err := both(result{what: "vsock round trip; QEMU, our device", unit: microseconds}, b.repeats, func(d *vsock.Device) (float64, error) {
		took, err := roundTrips(d, rounds)
		return us(took) / float64(rounds), err
	}); err != nil {
		return err
	}
	size := rounds * 32 << 10
	for _, way := range []struct {
		what string
		move func(*vsock.Device, int) error
	}{{"to the guest", sink}, {"to the host", source}} {
		if err := both(result{what: fmt.Sprintf("vsock, %.1f MiB %s", float64(size)/(1<<20), way.what), unit: megabytesPerS, better: higher}, b.repeats, func(d *vsock.Device) (float64, error) {
			start := time.Now()
			err := way.move(d, size)
			return float64(size) / 1e6 / time.Since(start).Seconds(), err
		}); err != nil {
			return err
		}
	}
	for _, read := range []struct {
		what           string
		n, size, depth int
	}{
		{"4 KiB random reads, depth 1", rounds, 4 << 10, 1},
		{"4 KiB random reads, depth 32", 4 * rounds, 4 << 10, 32},
		{"1 MiB reads in a row", max(rounds/16, 4), 1 << 20, 1},
	} {
		if err := both(result{what: read.what, unit: megabytesPerS, better: higher, aim: 1}, b.repeats, func(d *vsock.Device) (float64, error) {
			took, err := blockReads(d, read.n, read.size, read.depth)
			return float64(read.n*read.size) / 1e6 / took.Seconds(), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// summary is how many exits there are more than before, and of what kinds.
func summary(exits, before map[string]uint64) (total uint64, kinds string) {
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(exits)) {
		if n := exits[kind] - before[kind]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, kind))
			total += n
		}
	}
	return total, strings.Join(list, ", ")
}

func microseconds(v float64) string { return fmt.Sprintf("%.0f µs", v) }
func us(d time.Duration) float64    { return float64(d) / float64(time.Microsecond) }

// guestPort is where testdata/bench/guest listens.
const guestPort = 1000

// ask sends a guest a line and what do writes, and returns its answer.
func ask(dev *vsock.Device, line string, do func(*vsock.Conn) error) (string, error) {
	c, err := dial(dev)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	if do != nil {
		if err := do(c); err != nil {
			return "", err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if err == nil && len(b) == 0 {
		err = errors.New("the guest could not")
	}
	return string(b), err
}

func roundTrips(dev *vsock.Device, n int) (took time.Duration, err error) {
	_, err = ask(dev, "echo", func(c *vsock.Conn) error {
		b := make([]byte, 1)
		start := time.Now()
		for i := range n + 1 {
			if i == 1 {
				start = time.Now() // the first wakes everybody
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, b); err != nil {
				return err
			}
		}
		took = time.Since(start)
		_, err := c.Write(b) // ask wants an answer
		return err
	})
	return took, err
}

func sink(dev *vsock.Device, size int) error {
	got, err := ask(dev, "sink", func(c *vsock.Conn) error {
		for left := size; left > 0; {
			n, err := c.Write(pattern[:min(left, len(pattern))])
			if err != nil {
				return err
			}
			left -= n
		}
		return nil
	})
	if err == nil && got != strconv.Itoa(size) {
		err = fmt.Errorf("the guest read %q bytes", got)
	}
	return err
}

func source(dev *vsock.Device, size int) error {
	c, err := dial(dev)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "source %d\n", size); err != nil {
		return err
	}
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, bufio.NewReaderSize(c, 1<<20))
	if err == nil && n != int64(size) {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

// blockReads has the guest read its disk, by its own clock.
func blockReads(dev *vsock.Device, n, size, depth int) (time.Duration, error) {
	out, err := ask(dev, fmt.Sprintf("read %d %d %d", n, size, depth), nil)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(out, 10, 64)
	return time.Duration(ns), err
}

// removeAll is for what a row made; the first error counts.
func removeAll(paths ...string) (err error) {
	for _, p := range paths {
		err = errors.Join(err, os.RemoveAll(p))
	}
	return err
}
