package cli

import (
	"context"
	"os"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine"
)

func newStartCommand() *command {
	var quiet bool
	var engine string
	return &command{
		name: "start", args: "[NAME] [--quiet] [--engine NAME]", max: 1,
		short: "Start a distro's machine and wait until it is up",
		long: `
There is no need to: the first command that needs the machine starts it. It ends
by itself when nothing has needed it for a while (idle in config.toml).`,
		flags: func(f *pflag.FlagSet) {
			engineFlag(f, &engine)
			f.BoolVarP(&quiet, "quiet", "q", false, "return as soon as the machine takes commands")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if engine != "" {
				if err := startOn(ctx, app.store, first(args), engine); err != nil {
					return err
				}
			}
			return runStart(ctx, app, first(args), quiet)
		},
	}
}

func runStart(ctx context.Context, app *app, name string, quiet bool) error {
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	if err := startMachine(ctx, app.store, d); err != nil || quiet {
		return err
	}
	c, err := machine.Dial(ctx, d.Dir)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Ready(ctx)
}

func engineFlag(f *pflag.FlagSet, engine *string) {
	f.StringVar(engine, "engine", "", "start the machine on this `engine`: auto, kvm or qemu")
}

// startOn starts a distro's machine on an engine. One that runs on another is an
// error: what runs in it is not ended for that.
func startOn(ctx context.Context, store *distro.Store, name, engine string) error {
	d, err := store.Get(name)
	if err != nil {
		return err
	}
	var asked distro.Engine
	if err := asked.UnmarshalText([]byte(engine)); err != nil {
		return &wire.Error{Code: exitStile, What: "--engine", Why: err.Error()}
	}
	if err := os.Setenv(machine.EngineVariable, engine); err != nil {
		return err
	}
	err = startMachine(ctx, store, d)
	os.Unsetenv(machine.EngineVariable)
	if err != nil {
		return err
	}
	c, err := machine.Dial(ctx, d.Dir)
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.Status(ctx, false)
	if err != nil {
		return err
	}
	if asked != distro.EngineAuto && st.Engine != engine {
		return &wire.Error{Code: exitStile, What: "distro " + d.Name, Why: "its machine runs on " + st.Engine + " already",
			Hint: "to end it: stile stop " + d.Name}
	}
	return nil
}

// first is the first argument, "" if there is none.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
