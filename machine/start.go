package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/wire"
)

// startLock is the file in a distro's folder whose lock is held by who starts
// its machine: of a thousand that want to, one does, the others find it
// running.
const startLock = "start.lock"

// readyFD is the descriptor of the pipe on which a supervisor says that it
// serves its socket, by closing it, or why it can't, by a wire.Error.
const readyFD = 3

// Start sees to it that the distro's machine runs and takes commands, which
// then wait for the guest to come up; Client.Ready tells when it has. The error
// is a *wire.Error with a hint where there is a cure.
func Start(ctx context.Context, store *distro.Store, name string) error {
	d, err := store.Get(name)
	if err != nil {
		return err
	}
	lock, err := lockStart(ctx, filepath.Join(d.Dir, startLock))
	if err != nil {
		return fmt.Errorf("start distro %s: %w", name, err)
	}
	defer lock.Close()
	c, err := Dial(ctx, d.Dir)
	if err == nil {
		return c.Close()
	}
	if !errors.Is(err, ErrNotRunning) {
		return err
	}
	return spawn(ctx, store.Dirs, name)
}

// lockStart takes the lock of the file at path, waiting for it until ctx is
// done. Closing the file releases it.
func lockStart(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	taken := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				taken <- err
				return
			}
		}
	}()
	select {
	case err = <-taken:
	case <-ctx.Done():
		// The goroutine waits on; it takes the lock of a file that nobody
		// closes any more. The process is about to give up, and to end.
		return nil, ctx.Err()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// spawn starts the supervisor, apart from the caller's session and terminal,
// and waits for its word.
func spawn(ctx context.Context, dirs distro.Dirs, name string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("create pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(self, Command, name)
	cmd.Dir = "/"
	cmd.Env = withoutLinks(os.Environ(), dirs)
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	go cmd.Wait() // it outlives us; who outlives it must not leave a zombie

	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	word, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("start distro %s: %w", name, errors.Join(err, ctx.Err()))
	}
	if string(word) == readyWord {
		return nil
	}
	var e wire.Error
	if len(word) == 0 || e.Parse(word) != nil {
		return fmt.Errorf("start distro %s: the supervisor ended at once", name)
	}
	return &e
}

// readyWord is what a supervisor that serves its socket writes to its pipe.
const readyWord = "ready"

// withoutLinks is env with the folders of links taken out of PATH, so that what
// stile starts on the host finds the host's programs.
func withoutLinks(env []string, dirs distro.Dirs) []string {
	out := make([]string, 0, len(env))
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			e = "PATH=" + dirs.WithoutLinks(path)
		}
		out = append(out, e)
	}
	return out
}

// report writes the supervisor's word to the pipe and closes it.
func report(err error, name string) {
	pipe := os.NewFile(readyFD, "ready")
	word := []byte(readyWord)
	if err != nil {
		e := call.AsError(err, "distro "+name)
		if e.Hint == "" {
			e.Hint = distro.Cure(err)
		}
		word = e.Append(nil)
	}
	pipe.Write(word) // nobody waits for it where this fails
	pipe.Close()
}
