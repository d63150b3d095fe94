package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// A row measures one thing and prints its lines.
type row struct {
	name, about string
	running     bool // both machines have to run
	measure     func(b *bench) error
	alone       bool // it needs neither side, but a KVM
}

var rows = []row{
	{name: "cold", about: "a command with nothing running, to its first output byte", measure: (*bench).cold},
	{name: "warm", about: "true in a running machine, against ssh over a shared connection", running: true, measure: (*bench).warm},
	{name: "pipe", about: "bytes through stdin, stdout, and both", running: true, measure: (*bench).pipe},
	{name: "files", about: "find, git status, tar x and random reads in a shared folder", running: true, measure: (*bench).files},
	{name: "memory", about: "resident memory of all processes, without the guest's", running: true, measure: (*bench).resident},
	{name: "rest", about: "guest memory on the host after a large file was read and some rest", measure: (*bench).rest},
	{name: "trim", about: "blocks of the host's disk after a large file was written and removed", measure: (*bench).trim},
	{name: "insns", about: "instructions of a boot, without noise; on the engine qemu, where TCG counts them", measure: (*bench).insns},
	{name: "import", about: "a root file system from an archive", measure: (*bench).imports},
	{name: "start", about: "the shim's own start, against /bin/true", measure: (*bench).start},
	{name: "sizes", about: "bytes of what is started", measure: (*bench).sizes},
	{name: "engine", about: "the engine kvm alone against QEMU on the same KVM: start, exits, vsock, disk", alone: true, measure: (*bench).engine},
}

// both measures something on each side in turn, n times, and returns the times.
// A side that does not take part has none.
func (b *bench) both(n int, measure func(side) (time.Duration, error)) (values [2][]time.Duration, err error) {
	for range n {
		for i, s := range b.sides {
			if s == nil {
				continue
			}
			took, err := measure(s)
			if err != nil {
				return values, fmt.Errorf("%s: %w", s.name(), err)
			}
			values[i] = append(values[i], took)
		}
	}
	return values, nil
}

// add prints a line of the values that a summary makes of both sides' times.
func (b *bench) add(r result, times [2][]time.Duration, summary func([]time.Duration) float64) {
	if len(times[0]) > 0 {
		r.value = summary(times[0])
	}
	if len(times[1]) > 0 {
		r.peer = summary(times[1])
	}
	r.print(b.out)
}

func medianMS(d []time.Duration) float64 { return ms(median(d)) }

func (b *bench) cold() error {
	times, err := b.both(b.colds, func(s side) (time.Duration, error) {
		took, err := s.boot(b.ctx)
		if err != nil {
			return 0, err
		}
		return took, s.stop()
	})
	if err != nil {
		return err
	}
	b.add(result{what: "cold start to first byte", unit: milliseconds, aim: 3}, times, medianMS)
	return nil
}

func (b *bench) warm() error {
	times, err := b.both(b.warms, func(s side) (time.Duration, error) {
		return timed(s.command(b.ctx, "true"))
	})
	if err != nil {
		return err
	}
	for _, q := range []float64{0.5, 0.99} {
		r := result{what: fmt.Sprintf("warm true, p%g of %d", q*100, b.warms), unit: milliseconds, aim: 2}
		b.add(r, times, func(d []time.Duration) float64 { return ms(quantile(d, q)) })
	}
	return nil
}

// pattern is what goes through pipes: 1 MiB of bytes that no compression and no
// lost piece would leave as they are.
var pattern = func() []byte {
	p := make([]byte, 1<<20)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}()

// feed writes size bytes of the pattern, repeated.
func feed(w io.WriteCloser, size int64) error {
	for size > 0 {
		n, err := w.Write(pattern[:min(int64(len(pattern)), size)])
		if err != nil {
			return errors.Join(err, w.Close())
		}
		size -= int64(n)
	}
	return w.Close()
}

// sums are the byte count and checksum of what is read.
func sums(r io.Reader) (int64, uint32, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return n, h.Sum32(), err
}

