package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/kernel"
	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/child"
)

const qemu = "qemu-system-x86_64"

// A launch is how L1 is to be started.
type launch struct {
	kernel  string // path of L1's kernel, or ""
	cpus    int
	memory  string
	icount  bool
	timeout time.Duration
}

// run starts L1 for one request and returns its answer.
func (l *launch) run(r *request) (*answer, error) {
	image, err := l.findKernel()
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath(qemu)
	if err != nil {
		return nil, fmt.Errorf("%s is not installed", qemu)
	}
	params, accel, err := l.timing()
	if err != nil {
		return nil, err
	}
	initramfs, err := makeInitramfs(r)
	if err != nil {
		return nil, err
	}
	defer initramfs.Close()
	log, err := memfd("console")
	if err != nil {
		return nil, err
	}
	defer log.Close()

	extra := []*os.File{initramfs, log}
	args := append(accel,
		"-M", "microvm,acpi=off,x-option-roms=off,rtc=on,pit=off,pic=off,isa-serial=on", "-cpu", "max,xsave=off", "-m", l.memory, "-smp", strconv.Itoa(l.cpus),
		"-global", "virtio-mmio.force-legacy=false",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", image, "-initrd", "/proc/self/fd/3",
		// The kernel's own words, for when L1 fails.
		"-chardev", "file,id=console,path=/proc/self/fd/4,append=on", "-serial", "chardev:console",
		"-append", strings.Join(append(params, "console=ttyS0", "quiet", "panic=-1", "reboot=t", "swiotlb=noforce", "maxcpus=1"), " "), // init starts the others
		"-fsdev", "local,id=host,path=/,security_model=none,multidevs=remap", "-device", "virtio-9p-device,fsdev=host,mount_tag=host",
		"-device", "virtio-rng-device",
		"-device", "virtio-serial-device")
	var conns [ports]*net.UnixConn
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		for _, f := range extra[2:] {
			f.Close()
		}
	}()
	for port := portStdin; port < ports; port++ {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		conns[port] = ours
		extra = append(extra, theirs)
		args = append(args, "-chardev", fmt.Sprintf("socket,id=port%d,fd=%d", port, 2+len(extra)),
			"-device", fmt.Sprintf("virtserialport,chardev=port%d,nr=%d", port, port))
	}

	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = extra
	p, err := child.Start(cmd)
	if err != nil {
		return nil, err
	}
	for _, f := range extra[2:] {
		f.Close() // QEMU's; conns see its end
	}
	defer p.Kill()
	defer relaySignals(conns[portControl])()

	go func() {
		// It ends with this process: what is read from a terminal can't be
		// given back.
		io.Copy(conns[portStdin], os.Stdin)
		conns[portStdin].CloseWrite()
	}()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(os.Stdout, conns[portStdout]) })
	wg.Go(func() { io.Copy(os.Stderr, conns[portStderr]) })
	var reply []byte
	wg.Go(func() { reply, _ = io.ReadAll(conns[portControl]) }) // short where QEMU died
	select {
	case <-p.Done():
	case <-time.After(l.timeout):
		p.Kill()
		err = fmt.Errorf("not done after %v", l.timeout)
	}
	wg.Wait()
	if err = errors.Join(err, p.Err()); err == nil {
		a := new(answer)
		if err = json.Unmarshal(reply, a); err == nil {
			return a, nil
		}
		err = errors.New("L1 ended without an answer")
	}
	if b, _ := io.ReadAll(io.NewSectionReader(log, 0, 1<<20)); len(b) > 0 {
		err = fmt.Errorf("%w; its console:\n%s", err, bytes.TrimSpace(b))
	}
	return nil, err
}

func (l *launch) findKernel() (string, error) {
	if l.kernel != "" {
		return l.kernel, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return kernel.L1.Find(filepath.Join(cache, "stile"))
}

// timing is how L1 learns how fast its clocks run. It must: KVM in L1 hangs
// where the TSC was not calibrated, and there is nothing to do it by.
func (l *launch) timing() (params, accel []string, err error) {
	khz := 1000000 // with -icount a nanosecond an instruction
	accel = []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"}
	if !l.icount {
		accel = []string{"-accel", "tcg,thread=multi"}
		if khz, err = hostTSC(); err != nil {
			return nil, nil, err
		}
	}
	return []string{"tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", khz), "lapic_khz=1000000"}, accel, nil
}

// hostTSC is the frequency of the host's time stamp counter, which TCG hands
// through, in kHz: the kernel computes bogomips from it.
func hostTSC() (int, error) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "bogomips" {
			mips, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err == nil && mips > 0 {
				return int(mips*1000/2 + 0.5), nil
			}
		}
	}
	return 0, errors.New("/proc/cpuinfo does not say how fast the time stamp counter runs")
}

// relaySignals passes this process's signals on to the command, until stop is
// called: SIGQUIT makes a Go test show where it hangs.
func relaySignals(control io.Writer) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	go func() {
		for s := range signals {
			control.Write([]byte{byte(s.(syscall.Signal))}) // fails where L1 has ended
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// makeInitramfs packs this program, as init, and its request.
func makeInitramfs(r *request) (*os.File, error) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	f, err := memfd("initramfs")
	if err != nil {
		return nil, err
	}
	err = boot.WriteInitramfs(f, []boot.File{
		{Name: "dev", Mode: boot.TypeDir | 0o755},
		{Name: "dev/console", Mode: boot.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "host", Mode: boot.TypeDir | 0o755},
		{Name: "copy", Mode: boot.TypeDir | 0o755},
		{Name: "init", Mode: boot.TypeFile | 0o755, Body: program},
		{Name: requestPath[1:], Mode: boot.TypeFile | 0o600, Body: body},
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func memfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// socketPair returns a connection and the file of its other end.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}
