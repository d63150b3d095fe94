package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stilehq/stile/completions"
)

// shells are those that init knows.
var shells = completions.Shells()

func newInitCommand() *command {
	return &command{
		name: "init", args: strings.Join(shells, "|"), min: 1, max: 1,
		short: "Print what a shell's rc file needs: the links on the PATH",
		long: `
  bash    eval "$(stile init bash)"     in ~/.bashrc
  zsh     eval "$(stile init zsh)"      in ~/.zshrc
  fish    stile init fish | source      in ~/.config/fish/config.fish

Put it last, so that nothing that comes later gets before the links.`,
		run: func(ctx context.Context, app *app, args []string) error {
			return runInit(app, args[0])
		},
	}
}

func runInit(app *app, shell string) error {
	if !slices.Contains(shells, shell) {
		return &shellError{shell}
	}
	script, err := completions.Init(shell, app.store.Dirs.Links)
	if err != nil {
		return err
	}
	return app.ui.write(strings.NewReader(script))
}

type shellError struct{ shell string }

func (e *shellError) Error() string { return fmt.Sprintf("init: there is no shell %q", e.shell) }
func (e *shellError) Hint() string  { return "known are: " + strings.Join(shells, ", ") }
