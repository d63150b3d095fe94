package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/completions"
)

// shells are those that init knows.
var shells = completions.Shells()

func newInitCommand() *command {
	var o completions.Options
	return &command{
		name: "init", args: "[FLAG...] " + strings.Join(shells, "|"), min: 1, max: 1,
		short: "Print what a shell's rc file needs: links on the PATH, completion, hooks",
		long: `
  bash    eval "$(stile init bash)"                                in ~/.bashrc
  zsh     eval "$(stile init zsh)"                                 in ~/.zshrc
  fish    stile init fish | source                                 in ~/.config/fish/config.fish
  pwsh    stile init pwsh | Out-String | Invoke-Expression         in $PROFILE

Put it last, so that nothing that comes later gets before the links. The hooks
have TAB ask the guest's own completion functions, tell of commands that the host
lacks and the guest has, and let a folder's .stile.toml count in it.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&o.NoCompletions, "no-completions", false, "leave TAB alone")
			f.BoolVar(&o.NoNotFound, "no-command-not-found", false, "leave commands alone that are not found")
			f.BoolVar(&o.NoPrompt, "no-prompt", false, "do nothing before a prompt: no .stile.toml counts for links")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runInit(app, args[0], o)
		},
	}
}

func runInit(app *app, shell string, o completions.Options) error {
	if !slices.Contains(shells, shell) {
		return &shellError{shell}
	}
	var err error
	if o.Stile, err = os.Executable(); err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	o.Links, o.Views, o.Fish = app.store.Dirs.Links, app.store.Dirs.Views(), fishDir(app)
	script, err := completions.Init(shell, o)
	if err != nil {
		return err
	}
	if shell == "fish" && !o.NoCompletions {
		if err := fishFiles(app); err != nil {
			return err
		}
	}
	return app.ui.write(strings.NewReader(script))
}

// fishDir is the folder in which fish finds a file for each link.
func fishDir(app *app) string { return filepath.Join(app.store.Dirs.Data, "fish") }

// fishFiles brings that folder up to date.
func fishFiles(app *app) error {
	links, err := app.store.Links()
	if err != nil {
		return err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return completions.FishFiles(fishDir(app), names)
}

type shellError struct{ shell string }

func (e *shellError) Error() string { return fmt.Sprintf("init: there is no shell %q", e.shell) }
func (e *shellError) Hint() string  { return "known are: " + strings.Join(shells, ", ") }
