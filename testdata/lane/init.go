package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hostRoot = "/host" // the host's files, and the root of the command
	copyRoot = "/copy" // in the initramfs, which is memory

	// laneEnv tells tests that the KVM they see must do.
	laneEnv = "STILE_LANE=nested"

	// outputLimit is how long a background process may hold the command's
	// output after its end.
	outputLimit = 5 * time.Second
)

// runInit is L1's PID 1: one request, its answer, the end of the machine.
func runInit() {
	a, err := serve()
	if err != nil {
		a = &answer{Err: "init: " + err.Error()}
	}
	if err := reply(a); err != nil {
		fmt.Println("lane: init:", err) // on the console, which the host shows
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func serve() (*answer, error) {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount /dev: %w", err) // reply will not get through either
	}
	b, err := os.ReadFile(requestPath)
	if err != nil {
		return nil, err
	}
	var r request
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	// Without a cache a program of 50 MB takes seconds to read.
	if err := unix.Mount("host", hostRoot, "9p", 0, "trans=virtio,version=9p2000.L,msize=512000,cache=loose"); err != nil {
		return nil, fmt.Errorf("mount the host's files: %w", err)
	}
	binds, err := keep(&r)
	if err != nil {
		return nil, err
	}
	if err := mountAll(); err != nil {
		return nil, err
	}
	if err := bindAll(binds); err != nil {
		return nil, err
	}
	if err := loopback(); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	if err := holdVMs(); err != nil {
		return nil, fmt.Errorf("hold a VM: %w", err)
	}
	if err := startCPUs(); err != nil {
		return nil, fmt.Errorf("start a CPU: %w", err)
	}
	return command(&r)
}

// mountAll makes hostRoot a host of its own.
func mountAll() error {
	for _, m := range []struct{ source, target, data string }{
		{"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=0666,mode=620"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
	} {
		target := hostRoot + m.target
		if filepath.Dir(m.target) == "/dev" {
			if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if err := unix.Mount(m.source, target, m.source, 0, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	// What udev makes: a shell's <(COMMAND) is a name in /dev/fd.
	for name, to := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+to, hostRoot+"/dev/"+name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// A bind is a file or folder of init's to be seen by the command.
type bind struct {
	source string
	path   string // the command's
	dir    bool
}

// keep copies what r wants to have in memory, and takes hold of its folder,
// before the host's /tmp is covered.
func keep(r *request) ([]bind, error) {
	at := func(n int) string { return filepath.Join(copyRoot, strconv.Itoa(n)) }
	dir := bind{at(0), moduleOf(r.Dir), true}
	if err := os.Mkdir(dir.source, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount(hostRoot+dir.path, dir.source, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("bind %s: %w", dir.path, err)
	}
	binds := []bind{dir}
	for i, path := range r.Copies {
		info, err := os.Stat(hostRoot + path)
		if err != nil {
			return nil, err
		}
		b := bind{at(1 + i), path, info.IsDir()}
		if err := copyTree(b.source, hostRoot+path); err != nil {
			return nil, err
		}
		binds = append(binds, b)
	}
	return binds, nil
}

// moduleOf is the folder of the Go module that a folder belongs to, whose files a
// test may read, or the folder itself.
func moduleOf(dir string) string {
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(hostRoot+d, "go.mod")); err == nil {
			return d
		}
	}
	return dir
}

func copyTree(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		target := filepath.Join(dst, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(target, info.Mode().Perm())
		case d.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither file nor folder nor link", path[len(hostRoot):])
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// bindAll shows what was kept, where it was.
func bindAll(binds []bind) error {
	for _, b := range binds {
		target := hostRoot + b.path
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) { // it was below the host's /tmp
			dir := target
			if !b.dir {
				dir = filepath.Dir(target)
			}
			if err := os.MkdirAll(dir, 0o777); err != nil {
				return err
			}
			if !b.dir {
				if err := os.WriteFile(target, nil, 0o755); err != nil {
					return err
				}
			}
		}
		if err := unix.Mount(b.source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", b.path, err)
		}
	}
	return nil
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// holdVMs makes VMs that stay, one with KVM's interrupt controllers and one
// without, and a vCPU in each, while there is one CPU (maxcpus=1). The first VM
// of a kind and the last make L1 change its code while it runs (static keys, in
// the scheduler of all places), which in one run of ten was too much for TCG
// with more than one CPU: L1 died of an int3 that was there no more.
func holdVMs() error {
	const createVM, createVCPU, createIRQChip = 0xae01, 0xae41, 0xae60
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, requests := range [][]uint{{createIRQChip, createVCPU}, {createVCPU}} {
		vm, err := unix.IoctlRetInt(kvm, createVM)
		if err != nil {
			return err
		}
		for _, r := range requests {
			if _, err := unix.IoctlRetInt(vm, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// startCPUs starts the CPUs that L1 has not started at boot.
func startCPUs() error {
	switches, err := filepath.Glob(hostRoot + "/sys/devices/system/cpu/cpu[1-9]*/online")
	if err != nil {
		return err
	}
	for _, path := range switches {
		if err := os.WriteFile(path, []byte("1"), 0); err != nil {
			return err
		}
	}
	return nil
}

// openPort opens one of the ports, with blocking I/O: a character device that
// Go's poller would get no edge from.
func openPort(port, flags int) (*os.File, error) {
	found, err := filepath.Glob(fmt.Sprintf("/dev/vport*p%d", port))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("port %d: found %q, %v", port, found, err)
	}
	fd, err := unix.Open(found[0], flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", found[0], err)
	}
	return os.NewFile(uintptr(fd), found[0]), nil
}

// control is the port that signals come from; reply answers on it.
var control *os.File

func reply(a *answer) (err error) {
	if control == nil {
		if control, err = openPort(portControl, unix.O_RDWR); err != nil {
			return err
		}
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, err = control.Write(b)
	return err
}

// command runs the request. It reaps whatever else ends meanwhile, as a PID 1
// does.
func command(r *request) (*answer, error) {
	var err error
	if control, err = openPort(portControl, unix.O_RDWR); err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: r.Path, Args: r.Args, Env: append(r.Env, laneEnv), Dir: r.Dir,
		SysProcAttr: &syscall.SysProcAttr{Chroot: hostRoot, Setsid: true}}
	// Pipes of its own: a port can't be opened twice, as /dev/stdout is.
	var out sync.WaitGroup
	var theirs []*os.File
	for port, file := range map[int]*io.Writer{portStdout: &cmd.Stdout, portStderr: &cmd.Stderr} {
		p, err := openPort(port, unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*file = w
		theirs = append(theirs, w)
		out.Go(func() { io.Copy(p, r) })
	}
	in, err := openPort(portStdin, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin, theirs = stdin, append(theirs, stdin)
	go func() {
		io.Copy(w, in)
		w.Close()
	}()

	old := unix.Umask(r.Umask)
	err = cmd.Start()
	unix.Umask(old)
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		return nil, err
	}
	go func() {
		var b [1]byte
		for {
			if n, err := control.Read(b[:]); n != 1 || err != nil {
				return
			}
			unix.Kill(cmd.Process.Pid, unix.Signal(b[0])) // fails where it has just ended
		}
	}()
	var status unix.WaitStatus
	for {
		// WNOHANG never: only this loop reaps, so cmd is not waited for.
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("wait: %w", err)
		}
		if pid == cmd.Process.Pid {
			break
		}
	}
	written := make(chan struct{})
	go func() {
		out.Wait()
		close(written)
	}()
	select {
	case <-written:
	case <-time.After(outputLimit):
	}
	if status.Signaled() {
		return &answer{Signal: int(status.Signal())}, nil
	}
	return &answer{Status: status.ExitStatus()}, nil
}
