package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/broker"
	"github.com/stilehq/stile/machine/policy"
	"github.com/stilehq/stile/machine/vmmproc"
)

// hostCommands decides what a machine's guest may have run on the host.
type hostCommands struct {
	dirs    distro.Dirs
	distro  string
	shares  func() ([]guest.Share, error)
	environ []string
	stile   string // path of the stile binary
	log     policy.Log
}

func newHostCommands(store *distro.Store, name, stile string) *hostCommands {
	return &hostCommands{dirs: store.Dirs, distro: name, environ: os.Environ(), stile: stile,
		shares: func() ([]guest.Share, error) { return store.Shares(name) },
		log:    policy.Log{Path: store.Dirs.HostLogPath()}}
}

// authorize is broker.Config's: everything in r is a guest's word. What it asks for
// is looked up anew each time, so that a rule counts from when it is made.
func (h *hostCommands) authorize(ctx context.Context, r *wire.Run) (*broker.Command, *wire.Error) {
	q := policy.Request{Distro: h.distro, Command: r.Path, Args: r.Argv[1:]}
	if q.Command == "" {
		q.Command = r.Argv[0]
	}
	if strings.Contains(q.Command, "/") && !filepath.IsAbs(q.Command) {
		q.Command = filepath.Join("/", r.Cwd, q.Command)
	}
	entry := policy.Entry{Time: time.Now(), Distro: h.distro, Command: q.Command, Args: q.Args, Answer: "denied"}
	c, why := h.decide(ctx, r, &q)
	if why != nil {
		entry.Why = why.Why
	} else {
		entry.Answer, entry.Path = "allowed", c.Path
	}
	if err := h.log.Add(entry); err != nil && why == nil {
		c.Dir.Close()
		// What is not written down is not done.
		return nil, &wire.Error{Code: 125, What: "host command", Why: "the host's log can't be written"}
	}
	return c, why
}

func (h *hostCommands) decide(ctx context.Context, r *wire.Run, q *policy.Request) (*broker.Command, *wire.Error) {
	name := printableName(q.Command)
	refuse := func(code uint8, why, hint string) *wire.Error {
		return &wire.Error{Code: code, What: "host command " + name, Why: why, Hint: hint}
	}
	p, err := policy.Load(h.dirs.HostPath())
	if err != nil {
		return nil, refuse(125, "the host's rules make no sense", "on the host: stile host list")
	}
	d := p.Decide(q)
	if d.Action == policy.Deny {
		hint := "on the host, to allow it: stile host allow " + name
		if d.Rule != nil {
			hint = "on the host, for its rules: stile host list"
		}
		return nil, refuse(126, d.Why, hint)
	}
	places, shares, err := h.places()
	if err != nil {
		return nil, refuse(125, "the host's shares make no sense", "on the host: stile shares")
	}
	if err := d.Rule.Check(places); err != nil {
		var bad *policy.CheckError
		if !errors.As(err, &bad) {
			return nil, refuse(126, err.Error(), "")
		}
		if bad.Missing {
			return nil, refuse(127, bad.Why, "")
		}
		cure := bad.Cure
		if cure != "" {
			cure = "on the host, " + cure
		}
		return nil, refuse(126, bad.Why, cure)
	}
	dir, path, err := h.folder(r.Cwd, shares)
	if err != nil {
		return nil, refuse(125, err.Error(), "cd to another folder")
	}
	if d.Action == policy.Ask {
		if why := ask(ctx, p.Helper, h.environ, h.distro, d.Rule.Path, q.Args); why != "" {
			dir.Close()
			return nil, refuse(126, why, "on the host, to allow it without asking: stile host allow "+name)
		}
	}
	skip := func(dir string) bool {
		return h.dirs.IsLinks(dir) || !d.Rule.Shared && policy.Writable(dir, places)
	}
	return &broker.Command{
		Path: d.Rule.Path,
		// Not what the guest calls it: some programs do by their name what they do.
		Argv: append([]string{d.Rule.Name()}, q.Args...),
		Env:  append(policy.Environ(h.environ, r.Env, d.Rule.Env, skip), "PWD="+path),
		Dir:  dir,
	}, nil
}

