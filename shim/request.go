package main

import (
	"syscall"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// The resource limits that the guest command gets. RLIMIT_AS and RLIMIT_DATA are
// not among them: the shim itself could not live in what suits a small command,
// so that they never arrive here whole.
var limits = [...]int{rlimitCPU, rlimitFSize, rlimitStack, rlimitCore, rlimitNoFile}

// request builds the request, and the descriptors that go with it.
func (s *session) request() (*wire.Run, []int, *wire.Error) {
	c := s.call
	run := &wire.Run{
		Version: wire.Version, Distro: c.Distro, Argv: c.argv, Path: c.path, Env: early.Env(),
		CwdFallback: c.CwdFallback, User: c.User, Login: c.Login,
		Ignored: early.Ignored(), Blocked: early.Blocked(), Priority: priority(),
		Cwd: c.Cd, CwdNamed: c.Cd != "", Aside: c.Aside,
	}
	for _, e := range c.Env {
		run.Env = replace(run.Env, e)
	}
	if run.Cwd == "" {
		cwd, err := workingDirectory()
		if err == syscall.ENOENT {
			cwd, run.CwdGone, err = "/", true, nil
		}
		if err != nil && !c.CwdFallback {
			return nil, nil, &wire.Error{Code: 125, What: "current folder", Why: err.Error(), Hint: "cd to a folder that exists"}
		}
		run.Cwd = cwd
	}
	if e := terminfo(run.Env); e != "" {
		run.Terminfo = []byte(e)
	}
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	run.Umask = uint32(mask)
	for _, r := range limits {
		l := wire.Limit{Resource: uint32(r)}
		if r == rlimitNoFile {
			l.Soft, l.Max = early.Files()
		} else if !getLimit(r, &l) {
			continue
		}
		run.Limits = append(run.Limits, l)
	}
	var descriptors []int
	run.Table, descriptors = s.describe()
	if s.terminal.fd >= 0 {
		run.Terminal = s.terminal.state()
		descriptors = append(descriptors, s.terminal.fd)
	}
	return run, descriptors, nil
}

// replace puts e, NAME=VALUE, in the place of the variable in env, or at its end.
func replace(env []string, e string) []string {
	n := 0
	for n < len(e) && e[n] != '=' {
		n++
	}
	kept := env[:0:0]
	for _, old := range env {
		if len(old) > n && old[n] == '=' && old[:n] == e[:n] {
			continue
		}
		kept = append(kept, old)
	}
	return append(kept, e)
}

// workingDirectory is the working directory as the calling shell sees it: $PWD
// where that is the same folder, for it keeps the symlinks on the way.
func workingDirectory() (string, error) {
	var here, there syscall.Stat_t
	if err := syscall.Stat(".", &here); err != nil {
		return "", err
	}
	for _, e := range early.Env() {
		if !cut(&e, "PWD=") || len(e) == 0 || e[0] != '/' {
			continue
		}
		if syscall.Stat(e, &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino {
			return e, nil
		}
		break
	}
	var b [4096]byte
	n, err := syscall.Getcwd(b[:])
	if err != nil {
		return "", err // ENOENT: it was deleted
	}
	if b[0] != '/' {
		return "", syscall.EXDEV // "(unreachable)": outside of this root
	}
	return string(b[:n-1]), nil
}
