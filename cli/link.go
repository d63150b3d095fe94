package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/interop/wire"
)

func newLinkCommand() *command {
	var name, as string
	return &command{
		name: "link", args: "[-d NAME] [--as NAME] COMMAND...", min: 1, max: -1,
		short: "Make commands of a distro commands of the host",
		long: `
Each link is a small program of the command's name in one folder, which stile
init puts on the PATH. A link that was made before is changed.`,
		flags: func(f *pflag.FlagSet) {
			distroFlag(f, &name)
			f.StringVar(&as, "as", "", "the `name` of the link, for one command; by default the command's own")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runLink(app, name, as, args)
		},
	}
}

func runLink(app *app, name, as string, args []string) error {
	if as != "" && len(args) > 1 {
		return &wire.Error{Code: exitStile, What: "link --as " + as, Why: "one name can't be that of several commands",
			Hint: "link them one by one"}
	}
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	stile, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	// All names are looked at before the first link is made.
	var links []distro.Link
	for _, command := range args {
		l := distro.Link{Name: filepath.Base(command), Record: wire.Record{Distro: d.Name, Stile: stile, Command: command}}
		if as != "" {
			l.Name = as
		}
		if command == "" {
			return &wire.Error{Code: exitStile, What: `link ""`, Why: "a command has a name"}
		}
		if err := distro.CheckLinkName(l.Name); err != nil {
			return err
		}
		links = append(links, l)
	}
	shim, err := payload.Shim(app.store.Dirs)
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := app.store.Link(l, shim); err != nil {
			return err
		}
		text := l.Name + " runs " + l.Command() + " of " + d.Name
		if hidden := app.store.Dirs.HostProgram(os.Getenv("PATH"), l.Name); hidden != "" {
			text += ", in place of the host's " + hidden
		}
		app.ui.say("%s", text)
	}
	if !onPath(app.store.Dirs) {
		app.ui.note(`the links' folder is not on your PATH yet: eval "$(%s init %s)"`, "stile", shellName())
	}
	return nil
}

// onPath reports whether the links' folder is on the PATH.
func onPath(dirs distro.Dirs) bool {
	return slices.ContainsFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
		return dir != "" && filepath.Clean(dir) == dirs.Links
	})
}

// shellName is the user's shell if stile init knows it, else bash.
func shellName() string {
	if name := filepath.Base(os.Getenv("SHELL")); slices.Contains(shells, name) {
		return name
	}
	return "bash"
}

func newUnlinkCommand() *command {
	return &command{
		name: "unlink", args: "NAME...", min: 1, max: -1, short: "Take links away",
		run: func(ctx context.Context, app *app, args []string) error {
			for _, name := range args {
				if err := app.store.Unlink(name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newLinksCommand() *command {
	var json bool
	return &command{
		name: "links", args: "[--json]", short: "List the links",
		flags: func(f *pflag.FlagSet) { jsonFlag(f, &json) },
		run: func(ctx context.Context, app *app, args []string) error {
			return runLinks(app, json)
		},
	}
}

// A linkEntry is one link in the output of links --json.
type linkEntry struct {
	Name    string   `json:"name"`
	Distro  string   `json:"distro"`
	Command string   `json:"command"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"`
	User    string   `json:"user,omitempty"`
	Cd      string   `json:"cd,omitempty"`
	Hides   string   `json:"hides,omitempty"` // the host's program of the name
}

func runLinks(app *app, json bool) error {
	links, err := app.store.Links()
	if err != nil {
		return err
	}
	var entries []linkEntry
	for _, l := range links {
		r := l.Record
		entries = append(entries, linkEntry{l.Name, r.Distro, l.Command(), r.Args, r.Env, r.User, r.Cd,
			app.store.Dirs.HostProgram(os.Getenv("PATH"), l.Name)})
	}
	if json {
		return app.ui.json(entries)
	}
	if len(entries) == 0 {
		app.ui.note("there are no links yet; make some: stile link grep git")
		return nil
	}
	var rows [][]string
	for _, e := range entries {
		rows = append(rows, []string{e.Name, e.Distro, strings.Join(append([]string{e.Command}, e.Args...), " "), e.Hides})
	}
	app.ui.table([]string{"NAME", "DISTRO", "COMMAND", "HIDES"}, rows)
	return nil
}
