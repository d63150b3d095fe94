// Package qemu is the engine for hosts without a usable KVM: QEMU's microvm
// machine under TCG. QEMU has the vCPUs, the disk, the console and the random
// numbers; vsock and shares are our own devices, which the vmm process serves
// over vhost-user.
//
// The engine has two halves, for the vmm process executes nothing: Launch, in
// the supervisor, starts QEMU and returns the sockets of the devices; Engine, in
// the vmm process, serves those sockets.
package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/child"
)

// Binary is the name of QEMU's program for x86-64 guests.
const Binary = "qemu-system-x86_64"

// The order of the sockets in Process.Sockets and Engine's.
const (
	SocketVsock = iota
	SocketFS
	sockets
)

// cmdline is what this engine needs of the guest's kernel: a restart ends QEMU
// by triple fault (-no-reboot), where a power-off would not. Until its console
// is up a dying kernel's words go to a serial port that only they are written
// to. The bounce buffers of a guest with much memory are for devices that this
// one has not.
//
// One CPU boots, and guestinit starts the others: a kernel changes its code as
// it comes up (static keys), which TCG gets wrong before QEMU 8.1 when another
// CPU runs that code (fixed there by deba78709a, "Always lock pages before
// translation"). One boot of a hundred ended with an int3 that was there no
// more: "Fatal exception in interrupt".
var cmdline = []string{"reboot=t", "panic=-1", "quiet", "console=hvc0", "earlyprintk=ttyS0", "8250.nr_uarts=0", "swiotlb=noforce", "maxcpus=1"}

// A Process is a running QEMU.
type Process struct {
	*child.Process

	// Sockets are our ends of the vhost-user connections, for the vmm process.
	// The caller closes them.
	Sockets []*os.File

	monitor *monitor
}

// Find returns the path of QEMU. The error says what to install.
func Find() (string, error) {
	path, err := exec.LookPath(Binary)
	if err != nil {
		return "", fmt.Errorf("%s is not installed", Binary)
	}
	return path, nil
}

// Launch starts QEMU on cfg, whose Devices it ignores, with the virtio-fs tag
// that the device in the vmm process has. QEMU dies with the calling process.
// Descriptors of cfg stay the caller's.
func Launch(cfg *vmm.Config, fsTag string) (*Process, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	p := new(Process)
	var closers []*os.File // QEMU's ends, ours no more once it runs
	defer func() {
		for _, f := range closers {
			f.Close()
		}
	}()

	var extra []*os.File
	pass := func(f *os.File) string { // the descriptor's number in QEMU
		extra = append(extra, f)
		return strconv.Itoa(2 + len(extra))
	}
	socket := func(name string) (string, *os.File, error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", nil, fmt.Errorf("create socket pair: %w", err)
		}
		theirs := os.NewFile(uintptr(fds[1]), name)
		closers = append(closers, theirs)
		return pass(theirs), os.NewFile(uintptr(fds[0]), name), nil
	}

	// QEMU takes a descriptor only for the very access that it wants.
	console, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", cfg.Console.Fd()), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("open console log: %w", err)
	}
	closers = append(closers, console)

	machine, params := timing()
	params = append(append(params, cmdline...), cfg.Cmdline...)
	memory := strconv.FormatUint(cfg.Memory>>10, 10) + "K"
	args := []string{
		"-M", "microvm,x-option-roms=off,acpi=off,rtc=on,isa-serial=on,memory-backend=mem" + machine,
		"-accel", "tcg,thread=multi",
		"-cpu", "max", "-smp", strconv.Itoa(cfg.CPUs), "-m", memory,
		// Shared, so that the vmm process sees guest memory; a memfd takes host
		// memory page by page as the guest touches it.
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + memory,
		"-global", "virtio-mmio.force-legacy=false",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", "/proc/self/fd/" + pass(cfg.Kernel),
		"-initrd", "/proc/self/fd/" + pass(cfg.Initramfs),
		"-append", strings.Join(params, " "),
		"-add-fd", "set=1,fd=" + pass(cfg.Disk),
		// The image is locked by stile already, through the same open file. Where
		// there is no room for a write the guest is stopped (werror=enospc, the
		// default), and goes on when the monitor says so.
		"-blockdev", "driver=file,node-name=disk,filename=/dev/fdset/1,locking=off,discard=unmap",
		"-device", "virtio-blk-device,drive=disk",
		"-device", "virtio-rng-device",
		"-device", "virtio-balloon-device,free-page-reporting=on",
		"-add-fd", "set=2,fd=" + pass(console),
		"-chardev", "file,id=console,path=/dev/fdset/2,append=on",
		// With one port the driver has its console when it has probed the
		// device. Ports beyond that come by messages, and the kernel opened a
		// console for init that was only half there.
		"-device", "virtio-serial-device,max_ports=1", "-device", "virtconsole,chardev=console",
		"-chardev", "file,id=early,path=/dev/fdset/2,append=on", "-serial", "chardev:early",
	}
	for i, device := range []string{
		SocketVsock: "vhost-user-vsock-device,chardev=dev0",
		SocketFS:    "vhost-user-fs-device,chardev=dev1,queue-size=1024,tag=" + fsTag,
	} {
		fd, ours, err := socket("vhost-user")
		if err != nil {
			return nil, errors.Join(err, p.closeSockets())
		}
		p.Sockets = append(p.Sockets, ours)
		args = append(args, "-chardev", fmt.Sprintf("socket,id=dev%d,fd=%s", i, fd), "-device", device)
	}
	fd, qmp, err := socket("qmp")
	if err != nil {
		return nil, errors.Join(err, p.closeSockets())
	}
	args = append(args, "-chardev", "socket,id=qmp,fd="+fd, "-mon", "chardev=qmp,mode=control")

	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = extra
	if p.Process, err = child.Start(cmd); err != nil {
		return nil, errors.Join(err, p.closeSockets(), qmp.Close())
	}
	if p.monitor, err = newMonitor(qmp, cfg.Disk, cfg.Stalled); err != nil {
		p.Process.Kill()
		return nil, errors.Join(fmt.Errorf("QEMU's monitor: %w", err), p.closeSockets())
	}
	return p, nil
}

// Kill ends QEMU at once, however its guest fares, and waits until it has gone.
// QEMU writes out what it holds of the disk if it still answers. Kill may be
// called at any time, and again.
func (p *Process) Kill() {
	p.monitor.send("quit")
	select {
	case <-p.Done():
	case <-time.After(quitLimit):
	}
	p.Process.Kill()
	p.monitor.conn.Close()
}

// Err says, after Done, why QEMU ended: nil after a restart, which is the
// guest's way to end or to die, and after Kill.
func (p *Process) Err() error {
	if err := p.Process.Err(); err != nil {
		return err
	}
	return reasonError(p.monitor.reason())
}

// reasonError makes an error of QEMU's word for its end (ShutdownCause in
// qapi/run-state.json).
func reasonError(why string) error {
	switch why {
	case "guest-reset", "guest-shutdown", "host-qmp-quit":
		return nil
	case "host-signal":
		return errors.New("QEMU was ended by a signal")
	case "":
		return errors.New("QEMU ended and did not say why")
	}
	return fmt.Errorf("QEMU ended: %s", why)
}

func (p *Process) closeSockets() error {
	var err error
	for _, s := range p.Sockets {
		err = errors.Join(err, s.Close())
	}
	return err
}
