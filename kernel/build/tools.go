package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tools are the programs that a build runs, with the Debian package of each.
var tools = []struct{ name, pkg string }{
	{"make", "make"},
	{"gcc", "gcc"},
	{"ld", "binutils"},
	{"strip", "binutils"},
	{"flex", "flex"},
	{"bison", "bison"},
	{"bc", "bc"},
	{"patch", "patch"},
	{"tar", "tar"},
	{"xz", "xz-utils"},
	{"perl", "perl"},
}

// headers are what the kernel's own tools are compiled with.
var headers = []struct{ name, pkg string }{
	{"stdlib.h", "libc6-dev"},
	{"libelf.h", "libelf-dev"}, // objtool
	{"gelf.h", "libelf-dev"},   // objtool
}

// checkTools names all that is missing at once, before any download.
func checkTools(ctx context.Context) error {
	var missing, pkgs []string
	need := func(what, pkg string) {
		missing = append(missing, what)
		if !slices.Contains(pkgs, pkg) {
			pkgs = append(pkgs, pkg)
		}
	}
	for _, t := range tools {
		if _, err := exec.LookPath(t.name); err != nil {
			need(t.name, t.pkg)
		}
	}
	for _, h := range headers {
		if slices.Contains(missing, "gcc") {
			need(h.name, h.pkg) // nothing to ask with; a package too many does no harm
			continue
		}
		cmd := command(ctx, "gcc", "-E", "-x", "c", "-include", h.name, "/dev/null", "-o", "/dev/null")
		if cmd.Run() != nil {
			need(h.name, h.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("building the kernel needs %s\non Debian and Ubuntu: apt-get install %s",
		strings.Join(missing, ", "), strings.Join(pkgs, " "))
}

// command is a tool that ends with the build: all of its process group does,
// make's compilers included.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = plainEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// plainEnv is the part of the environment that tells where things are and how
// to reach the network, and nothing that make, the compiler or the kernel's
// build would take as an option.
func plainEnv() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
