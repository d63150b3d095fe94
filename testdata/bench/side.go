package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A side is one of the two ways to run a command in a VM.
type side interface {
	name() string

	// boot starts the machine, which is not running, with a first command, and
	// returns the time until the command's first byte.
	boot(ctx context.Context) (time.Duration, error)

	// stop ends the machine, in order if it can, and all that runs for it.
	stop() error

	// command runs a program in the guest; its output is the caller's to set.
	command(ctx context.Context, program string) *exec.Cmd

	// shell runs a line of shell in the guest.
	shell(ctx context.Context, line string) *exec.Cmd

	// pids are the host's processes of the running machine.
	pids() ([]int, error)

	// folder is one that the guest has too, at the same path.
	folder() string
}

// run runs a command whose output does not matter.
func run(cmd *exec.Cmd) error {
	_, err := output(cmd)
	return err
}

// output runs a command and returns what it printed, without the last newline.
// An error says what it printed to stderr.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// firstByte runs a command and returns the time from since to the first byte of
// its output.
func firstByte(cmd *exec.Cmd, since time.Time) (time.Duration, error) {
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, readErr := out.Read(make([]byte, 1))
	took := time.Since(since)
	_, copyErr := io.Copy(io.Discard, out)
	if err := errors.Join(cmd.Wait(), copyErr); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	if n != 1 {
		return 0, fmt.Errorf("%s printed nothing: %w", strings.Join(cmd.Args, " "), readErr)
	}
	return took, nil
}

// timed is the wall time of a command that must succeed.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	start := time.Now()
	err := run(cmd)
	return time.Since(start), err
}

// environ is the caller's environment with some variables set anew.
func environ(set map[string]string) []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if _, ok := set[name]; !ok {
			env = append(env, e)
		}
	}
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	return env
}

// dieWithUs makes a process end when this one does, however that is.
func dieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
