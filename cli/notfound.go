package cli

import (
	"context"
	"slices"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine"
)

// What not-found ends with, for the shells' hooks.
const (
	notFoundRun     = 0 // run it in the guest
	notFoundUnknown = 1 // the guest lacks it too, or is not to be asked
	notFoundOffered = 2 // what there is to say has been said
)

// newNotFoundCommand is what the shells' hooks ask about a command that the host
// lacks.
func newNotFoundCommand() *command {
	return &command{
		name: "not-found", args: "NAME", min: 1, max: 1, hidden: true,
		short: "Tell whether a guest has a command that the host lacks (the shells' hooks ask)",
		run: func(ctx context.Context, app *app, args []string) error {
			return runNotFound(ctx, app, args[0])
		},
	}
}

// runNotFound says nothing of what goes wrong: the user has typed a name, and
// gets to know that there is no such command.
func runNotFound(ctx context.Context, app *app, name string) error {
	unknown := exitError(notFoundUnknown)
	config, err := distro.LoadConfig(app.store.Dirs)
	if err != nil || distro.CheckLinkName(name) != nil || config.Shell().NotFound == distro.NotFoundOff {
		return unknown
	}
	d, err := app.here("")
	if err != nil {
		return unknown
	}
	if has, err := app.guestHas(ctx, d, name); err != nil || !has {
		return unknown
	}
	if config.Shell().NotFound == distro.NotFoundRun {
		return nil
	}
	name = printable(name)
	app.ui.note("%s: this host has no such command, but %s has: stile run %s, or for good: stile link %s", name, d.Name, name, name)
	return exitError(notFoundOffered)
}

// guestHas reports whether a distro has a command. A machine that runs is asked;
// without one it is what was remembered: a slip of the finger boots nothing.
func (a *app) guestHas(ctx context.Context, d *distro.Distro, name string) (bool, error) {
	names, err := a.store.Commands(d)
	if err != nil {
		return false, err
	}
	if c, err := machine.Dial(ctx, d.Dir); err == nil {
		c.Close()
		if names, err = a.guestCommands(ctx, d); err != nil {
			return false, err
		}
	}
	return slices.Contains(names, name), nil
}
