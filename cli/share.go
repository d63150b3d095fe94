package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/machine"
)

func newShareCommand() *command {
	var readOnly bool
	return &command{
		name: "share", args: "FOLDER [--ro]", min: 1, max: 1,
		short: "Show a folder of the host to all distros, at the same path",
		long: `
Home and /tmp are shared from the start. Machines that run have the folder at
once. A folder inside a shared one can be given more rights, not fewer: a
guest's root has the outer folder too.`,
		flags: func(f *pflag.FlagSet) { f.BoolVar(&readOnly, "ro", false, "guests can't change anything in it") },
		run: func(ctx context.Context, app *app, args []string) error {
			return runShare(ctx, app, args[0], readOnly)
		},
	}
}

func runShare(ctx context.Context, app *app, path string, readOnly bool) error {
	mode := distro.ReadWrite
	if readOnly {
		mode = distro.ReadOnly
	}
	return changeShares(ctx, app, func() error {
		_, err := app.store.Share(path, mode)
		return err
	})
}

func newUnshareCommand() *command {
	return &command{
		name: "unshare", args: "FOLDER", min: 1, max: 1,
		short: "Take a shared folder away from all distros",
		long:  "Home and /tmp can be taken away too. Machines that run lose the folder at once.",
		run: func(ctx context.Context, app *app, args []string) error {
			return changeShares(ctx, app, func() error {
				_, err := app.store.Unshare(args[0])
				return err
			})
		},
	}
}

// shareLimit bounds what a machine may take to change one share.
const shareLimit = 15 * time.Second

// changeShares makes a change in the store and brings the machines that run to
// what the store then says.
func changeShares(ctx context.Context, app *app, change func() error) error {
	names, err := app.store.Names()
	if err != nil {
		return err
	}
	before := map[string][]guest.Share{}
	for _, name := range names {
		if before[name], err = app.store.Shares(name); err != nil {
			return err
		}
	}
	if err := change(); err != nil {
		return err
	}
	for _, name := range names {
		after, err := app.store.Shares(name)
		if err != nil {
			return err
		}
		if err := bringTo(ctx, app, name, before[name], after); err != nil {
			app.ui.note("the running machine of %s keeps what it has until it is stopped: %v", name, err)
		}
	}
	return nil
}

// bringTo changes the shares of a machine, if it runs.
func bringTo(ctx context.Context, app *app, name string, before, after []guest.Share) error {
	return whileRunning(ctx, app, name, func(ctx context.Context, c *machine.Client) error {
		// A share whose mode changes goes and comes.
		for _, s := range minus(before, after) {
			if err := c.Unshare(ctx, s); err != nil {
				return err
			}
		}
		for _, s := range minus(after, before) {
			if err := c.Share(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// whileRunning calls f with a connection to a distro's machine, and within the time
// that a change of a running machine may take; where no machine runs it does
// nothing.
func whileRunning(ctx context.Context, app *app, name string, f func(context.Context, *machine.Client) error) error {
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, shareLimit)
	defer cancel()
	c, err := machine.Dial(ctx, d.Dir)
	if errors.Is(err, machine.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}

// minus is a without those of b.
func minus(a, b []guest.Share) []guest.Share {
	in := map[guest.Share]bool{}
	for _, s := range b {
		in[s] = true
	}
	var rest []guest.Share
	for _, s := range a {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

func newSharesCommand() *command {
	var json bool
	var name string
	return &command{
		name: "shares", args: "[-d NAME] [--json]", short: "List the folders that are shared",
		flags: func(f *pflag.FlagSet) {
			distroFlag(f, &name)
			jsonFlag(f, &json)
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runShares(app, name, json)
		},
	}
}

func runShares(app *app, name string, json bool) error {
	if name != "" {
		if _, err := app.store.Get(name); err != nil {
			return err
		}
	} else if chosen, err := app.store.Default(); err == nil {
		name = chosen
	}
	list, err := app.store.ShareList(name)
	if err != nil {
		return err
	}
	if json {
		return app.ui.json(list)
	}
	var rows [][]string
	for _, s := range list {
		note := ""
		switch s.Real {
		case s.Path:
		case "":
			note = "does not exist"
		default:
			note = "→ " + s.Real
		}
		rows = append(rows, []string{string(s.Mode), s.Origin, s.Path, note})
	}
	app.ui.table([]string{"MODE", "FROM", "FOLDER", ""}, rows)
	return nil
}
