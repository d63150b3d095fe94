package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine"
)

func newStopCommand() *command {
	var all, force bool
	return &command{
		name: "stop", args: "[NAME|--all] [--force]", max: 1,
		short: "Stop a distro's machine",
		long: `
What runs in it is told to end, then killed; its disk is written out. A machine
that does not run is no error.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVarP(&all, "all", "a", false, "stop all machines")
			f.BoolVarP(&force, "force", "f", false, "stop it at once, as if its power had failed")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runStop(ctx, app, first(args), all, force)
		},
	}
}

func runStop(ctx context.Context, app *app, name string, all, force bool) error {
	if !all {
		d, err := app.store.Get(name)
		if err != nil {
			return err
		}
		return stop(ctx, d, force)
	}
	if name != "" {
		return &usageError{newStopCommand(), "a name and --all contradict each other"}
	}
	list, err := app.store.List()
	if err != nil {
		return err
	}
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, d := range list {
		wg.Go(func() { errs[i] = stop(ctx, d, force) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	// stopLimit is longer than the supervisor gives its guest to end.
	stopLimit  = 90 * time.Second
	forceLimit = 5 * time.Second
)

func stop(ctx context.Context, d *distro.Distro, force bool) error {
	limit := stopLimit
	if force {
		limit = forceLimit
	}
	call, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := machine.Dial(call, d.Dir)
	if err == nil {
		defer c.Close()
		err = c.Stop(call, force)
	}
	switch {
	case force && ctx.Err() == nil:
		// It may not have answered, or have left a process behind.
		return kill(ctx, d)
	case err == nil || errors.Is(err, machine.ErrNotRunning):
		return nil
	case call.Err() != nil && ctx.Err() == nil:
		return &stuckError{d.Name, limit}
	}
	return err
}

type stuckError struct {
	name  string
	limit time.Duration
}

func (e *stuckError) Error() string {
	return fmt.Sprintf("stop %s: it has not ended in %v", e.name, e.limit)
}
func (e *stuckError) Hint() string { return "to stop it at once: stile stop --force " + e.name }

// kill ends every process that has the distro's disk, and waits until none has.
func kill(ctx context.Context, d *distro.Distro) error {
	ctx, cancel := context.WithTimeout(ctx, forceLimit)
	defer cancel()
	for {
		holders, err := distro.Holders(d.DiskPath())
		if err != nil || len(holders) == 0 {
			return err
		}
		for _, h := range holders {
			// Gone meanwhile is as good.
			if err := syscall.Kill(h.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop %s: kill process %d (%s): %w", d.Name, h.PID, h.Command, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %s: process %d (%s) does not end", d.Name, holders[0].PID, holders[0].Command)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
