package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/shlex"
	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/interop/wire"
)

// linkFlags are those of link.
type linkFlags struct {
	distro, as, args, user, cd, from string
	env, packages                    []string
	missing                          bool
}

func newLinkCommand() *command {
	var flags linkFlags
	return &command{
		name: "link", args: "[FLAG...] COMMAND...", max: -1,
		short: "Make commands of a distro commands of the host",
		long: `
Each link is a small program of the command's name in one folder, which stile
init puts on the PATH. A link that was made before is changed.

  stile link grep git
  stile link --as ll --args '-l --color=auto' ls
  stile link --package ripgrep     the commands of a package of the distro
  stile link --missing             the commands that this host lacks
  stile link --from links.toml     those of a file: see stile help links

As root in the distro: sudo "$(command -v apt)" install ripgrep. sudo does not look
in the links' folder, so it wants the whole path; or make the link with --user root.`,
		flags: func(f *pflag.FlagSet) {
			distroFlag(f, &flags.distro)
			f.StringVar(&flags.as, "as", "", "the `name` of the link, for one command; by default the command's own")
			f.StringVar(&flags.args, "args", "", "`arguments` before those that the link is called with, quoted as for sh")
			f.StringArrayVarP(&flags.env, "env", "e", nil, "set `NAME=VALUE` for the command")
			f.StringVarP(&flags.user, "user", "u", "", "run as this `user` of the distro; by default the host's user")
			f.StringVar(&flags.cd, "cd", "", "run in this `folder` of the guest; by default the caller's")
			f.StringArrayVar(&flags.packages, "package", nil, "link the commands of a `package` that the distro has")
			f.BoolVar(&flags.missing, "missing", false, "only commands that this host lacks; alone: all that the distro has")
			f.StringVar(&flags.from, "from", "", "make the links of a `file` that stile links --export wrote")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runLink(ctx, app, &flags, args)
		},
	}
}

// linkError is what is wrong with a command line of link.
func linkError(what, why, hint string) error {
	return &wire.Error{Code: exitStile, What: strings.TrimSpace("link " + what), Why: why, Hint: hint}
}

func runLink(ctx context.Context, app *app, flags *linkFlags, args []string) error {
	if err := flags.check(args); err != nil {
		return err
	}
	links, err := flags.links(ctx, app, args)
	if err != nil {
		return err
	}
	return makeLinks(app, links)
}

// check refuses flags that contradict each other.
func (flags *linkFlags) check(args []string) error {
	many := len(args) > 1 || len(flags.packages) > 0 || flags.missing && len(args) == 0
	switch {
	case flags.from != "" && (len(args) > 0 || flags.distro+flags.as+flags.args+flags.user+flags.cd != "" ||
		len(flags.env)+len(flags.packages) > 0 || flags.missing):
		return linkError("--from "+flags.from, "the file says all there is to say", "give --from alone, or change the file")
	case flags.from == "" && len(args) == 0 && len(flags.packages) == 0 && !flags.missing:
		return &usageError{newLinkCommand(), "something is missing"}
	case flags.as != "" && many:
		return linkError("--as "+flags.as, "one name can't be that of several commands", "link them one by one")
	}
	return nil
}

// links are those that the command line asks for, each name looked at.
func (flags *linkFlags) links(ctx context.Context, app *app, args []string) ([]distro.Link, error) {
	if flags.from != "" {
		return distro.ReadLinksFrom(flags.from)
	}
	d, err := app.store.Get(flags.distro)
	if err != nil {
		return nil, err
	}
	record := wire.Record{Distro: d.Name, User: flags.user, Env: flags.env}
	if record.Args, err = shlex.Split(flags.args); err != nil {
		return nil, linkError("--args "+flags.args, err.Error(), "quote it as for sh: --args '-m \"two words\"'")
	}
	if err := distro.CheckEnv(flags.env); err != nil {
		return nil, linkError("", err.Error(), "")
	}
	if flags.cd != "" {
		if record.Cd, err = filepath.Abs(flags.cd); err != nil {
			return nil, fmt.Errorf("find folder %s: %w", flags.cd, err)
		}
	}
	var links []distro.Link
	for _, command := range args {
		if command == "" {
			return nil, &wire.Error{Code: exitStile, What: `link ""`, Why: "a command has a name"}
		}
		l := distro.Link{Name: filepath.Base(command), Record: record}
		l.Record.Command = command
		if flags.as != "" {
			l.Name = flags.as
		}
		if err := distro.CheckLinkName(l.Name); err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	names, err := flags.ask(ctx, app, d, args)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		l := distro.Link{Name: name, Record: record}
		l.Record.Command = name
		links = append(links, l)
	}
	if flags.missing {
		path := os.Getenv("PATH")
		links = slices.DeleteFunc(links, func(l distro.Link) bool { return app.store.Dirs.HostProgram(path, l.Name) != "" })
	}
	if len(links) == 0 {
		app.ui.note("this host has all of them: no link was made")
	}
	return links, nil
}

// ask gets from the guest the names that the command line does not have.
func (flags *linkFlags) ask(ctx context.Context, app *app, d *distro.Distro, args []string) ([]string, error) {
	if flags.missing && len(args)+len(flags.packages) == 0 {
		return app.guestCommands(ctx, d)
	}
	var names []string
	for _, p := range flags.packages {
		of, err := packageCommands(ctx, app, d, p)
		if err != nil {
			return nil, err
		}
		names = append(names, of...)
	}
	return names, nil
}

// makeLinks makes all links or, where one of them can't be, none.
func makeLinks(app *app, links []distro.Link) error {
	stile, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	for i := range links {
		d, err := app.store.Get(links[i].Record.Distro)
		if err != nil {
			return err
		}
		links[i].Record.Distro, links[i].Record.Stile = d.Name, stile
		if err := app.store.CheckLink(links[i].Name); err != nil {
			return err
		}
	}
	shim, err := payload.Shim(app.store.Dirs)
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := app.store.Link(l, shim); err != nil {
			return err
		}
		text := l.Name + " runs " + l.Command() + " of " + l.Record.Distro
		if hidden := app.store.Dirs.HostProgram(os.Getenv("PATH"), l.Name); hidden != "" {
			text += ", in place of the host's " + hidden
		}
		app.ui.say("%s", printable(text))
	}
	if err := app.store.RefreshViews(stile, shim); err != nil {
		return err
	}
	if err := fishFiles(app); err != nil {
		return err
	}
	if len(links) > 0 && !onPath(app.store.Dirs) {
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
			return refreshViews(app)
		},
	}
}

// refreshViews tells the folders with a .stile.toml, and fish, of a change of the
// links.
func refreshViews(app *app) error {
	if err := fishFiles(app); err != nil {
		return err
	}
	stile, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	shim, err := payload.Shim(app.store.Dirs)
	var missing *payload.MissingError
	if errors.As(err, &missing) {
		return nil // no link works without: there is no view that does
	}
	if err != nil {
		return err
	}
	return app.store.RefreshViews(stile, shim)
}
