// Command guestinit is PID 1 of stile's guests and the agent that runs commands
// there. It is alone in an initramfs with its configuration, and does before its
// word to the host (wire.Ready) only what the first command needs.
//
// The distro runs in pid, mount and cgroup namespaces of its own with a reaper
// as PID 1 (package spawn); guestinit stays outside, unseen.
//
// In the distro the same program is what commands of the host's are called by
// (package hostcmd).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/agent"
	"github.com/stilehq/stile/guestinit/hostcmd"
	"github.com/stilehq/stile/guestinit/root"
	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/guestinit/spawn"
	"github.com/stilehq/stile/guestinit/untar"
	"github.com/stilehq/stile/guestinit/users"
	"github.com/stilehq/stile/guestinit/zone"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
)

// openFiles is guestinit's own limit of descriptors: a thousand sessions at once
// have some ten each.
const openFiles = 1 << 20

// PID 1's first thread must stay what it is: when it unshares its root, as the
// thread of package spawn does, Linux (7.3, fs/fs_struct.c) takes the root away
// from all that shared it. A locked main goroutine keeps it.
func init() { runtime.LockOSThread() }

func main() {
	if hostcmd.Called() {
		go hostcmd.Main()
		select {}
	}
	go run()
	select {}
}

func run() {
	cfg, err := configure()
	if err == nil {
		err = serve(cfg)
	}
	// Only what keeps the guest from coming up gets here.
	fmt.Fprintf(os.Stderr, "guestinit: %v\n", err)
	if cfg != nil {
		report(cfg, err)
	}
	off()
}

// configure makes guestinit's own mounts and reads its configuration.
func configure() (*guest.Config, error) {
	if err := root.Early(); err != nil {
		return nil, err
	}
	limit := unix.Rlimit{Cur: openFiles, Max: openFiles}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("raise the limit of open files: %w", err)
	}
	b, err := os.ReadFile(guest.ConfigPath)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg := new(guest.Config)
	if err := json.Unmarshal(b, cfg); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	agent.SetTime(cfg.Time)
	return cfg, nil
}

// serve brings the guest up and serves the host. It returns if that fails.
func serve(cfg *guest.Config) error {
	listener, err := sock.ListenVsock(wire.AgentPort)
	if err != nil {
		return fmt.Errorf("listen for the host: %w", err)
	}
	if err := root.Disk(cfg.Root); err != nil {
		return err
	}
	o := agent.Options{Config: cfg, Files: root.Open, Reclaim: root.Reclaim, Shutdown: root.Close, Off: off}
	var a *agent.Agent
	if cfg.Mode == guest.ModeImport {
		o.Import = importTar
	} else if err := startDistro(cfg, &o, func() { a.Reaped() }); err != nil {
		return err
	}
	if err := startCPUs(); err != nil {
		return err
	}
	a = agent.New(o)
	report(cfg, nil)
	if o.Spawner != nil {
		go afterReady(cfg)
	}
	return a.Serve(listener)
}

