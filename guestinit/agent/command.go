package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/spawn"
	"github.com/stilehq/stile/guestinit/users"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
)

// defaultPath is searched where the caller's environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// openFiles is what a command gets where the caller's limit is not known: the
// usual one, and not guestinit's own.
var openFiles = spawn.Limit{Resource: unix.RLIMIT_NOFILE, Soft: 1024, Max: 1 << 20}

// command is what to start for the session's request.
func (s *session) command() (*spawn.Command, *wire.Error) {
	r := &s.run
	u, e := s.user()
	if e != nil {
		return nil, e
	}
	c := &spawn.Command{
		Argv: r.Argv, Env: environment(r, u, s.agent.opts.Files, &s.agent.opts.Config.User), Dir: r.Cwd,
		Umask: r.Umask, Limits: limits(r.Limits), Ignored: r.Ignored, Blocked: r.Blocked,
		User: spawn.User{UID: u.UID, GID: u.GID, Groups: u.Groups}, Terminal: -1,
	}
	if r.Priority > 0 && r.Priority <= 40 {
		c.Nice = 20 - int(r.Priority)
	}
	if r.CwdFallback {
		c.Home = u.Home
	}
	if c.Dir == "" {
		c.Dir = "/"
	}
	if r.CwdGone {
		if dir, ok := s.goneFolder(u.UID, u.GID); ok {
			c.Dir, s.gonePath = dir, dir
		}
	}
	path := r.Path
	if r.Login {
		path = users.Shell(s.agent.opts.Files, u.Shell)
		c.Argv = []string{"-" + filepath.Base(path)}
	}
	if len(c.Argv) == 0 {
		return nil, &wire.Error{Code: 125, What: "request", Why: "there is no command in it"}
	}
	if path == "" {
		path = c.Argv[0]
	}
	c.Paths = candidates(path, c.Env)
	return c, nil
}

// user is who the command runs as.
func (s *session) user() (*users.User, *wire.Error) {
	name := s.run.User
	if name == "" {
		name = s.agent.opts.Config.User.Name
	}
	u, err := users.Lookup(s.agent.opts.Files, name)
	switch {
	case errors.Is(err, users.ErrUnknown):
		return nil, &wire.Error{Code: 125, What: "user " + name, Why: "distro " + s.agent.opts.Config.Distro + " has no such user"}
	case err != nil:
		return nil, &wire.Error{Code: 125, What: "user " + name, Why: err.Error()}
	}
	return u, nil
}

func limits(list []wire.Limit) []spawn.Limit {
	out := []spawn.Limit{openFiles}
	for _, l := range list {
		out = append(out, spawn.Limit{Resource: int(l.Resource), Soft: l.Soft, Max: l.Max})
	}
	return out
}

// environment is the caller's, byte for byte, but for what another user's must
// say, and for a SHELL, a locale and a terminal that the distro does not know.
func environment(r *wire.Run, u *users.User, files users.Files, host *guest.User) []string {
	env := fixTerm(r.Env, r.Terminfo, files)
	fixLocales(env, files)
	set := func(name, value string, always bool) {
		for i, e := range env {
			if strings.HasPrefix(e, name+"=") {
				if always {
					env[i] = name + "=" + value
				}
				return
			}
		}
		env = append(env, name+"="+value)
	}
	other := u.UID != host.UID
	if other || r.Login {
		set("HOME", u.Home, other)
		set("USER", u.Name, other)
		set("LOGNAME", u.Name, other)
		set("SHELL", users.Shell(files, u.Shell), true)
		return env
	}
	for i, e := range env {
		if shell, ok := strings.CutPrefix(e, "SHELL="); ok {
			if have := users.Shell(files, shell); have != shell {
				env[i] = "SHELL=" + have
			}
		}
	}
	return env
}

// candidates are the files that execvp(3) would try for a name.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
			break
		}
	}
	var out []string
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "."
		}
		out = append(out, dir+"/"+name)
	}
	return out
}

// commandName is what the user called.
func commandName(r *wire.Run) string {
	if r.Path != "" {
		return r.Path
	}
	if len(r.Argv) > 0 {
		return r.Argv[0]
	}
	return "shell"
}

func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// setRealtime steps the clock. It can't fail for PID 1 with a sane time.
func setRealtime(ns int64) {
	ts := unix.NsecToTimespec(ns)
	unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// SetTime steps the clock to the host's of the time when the machine was
// started, plus how long this kernel has run since, if it is behind that.
func SetTime(host int64) {
	if host > 0 && time.Now().UnixNano() < host {
		setRealtime(host)
	}
}

var _ users.Files = (func(string, int, uint32) (*os.File, error))(nil)