// places are where programs of rules may not lie, and the shares.
func (h *hostCommands) places() (places []policy.Place, shares []guest.Share, err error) {
	if shares, err = h.shares(); err != nil {
		return nil, nil, err
	}
	return Places(h.dirs, h.stile, shares), shares, nil
}

// Places are what the rules of host commands keep away from: what guests can write
// in a distro's shares, and stile's own.
func Places(dirs distro.Dirs, stile string, shares []guest.Share) []policy.Place {
	var places []policy.Place
	add := func(path string, own bool) {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			places = append(places, policy.Place{Path: real, Own: own})
		}
	}
	for _, dir := range []string{dirs.Config, dirs.Data, dirs.Cache, dirs.Runtime, stile} {
		add(dir, true)
	}
	for _, s := range shares {
		if !s.ReadOnly {
			add(s.Path, false)
		}
	}
	return places
}

// folder opens the guest's working folder on the host, where it is shared, and else
// the home. No symbolic link in the share is followed, as the guest's own kernel has
// followed them: they might lead out of it here.
func (h *hostCommands) folder(cwd string, shares []guest.Share) (*os.File, string, error) {
	best := -1
	for i, s := range shares {
		inside := cwd == s.Path || strings.HasPrefix(cwd, strings.TrimSuffix(s.Path, "/")+"/")
		if inside && filepath.Clean(cwd) == cwd && (best < 0 || len(s.Path) > len(shares[best].Path)) {
			best = i
		}
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	if best < 0 {
		fd, err := unix.Open(h.dirs.Home, flags, 0)
		if err != nil {
			return nil, "", fmt.Errorf("the home folder: %w", err)
		}
		return os.NewFile(uintptr(fd), h.dirs.Home), h.dirs.Home, nil
	}
	share := shares[best].Path
	root, err := unix.Open(share, flags, 0)
	if err != nil {
		return nil, "", fmt.Errorf("folder %q: %w", cwd, err)
	}
	defer unix.Close(root)
	rest := strings.TrimPrefix(strings.TrimPrefix(cwd, share), "/")
	if rest == "" {
		rest = "."
	}
	fd, err := unix.Openat2(root, rest, &unix.OpenHow{Flags: flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, "", fmt.Errorf("folder %q: %w", cwd, err)
	}
	dir := os.NewFile(uintptr(fd), cwd)
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	for _, own := range []string{h.dirs.Config, h.dirs.Data, h.dirs.Cache, h.dirs.Runtime} {
		o, oerr := filepath.EvalSymlinks(own)
		if err == nil && oerr == nil && (real == o || strings.HasPrefix(real, o+"/")) {
			err = unix.ENOENT // as the guest finds it
		}
	}
	if err != nil {
		dir.Close()
		return nil, "", fmt.Errorf("folder %q: %w", cwd, err)
	}
	return dir, cwd, nil
}

// printableName is a command's name as it can stand in a line of text, and be typed
// into a shell: a guest has chosen it, and a user may copy it.
func printableName(s string) string {
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	plain := s != ""
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c >= 0x7f {
			return "'" + strings.Trim(strings.ReplaceAll(fmt.Sprintf("%+q", s), "'", `'\''`), `"`) + "'"
		}
		plain = plain && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("+._-/:=@%,", c) >= 0)
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// serveStreams gives the vmm process a connection to the broker whenever the guest
// has made one to the vmm process.
func (s *supervisor) serveStreams(b *broker.Broker) {
	for vmmproc.AwaitStream(s.vm.streams) == nil {
		ours, theirs, err := socketPair()
		if err != nil {
			vmmproc.SendStream(s.vm.streams, nil) // as many descriptors are open as may be
			continue
		}
		vmmproc.SendStream(s.vm.streams, theirs)
		theirs.Close()
		b.Serve(ours.(*net.UnixConn))
	}
}
