package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine"
)

func newListCommand() *command {
	var json bool
	return &command{
		name: "list", args: "[--json]", aliases: []string{"ls"}, short: "List the distros",
		long: `
SIZE is what a distro takes of the host's disk. The default distro, which
commands use where none is named, has a star.`,
		flags: func(f *pflag.FlagSet) { jsonFlag(f, &json) },
		run: func(ctx context.Context, app *app, args []string) error {
			return runList(ctx, app, json)
		},
	}
}

// A listEntry is one distro in the output of list --json.
type listEntry struct {
	Name      string    `json:"name"`
	Default   bool      `json:"default"`
	Running   bool      `json:"running"`
	Source    string    `json:"source"`
	Created   time.Time `json:"created"`
	Size      int64     `json:"size"`      // bytes of the disk as the guest sees it
	Allocated int64     `json:"allocated"` // bytes of the host's disk that it takes
}

func runList(ctx context.Context, app *app, json bool) error {
	list, err := app.store.List()
	if err != nil {
		return err
	}
	chosen, err := app.store.Default()
	if err != nil && !errors.Is(err, distro.ErrNoDefault) {
		return err
	}
	var entries []listEntry
	for _, d := range list {
		e := listEntry{Name: d.Name, Default: d.Name == chosen, Source: d.Info.Source, Created: d.Info.Created}
		// A distro whose disk lacks is listed nevertheless: how else would one
		// remove it?
		e.Size, e.Allocated, _ = d.Usage()
		if c, err := machine.Dial(ctx, d.Dir); err == nil {
			e.Running = true
			c.Close()
		}
		entries = append(entries, e)
	}
	if json {
		return app.ui.json(entries)
	}
	if len(entries) == 0 {
		app.ui.note("there is no distro yet; make one: stile install debian")
		return nil
	}
	var rows [][]string
	for _, e := range entries {
		name, state := e.Name, "stopped"
		if e.Default {
			name += " *"
		}
		if e.Running {
			state = "running"
		}
		rows = append(rows, []string{name, state, distro.Size(e.Allocated).String(), e.Created.Local().Format(time.DateOnly), e.Source})
	}
	app.ui.table([]string{"NAME", "STATE", "SIZE", "CREATED", "SOURCE"}, rows)
	return nil
}
