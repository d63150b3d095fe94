package machine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/broker"
	"github.com/stilehq/stile/machine/vmmproc"
	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/child"
	"github.com/stilehq/stile/vmm/kvm"
	"github.com/stilehq/stile/vmm/qemu"
)

// A spec is what it takes to start a virtual machine.
type spec struct {
	engine    distro.Engine
	stile     string // path of the stile binary
	kernel    string // path of vmlinux
	guestInit []byte
	disk      *os.File // locked; stays the caller's
	console   *os.File // stays the caller's
	cpus      int
	memory    uint64
	guest     guest.Config // Generation and Time are filled in
	hidden    []string     // folders that no share shows
	links     string       // folder of the links
	// authorize is nil where the guest can't call commands of the host.
	authorize func(context.Context, *wire.Run) (*broker.Command, *wire.Error)
	input     *os.File   // for guest.ModeImport: the tar stream; stays the caller's
	stalled   func(bool) // see vmm.Config, for the qemu engine; the kvm engine's is an event
}

// A vm is the processes of one virtual machine: the vmm process, and QEMU where
// that is the engine.
type vm struct {
	qemu  *qemu.Process // nil with the kvm engine, whose machine is in the vmm process
	vmm   *child.Process
	serve *net.UnixConn // sessions to the vmm process, events from it
	calls *call.Client  // to the vmm process
	// streams is where the vmm process asks for connections to the broker.
	streams *net.UnixConn
	// gateway is the one who writes to serve.
	gateway *session.Gateway
	console *os.File // the spec's
}

// startVM starts both processes and returns when the vmm process serves its
// devices; the guest is booting then.
func startVM(ctx context.Context, s *spec) (_ *vm, err error) {
	v := &vm{console: s.console}
	defer func() {
		if err != nil {
			v.kill()
		}
	}()
	kernel, err := os.Open(s.kernel)
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	defer kernel.Close()
	s.guest.Generation = generation()
	s.guest.Time = time.Now().UnixNano()
	initramfs, err := makeInitramfs(s.guestInit, &s.guest)
	if err != nil {
		return nil, err
	}
	defer initramfs.Close()

	files, err := v.engineFiles(s, kernel, initramfs)
	for _, f := range files.close {
		defer f.Close()
	}
	if err != nil {
		return nil, err
	}
	if err := v.startVMM(s, files.pass); err != nil {
		return nil, err
	}
	var started vmmproc.Started
	err = v.calls.Do(ctx, vmmproc.CallStart, vmmproc.Config{
		Engine: string(s.engine), CPUs: s.cpus, Memory: s.memory,
		Guest: s.guest, Hidden: s.hidden, Links: s.links, Input: s.input != nil,
	}, &started)
	if started.Unconfined != "" {
		fmt.Fprintf(s.console, "stile: distro %s: the vmm process is not confined: %s\n", s.guest.Distro, started.Unconfined)
	}
	if errors.Is(err, call.ErrNoAnswer) {
		// The vmm process has ended, and said why, or is about to.
		select {
		case <-v.vmm.Done():
			err = cmp.Or(v.processError(), err)
		case <-time.After(reasonLimit):
		}
	}
	return v, err
}

// engineFiles are the descriptors that the vmm process gets for its engine, in
// the order that the engine names; of those that were made for it our copies are
// closed when it runs.
type engineFiles struct{ pass, close []*os.File }

