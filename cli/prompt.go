package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stilehq/stile/distro"
)

func newPromptCommand() *command {
	return &command{
		name: "prompt", short: "Print which distro the current folder uses, for a shell's prompt",
		long: `
It prints one line, or nothing where no distro is the default, and asks no
machine. A folder whose .stile.toml is not trusted has a "?" after its name.

  PS1='$(stile prompt) '"$PS1"       in ~/.bashrc`,
		run: func(ctx context.Context, app *app, args []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return nil // the folder was removed: a prompt has no room for that
			}
			name, _, err := app.store.DefaultIn(dir)
			var untrusted *distro.UntrustedError
			switch {
			case errors.As(err, &untrusted):
				if name, err = app.store.Default(); err != nil {
					name = ""
				}
				app.ui.say("%s?", name)
				return nil
			case errors.Is(err, distro.ErrNoDefault):
				return nil
			case err != nil:
				return fmt.Errorf("prompt: %w", err)
			}
			app.ui.say("%s", name)
			return nil
		},
	}
}
