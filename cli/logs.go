package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/stilehq/stile/machine"
)

func newLogsCommand() *command {
	return &command{
		name: "logs", args: "[NAME]", max: 1,
		short: "Print what a machine's kernel and stile in it have written",
		long:  "It is the log of the machine that runs, or of the one that ran last.",
		run: func(ctx context.Context, app *app, args []string) error {
			return runLogs(app, first(args))
		},
	}
}

func runLogs(app *app, name string) error {
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	f, err := os.Open(machine.LogPath(app.store.Dirs, d.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return &noLogError{d.Name}
	}
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	return app.ui.write(f)
}

type noLogError struct{ name string }

func (e *noLogError) Error() string {
	return "logs " + e.name + ": its machine has not run since login"
}
func (e *noLogError) Hint() string { return "to run it: stile start " + e.name }
