package cli

import (
	"context"
)

func newShellCommand() *command {
	var flags runFlags
	return &command{
		name: "shell", args: "[FLAG...]", short: "Open a login shell in a distro",
		long: `
It starts in the current folder if that is shared, else in the user's home of
the distro.`,
		flags: flags.define,
		run: func(ctx context.Context, app *app, args []string) error {
			return runShell(app, &flags)
		},
	}
}

func runShell(app *app, flags *runFlags) error {
	theirs, err := app.callers(flags.distro)
	if err != nil {
		return err
	}
	record, err := flags.record(theirs)
	if err != nil {
		return err
	}
	record.Login, record.CwdFallback = true, true
	return execShim(app, record, nil)
}
