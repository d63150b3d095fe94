// Command bench measures stile, and in the same run what one sets up by hand for
// the same end: QEMU's microvm with Debian's cloud kernel, the same root file
// system, sshd and C virtiofsd, on the same accelerator, with as many vCPUs and
// as much memory. Both take turns, so that what else the machine does meets both.
//
//	make bench
//	make bench BENCH='-rows cold,warm -warms 50'
//	make bench BENCH=-lane
//
// The last is stile on its own engine, in the nested lane (testdata/lane); there
// the row engine compares that engine alone with QEMU on the same KVM. Its reads
// of the disk are testdata/bench/guest's own, fio having no place in an initramfs.
//
// The aims are printed and not asserted: times have noise. It needs root, for
// virtiofsd, and leaves nothing running and nothing behind but the peer's image
// in the cache.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type bench struct {
	ctx    context.Context
	out    io.Writer
	sides  [2]side // stile and the peer, either may be nil
	bin    string  // folder of stile's programs
	source string  // stile's checkout
	cache  string  // $XDG_CACHE_HOME
	image  string  // folder of the peer's image, empty without the peer
	work   string  // of this run
	distro string  // archive of a distro, empty: it is installed
	guest  string  // program of testdata/bench/guest, empty: it is compiled

	colds, warms, pipes, repeats, starts int
	size                                 int64
	trimmed                              int // MiB
	rounds                               int
	restTime                             time.Duration

	accel        string
	cpus, memory int    // vCPUs and MiB
	timeout      string // of the peer's FUSE entries and attributes, in seconds
}

func main() {
	if len(os.Args) == 5 && os.Args[1] == aloneCommand {
		if err := runAlone(context.Background(), os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := parse(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func parse(ctx context.Context) error {
	var names []string
	var about strings.Builder
	for _, r := range rows {
		names = append(names, r.name)
		fmt.Fprintf(&about, "\n%-8s %s", r.name, r.about)
	}
	b := &bench{ctx: ctx, out: os.Stdout}
	chosen := flag.String("rows", "", "what to measure, with commas; without a KVM all but engine:"+about.String())
	only := flag.String("only", "", "measure one `side`: stile or peer")
	flag.StringVar(&b.bin, "bin", "bin", "`folder` of stile, shim and guestinit")
	flag.IntVar(&b.colds, "colds", 5, "cold starts of each side")
	flag.IntVar(&b.warms, "warms", 200, "warm commands of each side")
	flag.IntVar(&b.pipes, "pipes", 1, "runs of each pipe")
	flag.IntVar(&b.repeats, "repeats", 3, "runs of each row about files")
	flag.IntVar(&b.starts, "starts", 200, "starts of the shim")
	flag.Int64Var(&b.size, "size", 1<<30, "`bytes` through each pipe")
	flag.IntVar(&b.trimmed, "trimmed", large, "`MiB` of the file that is written and removed")
	flag.DurationVar(&b.restTime, "rest", 10*time.Second, "`time` that the machine of the row rest is left alone")
	flag.IntVar(&b.rounds, "rounds", 2000, "requests and round trips of a guest of the row engine")
	flag.StringVar(&b.accel, "accel", "tcg", "the accelerator of both: tcg (stile's engine qemu) or kvm (kvm)")
	flag.IntVar(&b.cpus, "cpus", runtime.NumCPU(), "vCPUs of each machine")
	flag.IntVar(&b.memory, "memory", 2048, "`MiB` of each machine")
	flag.StringVar(&b.distro, "distro", "", "`archive` of a distro's folder, to be used and not one installed (make test keeps one)")
	flag.StringVar(&b.guest, "guest", "", "compiled `program` of testdata/bench/guest, where there is no compiler")
	flag.StringVar(&b.work, "work", "/var/tmp", "`folder` to work in, not in memory; its path is short, for sockets lie in it")
	flag.StringVar(&b.timeout, "timeout", "1", "the peer's FUSE timeouts in `seconds`: by default those of vmm/fileserver")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *chosen == "" {
		if b.accel != "kvm" {
			names = slices.DeleteFunc(names, func(n string) bool { return n == "engine" })
		}
		*chosen = strings.Join(names, ",")
	}
	list, err := find(*chosen)
	if err != nil {
		return err
	}
	if *only != "" && *only != "stile" && *only != "peer" {
		return fmt.Errorf("-only %s: stile or peer", *only)
	}
	if b.accel != "tcg" && b.accel != "kvm" {
		return fmt.Errorf("-accel %s: tcg or kvm", b.accel)
	}
	for _, n := range []int{b.colds, b.warms, b.pipes, b.repeats, b.starts, b.trimmed, b.rounds, int(b.restTime), b.cpus, b.memory, int(b.size)} {
		if n < 1 {
			return errors.New("a count or size is less than one")
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("it needs root: the peer's virtiofsd does")
	}
	return b.run(list, *only)
}

// find returns the named rows, in the order in which they are measured.
func find(chosen string) ([]row, error) {
	var list []row
	wanted := strings.Split(chosen, ",")
	for _, r := range rows {
		if i := slices.Index(wanted, r.name); i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
			list = append(list, r)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("-rows: there is no %q", wanted[0])
	}
	return list, nil
}

// run prepares both sides and measures the rows.
func (b *bench) run(list []row, only string) (err error) {
	if b.source, err = os.Getwd(); err != nil {
		return err
	}
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.cache, err = os.UserCacheDir(); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp(b.work, "stile-bench."); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	sides := slices.ContainsFunc(list, func(r row) bool { return !r.alone })
	if sides && only != "peer" {
		s, err := b.newStile()
		if err != nil {
			return err
		}
		b.sides[0] = s
	}
	if sides && only != "stile" {
		p, err := b.newPeer()
		if err != nil {
			return err
		}
		b.sides[1] = p
	}
	running := false
	stop := func() error {
		if !running {
			return nil
		}
		running = false
		return b.each(side.stop)
	}
	defer func() { err = errors.Join(err, stop()) }()

	fmt.Fprintf(b.out, "%s, %d vCPUs, %d MiB\n", b.accel, b.cpus, b.memory)
	header(b.out)
	for _, r := range list {
		if r.running && !running {
			running = true // a part of it, at least: stop ends what there is
			if err := b.each(func(s side) error { _, err := s.boot(b.ctx); return err }); err != nil {
				return err
			}
		}
		if !r.running {
			if err := stop(); err != nil {
				return err
			}
		}
		if err := r.measure(b); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// each does something with both sides that take part.
func (b *bench) each(do func(side) error) error {
	var errs []error
	for _, s := range b.sides {
		if s == nil {
			continue
		}
		if err := do(s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name(), err))
		}
	}
	return errors.Join(errs...)
}
