package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/interop/wire"
)

// runFlags are those of run and shell.
type runFlags struct {
	distro, user, cd, engine string
	env                      []string
	rusage                   bool // run's alone
}

func (r *runFlags) define(f *pflag.FlagSet) {
	distroFlag(f, &r.distro)
	f.StringVarP(&r.user, "user", "u", "", "run as this `user` of the distro; by default the host's user")
	f.StringVar(&r.cd, "cd", "", "run in this `folder` of the guest; by default the current one")
	engineFlag(f, &r.engine)
	f.StringArrayVarP(&r.env, "env", "e", nil, "set `NAME[=VALUE]`; without a value that of the calling shell")
}

func newRunCommand() *command {
	var flags runFlags
	return &command{
		name: "run", args: "[FLAG...] COMMAND [ARGUMENT...]", min: 1, max: -1, operands: true,
		short: "Run a command of a distro",
		long: `
The command gets this one's arguments, standard input and output, terminal,
environment and folder, and this one ends as the command does: with its exit
status, or by the signal that killed it. What the time command says is this
one's own; --rusage says at the end what the command itself has used. 125 is a failure of stile's own, 126 a
command that can't be executed, 127 one that is not there.`,
		flags: func(f *pflag.FlagSet) {
			flags.define(f)
			f.BoolVar(&flags.rusage, "rusage", false, "say at the end what the command has used: its CPU time, for one")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runRun(ctx, app, &flags, args)
		},
	}
}

func runRun(ctx context.Context, app *app, flags *runFlags, args []string) error {
	theirs, err := app.callers(flags.distro)
	if err != nil {
		return err
	}
	record, err := flags.record(theirs)
	if err != nil {
		return err
	}
	if args[0] == "" {
		return &wire.Error{Code: 127, What: `""`, Why: "no such command"}
	}
	if flags.engine != "" {
		if err := startOn(ctx, theirs.store, record.Distro, flags.engine); err != nil {
			return err
		}
	}
	return execShim(app, record, args)
}

// record is what the shim is to know.
func (r *runFlags) record(app *app) (*wire.Record, error) {
	d, err := app.here(r.distro)
	if err != nil {
		return nil, err
	}
	// The machine would report wrong settings only if it had yet to start.
	if _, err := distro.LoadConfig(app.store.Dirs); err != nil {
		return nil, err
	}
	stile, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	record := &wire.Record{Distro: d.Name, Home: d.Dir, Stile: stile, User: r.user, Start: app.store.Dirs.Environ(), Rusage: r.rusage}
	if r.cd != "" {
		if record.Cd, err = filepath.Abs(r.cd); err != nil {
			return nil, fmt.Errorf("find folder %s: %w", r.cd, err)
		}
	}
	for _, e := range r.env {
		name, _, given := strings.Cut(e, "=")
		if name == "" {
			return nil, &wire.Error{Code: exitStile, What: "-e " + e, Why: "a variable has a name"}
		}
		if value, ok := os.LookupEnv(name); !given && ok {
			e = name + "=" + value
		} else if !given {
			continue
		}
		record.Env = append(record.Env, e)
	}
	return record, nil
}

// execShim replaces this process by the shim, which does what the record says.
// It returns only if that fails.
func execShim(app *app, record *wire.Record, args []string) error {
	shim, err := payload.Shim(app.store.Dirs)
	if err != nil {
		return err
	}
	data, err := record.Append(nil)
	if err != nil {
		return &wire.Error{Code: exitStile, What: "run", Why: "an argument holds a NUL byte"}
	}
	// It has no close-on-exec flag: the shim reads it.
	fd, err := unix.MemfdCreate(wire.RecordArgv0, 0)
	if err != nil {
		return fmt.Errorf("pass record: %w", err)
	}
	for at := 0; at < len(data); {
		n, err := unix.Pwrite(fd, data[at:], int64(at))
		if err != nil {
			return fmt.Errorf("pass record: %w", err)
		}
		at += n
	}
	argv := append([]string{wire.RecordArgv0, fmt.Sprintf("/proc/self/fd/%d", fd)}, args...)
	err = unix.Exec(shim, argv, os.Environ())
	switch {
	case errors.Is(err, unix.E2BIG):
		return &wire.Error{Code: 126, What: args[0], Why: "the arguments and the environment are too long",
			Hint: "pass fewer arguments at a time: xargs does"}
	case errors.Is(err, fs.ErrPermission):
		return &wire.Error{Code: exitStile, What: "run " + shim, Why: err.Error(),
			Hint: "the file system may be mounted noexec; XDG_DATA_HOME can name a folder elsewhere"}
	}
	return fmt.Errorf("run %s: %w", shim, err)
}
