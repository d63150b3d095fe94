package main_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

// naive relays a program of the host as a first attempt would a program elsewhere,
// and as much that is in use does: it copies its input there as soon as there is
// any, copies two streams back, and ends with the exit code. The program is in a
// session of its own, with the folder, the arguments and the environment, and
// nothing else of what its caller had set.
func naive(name string) {
	path, err := lookPath(hostPath, name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(127)
	}
	signal.Reset()
	signal.Ignore(syscall.SIGPIPE)
	syscall.Umask(0o022)
	cmd := &exec.Cmd{Path: path, Args: os.Args, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	cmd.Args[0] = filepath.Base(os.Args[0])
	in, err := cmd.StdinPipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	cmd.Stdout, cmd.Stderr = struct{ io.Writer }{os.Stdout}, struct{ io.Writer }{os.Stderr}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(126)
	}
	go func() {
		io.Copy(in, struct{ io.Reader }{os.Stdin})
		in.Close()
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		os.Exit(exit.ExitCode())
	case errors.As(err, &exit):
		os.Exit(128 + int(exit.Sys().(syscall.WaitStatus).Signal()))
	}
	os.Exit(cmd.ProcessState.ExitCode())
}
