package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/interop/wire"
)

// here is the distro that a command is for where it may differ from folder to
// folder: the one that was named, else the folder's, else the default.
func (a *app) here(name string) (*distro.Distro, error) {
	if name == "" {
		dir, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("find the current folder: %w", err)
		}
		if name, _, err = a.store.DefaultIn(dir); err != nil {
			return nil, err
		}
	}
	return a.store.Get(name)
}

// recordFile is a memory file with a record, for a shim to read.
func recordFile(record *wire.Record) (*os.File, error) {
	data, err := record.Append(nil)
	if err != nil {
		return nil, &wire.Error{Code: exitStile, What: "run", Why: "an argument holds a NUL byte"}
	}
	fd, err := unix.MemfdCreate(wire.RecordArgv0, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("pass record: %w", err)
	}
	f := os.NewFile(uintptr(fd), wire.RecordArgv0)
	if _, err = f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("pass record: %w", err)
	}
	return f, nil
}

// guestCommand is a session of a distro that stile itself has a use for; it
// starts the machine if need be. It works in the guest's root folder, for the
// current one may not be shared. Of record, what is not set here counts. The
// caller closes the file after Start.
func guestCommand(ctx context.Context, store *distro.Store, d *distro.Distro, record wire.Record, argv ...string) (*exec.Cmd, *os.File, error) {
	shim, err := payload.Shim(store.Dirs)
	if err != nil {
		return nil, nil, err
	}
	stile, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find stile's own program: %w", err)
	}
	record.Distro, record.Home, record.Stile, record.Cd = d.Name, d.Dir, stile, "/"
	f, err := recordFile(&record)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, shim)
	cmd.Args = append([]string{wire.RecordArgv0, "/proc/self/fd/3"}, argv...)
	cmd.ExtraFiles = []*os.File{f}
	// The shim tells the guest of a signal; killed it tells nobody.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	return cmd, f, nil
}

// maxGuestOutput is more than the names of all commands of any distro.
const maxGuestOutput = 8 << 20

// guestOutput runs a shell script in a distro and returns what it printed and
// its exit status. What stile itself had to say about a failure, no machine say,
// is printed, and the error is its status.
func (a *app) guestOutput(ctx context.Context, d *distro.Distro, script string, args ...string) ([]byte, int, error) {
	cmd, f, err := guestCommand(ctx, a.store, d, wire.Record{}, append([]string{"/bin/sh", "-c", script, "stile"}, args...)...)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var errs bytes.Buffer
	cmd.Stderr = &limited{w: &errs, left: 64 << 10}
	var out bytes.Buffer
	cmd.Stdout = &limited{w: &out, left: maxGuestOutput}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, 0, ctx.Err()
	case err == nil:
		return out.Bytes(), 0, nil
	case errors.As(err, &exit) && exit.ExitCode() == exitStile:
		a.ui.relay(&errs)
		return nil, 0, exitError(exitStile)
	case errors.As(err, &exit):
		return out.Bytes(), exit.ExitCode(), nil
	}
	return nil, 0, fmt.Errorf("ask distro %s: %w", d.Name, err)
}

// A limited writer passes on so many bytes and loses the others.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// listCommands prints the names of all commands of a distro. The caller's PATH
// has no say: folders of the host's home are no part of the distro.
const listCommands = `
for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin /usr/games /usr/local/games /snap/bin; do
	for f in "$dir"/*; do
		[ -f "$f" ] && [ -x "$f" ] && printf '%s\0' "${f##*/}"
	done
done
exit 0`

// guestCommands asks a distro for its commands, without those whose names can't
// be links', and remembers them for when its machine does not run.
func (a *app) guestCommands(ctx context.Context, d *distro.Distro) ([]string, error) {
	out, _, err := a.guestOutput(ctx, d, listCommands)
	if err != nil {
		return nil, err
	}
	names := commandNames(out)
	return names, a.store.RememberCommands(d, names)
}

// commandNames takes apart what a guest printed: names that end with NUL bytes,
// of commands or paths of them.
func commandNames(out []byte) []string {
	var names []string
	seen := map[string]bool{}
	for field := range strings.SplitSeq(string(out), "\x00") {
		name := filepath.Base(field)
		if field == "" || seen[name] || distro.CheckLinkName(name) != nil {
			continue
		}
		seen[name] = true
		names = append(names, name)
	}
	return names
}