// startDistro makes the distro's tree and namespaces.
func startDistro(cfg *guest.Config, o *agent.Options, reaped func()) error {
	if err := root.Mount(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := loopback(); err != nil {
		return err
	}
	if err := users.Ensure(root.Open, cfg.User); err != nil {
		return fmt.Errorf("add the host's user to the distro: %w", err)
	}
	if err := zone.Follow(root.Open, cfg.Zone); err != nil {
		fmt.Fprintf(os.Stderr, "guestinit: %v\n", err) // of a full disk for one: its user has to get in
	}
	if err := runtimeFolder(cfg.User); err != nil {
		return err
	}
	if cfg.Host != nil {
		if err := root.HostCommands(cfg.Host.Links); err != nil {
			return err
		}
		o.Links = root.HostLinks
		o.Register = root.RegisterStubs
	}
	if err := root.Shares(); err != nil {
		return err
	}
	var shares []*root.Share
	for _, s := range root.ByDepth(cfg.Shares) {
		share, err := root.OpenShare(s)
		if err != nil {
			return err
		}
		shares = append(shares, share)
	}
	cgroup, err := root.Cgroup()
	if err != nil {
		return err
	}
	o.Spawner, err = spawn.New(spawn.Options{
		CgroupFD: cgroup,
		Reaped:   reaped,
		Setup: func() error {
			if err := root.Enter(); err != nil {
				return err
			}
			for _, s := range shares {
				if err := s.Place(); err != nil {
					return err
				}
			}
			return nil
		},
		// Without its PID 1 a distro can start nothing any more.
		Down: func() {
			fmt.Fprintln(os.Stderr, "guestinit: the distro's PID 1 has ended")
			root.Close()
			off()
		},
	})
	if err != nil {
		return err
	}
	o.Mount = func(s guest.Share) error {
		share, err := root.OpenShare(s)
		if err != nil {
			return err
		}
		o.Spawner.Do(func() { err = share.Place() })
		return err
	}
	o.Unmount = func(s guest.Share) (err error) {
		o.Spawner.Do(func() { err = root.Unplace(s.Path) })
		return err
	}
	return nil
}

// runtimeFolder is where the user's sockets go, as a login would make it.
func runtimeFolder(u guest.User) error {
	dir := fmt.Sprintf("%s/run/user/%d", root.Dir, u.UID)
	if err := unix.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the user's runtime folder: %w", err)
	}
	if err := unix.Chown(dir, int(u.UID), int(u.GID)); err != nil {
		return fmt.Errorf("make the user's runtime folder: %w", err)
	}
	return nil
}

// afterReady does what the first command can do without.
func afterReady(cfg *guest.Config) {
	if err := root.Controllers(); err != nil {
		fmt.Fprintf(os.Stderr, "guestinit: %v\n", err)
	}
	if cfg.Host != nil {
		if err := root.Profile(); err != nil {
			fmt.Fprintf(os.Stderr, "guestinit: %v\n", err)
		}
	}
	if err := hosts(cfg.Hostname); err != nil {
		fmt.Fprintf(os.Stderr, "guestinit: %v\n", err)
	}
}

// hosts makes /etc/hosts where the distro has none: without it not even
// "localhost" has an address, and sudo waits for one of the host name.
func hosts(name string) error {
	f, err := root.Open("/etc/hosts", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost ip6-localhost ip6-loopback\n", name)
	return errors.Join(err, f.Close())
}

// loopback switches the loopback device on.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	defer unix.Close(fd)
	// struct ifreq with ifr_flags, netdevice(7).
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], "lo")
	req.flags = unix.IFF_UP | unix.IFF_RUNNING
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); e != 0 {
		return fmt.Errorf("loopback device: %w", e)
	}
	return nil
}

// report is guestinit's first word to the host: that the guest is up, or why it
// is not.
func report(cfg *guest.Config, failure error) {
	m := wire.Ready{Version: wire.Version, Generation: cfg.Generation}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	if failure != nil {
		m.Err = &wire.Error{Code: 125, What: "distro " + cfg.Distro, Why: failure.Error()}
		var disk *root.DiskError
		if errors.As(failure, &disk) {
			m.Err.Hint = "if there is no backup of it: stile remove " + cfg.Distro + ", then install it anew"
		}
	}
	const vmaddrCIDHost = 2
	c, err := sock.DialVsock(vmaddrCIDHost, wire.HostPort)
	if err != nil {
		fmt.Fprintf(os.Stderr, "guestinit: report to the host: %v\n", err)
		return
	}
	c.Write(wire.AppendMessage(nil, wire.TypeReady, m.Append(nil)))
	c.CloseWrite()
	if failure != nil {
		// The machine is about to end: not before the host has it.
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		io.Copy(io.Discard, struct{ io.Reader }{c})
	}
	c.Close()
}

// off ends the machine: a restart is what both engines take for the end.
func off() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // never
}

// importTar unpacks the archive on c into the root disk.
func importTar(c *sock.Conn) error {
	if err := untar.Unpack(c, root.Dir, nil); err != nil {
		return err
	}
	if err := untar.CheckRoot(root.Dir); err != nil {
		return err
	}
	unix.Sync()
	return nil
}