func (b *bench) pipe() error {
	want := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	r, w := io.Pipe()
	go func() { _ = feed(w, b.size) }() // fails with the reader, who says so
	if _, err := io.Copy(want, r); err != nil {
		return err
	}
	for _, through := range []struct {
		what    string
		measure func(side) (time.Duration, error)
	}{
		{"stdin", func(s side) (time.Duration, error) {
			cmd := s.shell(b.ctx, "wc -c")
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			took, err := fed(cmd, b.size, nil)
			if got := string(bytes.TrimSpace(out.Bytes())); err == nil && got != strconv.FormatInt(b.size, 10) {
				err = fmt.Errorf("the guest counts %q bytes of %d", got, b.size)
			}
			return took, join(err, &errs)
		}},
		{"stdout", func(s side) (time.Duration, error) {
			cmd := s.shell(b.ctx, fmt.Sprintf("head -c %d /dev/zero", b.size))
			return drained(cmd, func(n int64, _ uint32) error {
				if n != b.size {
					return fmt.Errorf("%d bytes arrived of %d", n, b.size)
				}
				return nil
			})
		}},
		{"stdin to stdout", func(s side) (time.Duration, error) {
			cmd := s.command(b.ctx, "cat")
			return fed(cmd, b.size, func(n int64, sum uint32) error {
				if n != b.size || sum != want.Sum32() {
					return fmt.Errorf("%d bytes arrived of %d, with checksum %08x instead of %08x", n, b.size, sum, want.Sum32())
				}
				return nil
			})
		}},
	} {
		times, err := b.both(b.pipes, through.measure)
		if err != nil {
			return fmt.Errorf("%s: %w", through.what, err)
		}
		r := result{what: fmt.Sprintf("%d MiB through %s", b.size>>20, through.what), unit: megabytesPerS, better: higher, aim: 3}
		b.add(r, times, func(d []time.Duration) float64 { return float64(b.size) / 1e6 / median(d).Seconds() })
	}
	return nil
}

func join(err error, stderr *bytes.Buffer) error {
	if err != nil && stderr.Len() > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return err
}

// fed runs a command with size bytes on its stdin, through a pipe as a shell
// makes it; check, if there is one, gets what came out.
func fed(cmd *exec.Cmd, size int64, check func(int64, uint32) error) (time.Duration, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cmd.Stdin = r
	written := make(chan error, 1)
	go func() { written <- feed(w, size) }()
	var took time.Duration
	if check == nil {
		start := time.Now()
		err = cmd.Run()
		took = time.Since(start)
	} else {
		took, err = drained(cmd, check)
	}
	r.Close() // a writer that nobody reads from ends
	return took, errors.Join(err, <-written)
}

// drained runs a command and checks what it prints.
func drained(cmd *exec.Cmd, check func(int64, uint32) error) (time.Duration, error) {
	var errs bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd.Stdout = w
	start := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	n, sum, readErr := sums(r)
	err = errors.Join(cmd.Wait(), readErr)
	took := time.Since(start)
	if err != nil {
		return 0, join(err, &errs)
	}
	return took, check(n, sum)
}

func (b *bench) files() error {
	for _, s := range b.sides {
		if s == nil {
			continue
		}
		if err := writeFiles(b.ctx, s.folder(), b.source); err != nil {
			return err
		}
		// The index knows the files as this side shows them.
		if err := run(s.shell(b.ctx, "cd "+s.folder()+"/repo && git status")); err != nil {
			return err
		}
	}
	for _, op := range []struct{ what, before, line, want string }{
		{"find, " + strconv.Itoa(treeDirs*treeFiles) + " files", "", "find repo -name 'file*' | wc -l", strconv.Itoa(treeDirs * treeFiles)},
		{"git status of them", "", "cd repo && git status --short", ""},
		{"tar x, " + strconv.Itoa(tarFiles) + " files", "rm -rf out; mkdir out", "tar -x -C out -f small.tar && ls out | wc -l", strconv.Itoa((tarFiles + 49) / 50)},
		{strconv.Itoa(randomReads) + " random reads of 4 KiB", "", "./randread random " + strconv.Itoa(randomReads) + " >sum && wc -l <sum", "1"},
	} {
		times, err := b.both(b.repeats, func(s side) (time.Duration, error) {
			cd := "cd " + s.folder() + " && "
			before := op.before
			if before == "" {
				before = ":"
			}
			if err := run(s.shell(b.ctx, cd+before+"; sync; echo 3 >/proc/sys/vm/drop_caches")); err != nil {
				return 0, err
			}
			start := time.Now()
			got, err := output(s.shell(b.ctx, cd+op.line))
			took := time.Since(start)
			if err == nil && got != op.want {
				err = fmt.Errorf("%s prints %q, want %q", op.line, got, op.want)
			}
			return took, err
		})
		if err != nil {
			return err
		}
		b.add(result{what: op.what, unit: milliseconds, aim: 1}, times, medianMS)
	}
	return nil
}

