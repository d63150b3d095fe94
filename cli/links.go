package cli

import (
	"bytes"
	"context"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
)

func newLinksCommand() *command {
	var json, export bool
	return &command{
		name: "links", args: "[--json|--export]", short: "List the links",
		long: `
With --export it prints them for a file that is kept with one's dotfiles, from
which stile link --from FILE makes them again:

  [links.ll]
  distro = "debian"               # left out: the default
  command = "ls"                  # left out: the link's name
  args = ["-l", "--color=auto"]   # before the caller's
  env = ["LC_ALL=C.UTF-8"]
  user = "root"                   # left out: the host's user
  cd = "/srv"                     # left out: the caller's folder`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f, &json)
			f.BoolVar(&export, "export", false, "print them for stile link --from")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if json && export {
				return &usageError{newLinksCommand(), "--json and --export contradict each other"}
			}
			return runLinks(app, json, export)
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

func runLinks(app *app, json, export bool) error {
	links, err := app.store.Links()
	if err != nil {
		return err
	}
	if export {
		text, err := distro.ExportLinks(links)
		if err != nil {
			return err
		}
		return app.ui.write(bytes.NewReader(text))
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
