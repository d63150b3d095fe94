package cli

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/machine"
)

func newStartCommand() *command {
	var quiet bool
	return &command{
		name: "start", args: "[NAME] [--quiet]", max: 1,
		short: "Start a distro's machine and wait until it is up",
		long: `
There is no need to: the first command that needs the machine starts it. It ends
by itself when nothing has needed it for a while (idle in config.toml).`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVarP(&quiet, "quiet", "q", false, "return as soon as the machine takes commands")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runStart(ctx, app, first(args), quiet)
		},
	}
}

func runStart(ctx context.Context, app *app, name string, quiet bool) error {
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	if err := machine.Start(ctx, app.store, d.Name); err != nil || quiet {
		return err
	}
	c, err := machine.Dial(ctx, d.Dir)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Ready(ctx)
}

// first is the first argument, "" if there is none.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
