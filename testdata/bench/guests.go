package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/kernel"
	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/fileserver"
	"github.com/stilehq/stile/vmm/kvm"
	"github.com/stilehq/stile/vmm/vhostuser"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/fs"
	"github.com/stilehq/stile/vmm/virtio/vsock"
)

// guests is what the guests of the rows about engines are made of.
type guests struct {
	*bench
	kernel, initramfs, disk, share string // paths
	memory                         int    // bytes
}

const guestDisk = 256 << 20

// newGuests makes an initramfs of testdata/bench/guest and a disk of bytes that
// are no hole. -guest has the program where no compiler runs.
func (b *bench) newGuests() (*guests, error) {
	g := &guests{bench: b, initramfs: filepath.Join(b.work, "initramfs"), disk: filepath.Join(b.work, "guest.img"),
		share: filepath.Join(b.work, "guest-share"), memory: 512 << 20}
	var err error
	if g.kernel, err = b.kernelPath(); err != nil {
		return nil, err
	}
	program := b.guest
	if program == "" {
		program = filepath.Join(b.work, "guest")
		build := exec.CommandContext(b.ctx, "go", "build", "-ldflags", "-s -w", "-o", program, "./testdata/bench/guest")
		build.Dir, build.Env = b.source, append(os.Environ(), "CGO_ENABLED=0")
		if err := run(build); err != nil {
			return nil, err
		}
	}
	body, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	if err := boot.WriteInitramfs(&archive, []boot.File{
		{Name: "dev", Mode: boot.TypeDir | 0o755},
		{Name: "dev/console", Mode: boot.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: boot.TypeFile | 0o755, Body: body},
	}); err != nil {
		return nil, err
	}
	disk, err := os.Create(g.disk)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	for range guestDisk / len(pattern) {
		if _, err := disk.Write(pattern); err != nil {
			return nil, err
		}
	}
	return g, errors.Join(os.WriteFile(g.initramfs, archive.Bytes(), 0o600), os.Mkdir(g.share, 0o700))
}

func (g *guests) close() error { return removeAll(g.initramfs, g.disk, g.share) }

// aloneCommand is the word with which this program is a process that runs one
// guest on the engine kvm and nothing else.
const aloneCommand = "alone"

// aloneResult is what that process prints.
type aloneResult struct {
	Running int64 // when the vCPU was started, in ns since 1970
	Exits   map[string]uint64
}

func (g *guests) alone() *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return exec.CommandContext(g.ctx, self, aloneCommand, g.kernel, g.initramfs, g.disk)
}

// runAlone is that process.
func runAlone(ctx context.Context, kernel, initramfs, disk string) error {
	var files [3]*os.File
	for i, path := range []string{kernel, initramfs, disk} {
		f, err := os.OpenFile(path, []int{os.O_RDONLY, os.O_RDONLY, os.O_RDWR}[i], 0)
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	m, err := new(kvm.Engine).Start(ctx, &vmm.Config{CPUs: 1, Memory: 512 << 20, Kernel: files[0], Initramfs: files[1], Disk: files[2],
		Console: os.Stderr, Cmdline: []string{"do=off"}})
	if err != nil {
		return err
	}
	r := aloneResult{Running: time.Now().UnixNano()}
	err = m.Wait()
	r.Exits = m.Counts().Exits
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(r))
}

// qemu is QEMU with the devices that our engine has of its own.
func (g *guests) qemu(param, disk string, more ...string) *exec.Cmd {
	memory := fmt.Sprintf("%dM", g.memory>>20)
	cmd := exec.CommandContext(g.ctx, qemuProgram, append([]string{
		"-M", "microvm,x-option-roms=off,acpi=off,pit=off,pic=off,rtc=on,isa-serial=off,memory-backend=mem", "-accel", "kvm", "-cpu", "max", "-m", memory,
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + memory,
		"-global", "virtio-mmio.force-legacy=false", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", g.kernel, "-initrd", g.initramfs,
		"-append", "reboot=t panic=-1 quiet console=hvc0 tsc=reliable 8250.nr_uarts=0 swiotlb=noforce " + param,
		"-drive", "if=none,id=disk,format=raw,discard=unmap,file=" + disk, "-device", "virtio-blk-device,drive=disk",
		"-device", "virtio-rng-device", "-device", "virtio-balloon-device,free-page-reporting=on",
		"-chardev", "file,id=console,path=/dev/stderr", "-device", "virtio-serial-device,max_ports=1", "-device", "virtconsole,chardev=console",
	}, more...)...)
	dieWithUs(cmd)
	return cmd
}

// A lab is a running guest with a vsock of ours.
type lab struct {
	name  string
	dev   *vsock.Device
	exits func() map[string]uint64 // of the engine kvm
	end   func()
}

const labCID = 3

// start starts a guest on the engine kvm, in this process.
func (g *guests) start() (*lab, error) {
	server, err := fileserver.New(fileserver.Options{})
	if err != nil {
		return nil, err
	}
	if err := server.AddShare(fileserver.Share{Dir: "d", Path: g.share}); err != nil {
		return nil, err
	}
	var files []*os.File
	closeAll := func() {
		for _, f := range files {
			f.Close()
		}
	}
	for _, path := range []string{g.kernel, g.initramfs, g.disk} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			closeAll()
			return nil, err
		}
		files = append(files, f)
	}
	dev := vsock.New(labCID)
	m, err := new(kvm.Engine).Start(g.ctx, &vmm.Config{CPUs: 1, Memory: uint64(g.memory), Kernel: files[0], Initramfs: files[1], Disk: files[2],
		Console: os.Stderr, Devices: []virtio.Device{dev, fs.New("bench", server, 1)}})
	if err != nil {
		closeAll()
		return nil, err
	}
	return &lab{name: kvm.Name, dev: dev,
		exits: func() map[string]uint64 { return m.Counts().Exits },
		end:   func() { m.Kill(); dev.Close(); closeAll() }}, nil
}

// startQEMU starts a guest in QEMU, with our vsock device behind vhost-user as
// the engine qemu has it.
func (g *guests) startQEMU() (*lab, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "vsock"), os.NewFile(uintptr(fds[1]), "vsock")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	cmd := g.qemu("", g.disk, "-chardev", "socket,id=vsock,fd=3", "-device", "vhost-user-vsock-device,chardev=vsock")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, err
	}
	dev := vsock.New(labCID)
	served := make(chan error, 1)
	go func() { served <- vhostuser.Serve(g.ctx, conn.(*net.UnixConn), dev) }()
	return &lab{name: "QEMU", dev: dev, end: func() {
		cmd.Process.Kill()
		cmd.Wait()
		<-served
		dev.Close()
	}}, nil
}

// kernelPath is the guest's kernel, which make has built.
func (b *bench) kernelPath() (string, error) { return kernel.Find(filepath.Join(b.cache, "stile")) }

// dialLimit bounds a guest's boot, in the nested lane, too.
const dialLimit = time.Minute

// dial connects to a guest, which may be booting.
func dial(dev *vsock.Device) (*vsock.Conn, error) {
	deadline := time.Now().Add(dialLimit)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
		c, err := dev.Dial(ctx, guestPort)
		cancel()
		if err == nil {
			return c, c.SetDeadline(time.Now().Add(2 * dialLimit))
		}
		if time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
