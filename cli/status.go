package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine"
)

func newStatusCommand() *command {
	var json, verbose bool
	return &command{
		name: "status", args: "[NAME] [-v] [--json]", max: 1,
		short: "Show which machines run, and what keeps them",
		long: `
With -v it tells of each running machine which engine it has and why, and what it
has done so far: exits of its vCPUs to stile (with the kvm engine), and for each
virtio device that stile serves the requests, packets or buffers of each queue,
and how often the guest was interrupted for them; and what its two processes have
open and under way.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVarP(&verbose, "verbose", "v", false, "tell the engine and what the machine has done")
			jsonFlag(f, &json)
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runStatus(ctx, app, first(args), json, verbose)
		},
	}
}

// States of a machine.
const (
	stateStopped  = "stopped"
	stateStarting = "starting"
	stateRunning  = "running"
	stateStuck    = "not answering"
)

// A statusEntry is one distro in the output of status --json. What the machine
// says of itself is there if it answers.
type statusEntry struct {
	Name  string `json:"name"`
	State string `json:"state"`
	*machine.Status
}

// statusLimit is how long a machine may take to answer.
const statusLimit = 3 * time.Second

func runStatus(ctx context.Context, app *app, name string, json, verbose bool) error {
	list, err := app.store.List()
	if err != nil {
		return err
	}
	if name != "" {
		d, err := app.store.Get(name)
		if err != nil {
			return err
		}
		list = []*distro.Distro{d}
	}
	var entries []statusEntry
	for _, d := range list {
		entries = append(entries, status(ctx, d, verbose))
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
		rows = append(rows, e.row())
	}
	app.ui.table([]string{"NAME", "STATE", "ENGINE", "PID", "UP", "MEMORY", "KERNEL", "KEPT BY"}, rows)
	for _, e := range entries {
		if verbose && e.Status != nil {
			app.ui.say("")
			app.ui.table([]string{e.Name, ""}, e.details())
		}
	}
	return nil
}

func status(ctx context.Context, d *distro.Distro, verbose bool) statusEntry {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	e := statusEntry{Name: d.Name, State: stateStuck}
	c, err := machine.Dial(ctx, d.Dir)
	if errors.Is(err, machine.ErrNotRunning) {
		e.State = stateStopped
		return e
	}
	if err != nil {
		return e
	}
	defer c.Close()
	s, err := c.Status(ctx, verbose)
	if err != nil {
		return e
	}
	e.Status, e.State = &s, stateStarting
	if s.Ready {
		e.State = stateRunning
	}
	return e
}

// row is the entry in the table.
func (e statusEntry) row() []string {
	s := e.Status
	if s == nil {
		return []string{e.Name, e.State, "", "", "", "", "", ""}
	}
	return []string{
		e.Name, e.State, s.Engine, fmt.Sprint(s.PID), time.Since(s.Since).Round(time.Second).String(),
		distro.Size(s.Resident).String(), s.Kernel, keptBy(s),
	}
}

// keptBy says why a machine goes on.
func keptBy(s *machine.Status) string {
	var by []string
	if s.Full {
		by = append(by, "the host's disk is full: it waits for room")
	}
	if s.Sessions == 1 {
		by = append(by, "1 command")
	} else if s.Sessions > 1 {
		by = append(by, fmt.Sprintf("%d commands", s.Sessions))
	}
	if len(s.Left) > 0 {
		by = append(by, "left behind: "+strings.Join(s.Left, ", "))
	}
	if len(by) == 0 && s.IdleIn > 0 {
		by = append(by, fmt.Sprintf("nothing: ends in %v", time.Duration(s.IdleIn*float64(time.Second)).Round(time.Second)))
	}
	return strings.Join(by, "; ")
}