func (b *bench) resident() error {
	r := result{what: "resident, without guest memory", unit: megabytes}
	for i, s := range b.sides {
		if s == nil {
			continue
		}
		pids, err := s.pids()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
		var sum uint64
		for _, pid := range pids {
			n, err := pss(pid, uint64(b.memory)<<20)
			if err != nil {
				return err
			}
			fmt.Fprintf(b.out, "  %-8s %-24s %s\n", s.name(), program(pid), megabytes(float64(n)/1e6))
			sum += n
		}
		if i == 0 {
			r.value = float64(sum) / 1e6
		} else {
			r.peer = float64(sum) / 1e6
		}
	}
	r.print(b.out)
	return nil
}

// imports measures how fast an archive becomes a distro, against mke2fs -d of
// its unpacked files, which is the way by hand.
func (b *bench) imports() error {
	archives, err := filepath.Glob(filepath.Join(b.cache, "stile/rootfs/debian-*.tar.zst"))
	if err != nil {
		return err
	}
	if len(archives) == 0 {
		return errors.New("there is no root file system in the cache: stile install debian makes one")
	}
	archive := filepath.Join(b.work, "rootfs.tar")
	if err := run(exec.CommandContext(b.ctx, "zstd", "-q", "-d", "-f", archives[0], "-o", archive)); err != nil {
		return err
	}
	defer os.Remove(archive)
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	r := result{what: fmt.Sprintf("import of %.0f MB", float64(info.Size())/1e6), unit: megabytesPerS, better: higher}
	speed := func(d time.Duration) float64 { return float64(info.Size()) / 1e6 / d.Seconds() }
	if s, ok := b.sides[0].(*stile); ok {
		took, err := timed(s.stile(b.ctx, "import", "imported", archive))
		if err != nil {
			return err
		}
		if err := run(s.stile(b.ctx, "remove", "imported")); err != nil {
			return err
		}
		r.value = speed(took)
	}
	if b.sides[1] != nil {
		dir := filepath.Join(b.work, "imported")
		defer os.RemoveAll(dir)
		took, err := timed(exec.CommandContext(b.ctx, "bash", "-euc", `
			mkdir -p "$1/root"
			tar -C "$1/root" --numeric-owner --xattrs -xpf "$2"
			mke2fs -q -F -t ext4 -d "$1/root" "$1/disk.img" 8G`, "bash", dir, archive))
		if err != nil {
			return err
		}
		r.peer = speed(took)
	}
	r.print(b.out)
	return nil
}

// start compares a shim that finds it has no link, and says so, with /bin/true.
func (b *bench) start() error {
	shim := filepath.Join(b.bin, "shim")
	var times [2][]time.Duration
	for range b.starts {
		for i, path := range []string{shim, "/bin/true"} {
			cmd := exec.CommandContext(b.ctx, path)
			start := time.Now()
			err := cmd.Run()
			times[i] = append(times[i], time.Since(start))
			var exit *exec.ExitError
			if i == 0 && (!errors.As(err, &exit) || exit.ExitCode() != 125) {
				return fmt.Errorf("a shim with no link ended with %w, not 125", err)
			}
			if i == 1 && err != nil {
				return err
			}
		}
	}
	b.add(result{what: fmt.Sprintf("shim's start, p50 of %d; /bin/true", b.starts), unit: milliseconds}, times, medianMS)
	return nil
}

func (b *bench) sizes() error {
	kernel, err := output(exec.CommandContext(b.ctx, "go", "run", "./kernel/build", "-path"))
	if err != nil {
		return err
	}
	size := func(paths ...string) (float64, error) {
		sum := 0.0
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				return 0, err
			}
			sum += float64(info.Size()) / 1e6
		}
		return sum, nil
	}
	in := func(dir string, names ...string) (paths []string) {
		for _, name := range names {
			paths = append(paths, filepath.Join(dir, name))
		}
		return paths
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		return err
	}
	for _, line := range []struct {
		what        string
		stile, peer []string
	}{
		{"kernel and initramfs", append(in(b.bin, "guestinit"), kernel), in(b.image, "vmlinux", "initrd")},
		{"shim; ssh", in(b.bin, "shim"), []string{ssh}},
		{"stile; virtiofsd", in(b.bin, "stile"), []string{virtiofsdProgram}},
	} {
		r := result{what: line.what, unit: megabytes}
		if r.value, err = size(line.stile...); err != nil {
			return err
		}
		if b.image != "" {
			if r.peer, err = size(line.peer...); err != nil {
				return err
			}
		}
		r.print(b.out)
	}
	return nil
}