// engineFiles gets them: with the qemu engine by starting QEMU.
func (v *vm) engineFiles(s *spec, kernel, initramfs *os.File) (f engineFiles, err error) {
	if s.engine == distro.EngineKVM {
		device, err := os.OpenFile(kvm.Device, os.O_RDWR, 0)
		if err != nil {
			return f, err
		}
		f.close = []*os.File{device}
		f.pass = []*os.File{
			vmmproc.FileKVM: device, vmmproc.FileKernel: kernel, vmmproc.FileInitramfs: initramfs,
			vmmproc.FileDisk: s.disk, vmmproc.FileConsole: s.console,
		}
		return f, nil
	}
	v.qemu, err = qemu.Launch(&vmm.Config{
		CPUs: s.cpus, Memory: s.memory,
		Kernel: kernel, Initramfs: initramfs,
		Disk: s.disk, Console: s.console, Stalled: s.stalled,
	}, guest.ShareTag)
	if err != nil {
		return f, err
	}
	f.pass, f.close = v.qemu.Sockets, v.qemu.Sockets
	return f, nil
}

// guestGone is closed when the process that has the guest's vCPUs has ended.
func (v *vm) guestGone() <-chan struct{} {
	if v.qemu != nil {
		return v.qemu.Done()
	}
	return v.vmm.Done()
}

// startVMM starts `stile vmm` with the descriptors that vmmproc.Main expects.
func (v *vm) startVMM(s *spec, engine []*os.File) error {
	cmd := exec.Command(s.stile, vmmproc.Command)
	var err error
	conn := func() net.Conn {
		var c net.Conn
		var theirs *os.File
		if err != nil {
			return nil
		}
		if c, theirs, err = socketPair(); err != nil {
			return nil
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
		return c
	}
	serve, calls, streams := conn(), conn(), conn()
	defer func() {
		for _, f := range cmd.ExtraFiles[:min(3, len(cmd.ExtraFiles))] {
			f.Close() // theirs; the others are not ours to close
		}
	}()
	if err != nil {
		return err
	}
	v.serve, v.calls = serve.(*net.UnixConn), call.NewClient(calls)
	v.streams = streams.(*net.UnixConn)
	v.gateway = session.NewGateway(v.serve)
	cmd.ExtraFiles = append(cmd.ExtraFiles, engine...)
	if s.input != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.input)
	}
	v.vmm, err = child.Start(cmd)
	return err
}

// kill ends both processes at once and returns when they have gone.
func (v *vm) kill() {
	if v.qemu != nil {
		v.qemu.Kill()
	}
	if v.vmm != nil {
		v.vmm.Kill()
	}
	if v.serve != nil {
		v.serve.Close()
		v.calls.Close()
		v.streams.Close()
	}
}

// resident is the host memory in bytes that both processes hold.
func (v *vm) resident() (n uint64) {
	if v.qemu != nil {
		n += resident(v.qemu.PID())
	}
	if v.vmm != nil {
		n += resident(v.vmm.PID())
	}
	return n
}

// socketPair returns a connection and the file of its other end.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	return conn, theirs, nil
}

// makeInitramfs packs guestinit and its configuration into a memfd.
func makeInitramfs(guestInit []byte, cfg *guest.Config) (*os.File, error) {
	body, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("guest configuration: %w", err)
	}
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create initramfs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	files := []boot.File{
		{Name: "dev", Mode: boot.TypeDir | 0o755},
		{Name: "dev/console", Mode: boot.TypeChar | 0o600, Major: 5, Minor: 1},
		// A program in Go opens it where it lacks a standard descriptor, or dies.
		{Name: "dev/null", Mode: boot.TypeChar | 0o666, Major: 1, Minor: 3},
		{Name: "proc", Mode: boot.TypeDir | 0o755},
		{Name: "sys", Mode: boot.TypeDir | 0o755},
		{Name: "run", Mode: boot.TypeDir | 0o755},
		{Name: "distro", Mode: boot.TypeDir | 0o755},
		{Name: "init", Mode: boot.TypeFile | 0o755, Body: guestInit},
		{Name: guest.ConfigPath[1:], Mode: boot.TypeFile | 0o600, Body: body},
	}
	if err := boot.WriteInitramfs(f, files); err != nil {
		f.Close()
		return nil, fmt.Errorf("write initramfs: %w", err)
	}
	return f, nil
}

// generation is a number that no other run of a machine has.
func generation() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:]) >> 1
}
