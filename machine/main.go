package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/machine/policy"
)

// Command is the subcommand of stile that calls Main.
const Command = "machine"

// diskWait is how long a new machine waits for the last processes of the one
// before to let go of the disk.
const diskWait = 30 * time.Second

// LogName is the file in a machine's runtime folder that holds what its kernel,
// guestinit and supervisor print; OldLogName that of the run before.
const (
	LogName    = "console.log"
	OldLogName = "console.log.old"
)

// Main is the supervisor of the machine of the distro name: it serves until the
// machine has ended, and returns the exit status. Start runs it.
func Main(store *distro.Store, name, version string) int {
	syscall.CloseOnExec(readyFD)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)
	h, err := open(ctx, store, name, version)
	report(err, name)
	if err != nil {
		return 125
	}
	defer h.close()
	if err := h.supervisor.run(ctx); err != nil {
		fmt.Fprintf(h.log, "stile: distro %s: %v\n", name, err)
		return 125
	}
	return 0
}

// A hold is what a supervisor has of the host while its machine runs.
type hold struct {
	supervisor *supervisor
	disk, log  *os.File
	socket     string // path
	link       string // path of the symbolic link to it
}

// open gets everything that the machine needs and can lack, so that whoever
// starts it is told.
func open(ctx context.Context, store *distro.Store, name, version string) (_ *hold, err error) {
	h := new(hold)
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	d, err := store.Get(name)
	if err != nil {
		return nil, err
	}
	settings, err := store.Settings(name)
	if err != nil {
		return nil, err
	}
	s := &spec{cpus: settings.CPUs, memory: settings.Memory}
	if s.stile, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	choice, err := ChooseEngine(store.Dirs, settings.Engine)
	if err != nil {
		return nil, err
	}
	s.engine = choice.Engine
	if s.kernel, err = payload.Kernel(store.Dirs); err != nil {
		return nil, err
	}
	if s.guestInit, err = payload.GuestInit(); err != nil {
		return nil, err
	}
	zone := watchZone(localtime) // before it is read
	if s.guest, err = guestConfig(store, name); err != nil {
		return nil, err
	}
	if s.guest.Host != nil {
		s.authorize = newHostCommands(store, name, s.stile).authorize
	}
	s.links = store.Dirs.Links
	s.hidden = []string{store.Dirs.Config, store.Dirs.Data, store.Dirs.Cache, store.Dirs.Runtime}
	for _, dir := range s.hidden {
		if err := distro.Ensure(dir); err != nil {
			return nil, err
		}
	}
	if h.disk, err = openDisk(ctx, d); err != nil {
		return nil, err
	}
	s.disk = h.disk
	dir, err := store.Dirs.EnsureRuntime(name)
	if err != nil {
		return nil, err
	}
	if h.log, err = openLog(dir); err != nil {
		return nil, err
	}
	s.console = h.log
	h.socket = store.Dirs.SocketPath(name)
	listener, err := listen(h.socket)
	if err != nil {
		return nil, err
	}
	h.link = filepath.Join(d.Dir, socketLink)
	if err := replaceLink(h.socket, h.link); err != nil {
		listener.Close()
		return nil, err
	}
	h.supervisor = newSupervisor(s, settings.Idle, Status{
		Distro: name, Engine: string(choice.Engine), Why: choice.Why, Version: version, Since: time.Now(),
	}, listener)
	h.supervisor.zone = zone
	return h, nil
}

// openDisk opens the disk, waiting for a machine that is just ending.
func openDisk(ctx context.Context, d *distro.Distro) (*os.File, error) {
	deadline := time.Now().Add(diskWait)
	for {
		f, err := d.OpenDisk()
		if !errors.Is(err, distro.ErrInUse) || time.Now().After(deadline) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// openLog begins a new log in dir and keeps the one of the run before.
func openLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, LogName)
	if err := os.Rename(path, filepath.Join(dir, OldLogName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("keep old log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	return f, nil
}

// listen makes the machine's socket, in the place of one that a dead machine
// left: the disk's lock, which the caller has, says that there is no live one.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	old := unix.Umask(0o177) // the socket is never anybody else's, not for a moment
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false) // close does it, when the machine has ended
	return l, nil
}

// replaceLink makes link a symbolic link to target, whatever it was.
func replaceLink(target, link string) error {
	tmp := link + ".new"
	os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("name socket: %w", err)
	}
	if err := os.Rename(tmp, link); err != nil {
		return fmt.Errorf("name socket: %w", err)
	}
	return nil
}

// close gives everything back. The disk is last: its lock is what keeps others
// from the names that are removed before.
func (h *hold) close() {
	if h.link != "" {
		os.Remove(h.link)
	}
	if h.socket != "" {
		os.Remove(h.socket)
	}
	for _, f := range []*os.File{h.log, h.disk} {
		if f != nil {
			f.Close()
		}
	}
}

// guestConfig is what the guest of a distro is told.
func guestConfig(store *distro.Store, name string) (guest.Config, error) {
	u, err := hostUser(store.Dirs.Home)
	if err != nil {
		return guest.Config{}, err
	}
	shares, err := store.Shares(name)
	if err != nil {
		return guest.Config{}, err
	}
	// Rules that make no sense keep nothing from starting, as nothing is allowed then.
	host := &guest.Host{}
	if p, err := policy.Load(store.Dirs.HostPath()); err == nil {
		host.Links = p.LinksOf(name)
	}
	d, err := store.Get(name)
	if err != nil {
		return guest.Config{}, err
	}
	if d.Info.Isolated {
		host = nil
	}
	return guest.Config{
		Host: host, Isolated: d.Info.Isolated,
		Mode: guest.ModeRun, Distro: name, Hostname: name, Root: "/dev/vda",
		User: u, Shares: shares, Zone: hostZone(localtime),
	}, nil
}
