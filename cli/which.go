package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine"
)

func newWhichCommand() *command {
	var json bool
	return &command{
		name: "which", args: "[--json] NAME...", min: 1, max: -1,
		short: "Tell what a command's name would run, where, and why",
		long: `
It looks along the PATH, as a shell would that has no alias or function of the
name. Where the command is in the guest it says only if the machine runs. It ends
with 1 if a name would run nothing.`,
		flags: func(f *pflag.FlagSet) { jsonFlag(f, &json) },
		run: func(ctx context.Context, app *app, args []string) error {
			return runWhich(ctx, app, args, json)
		},
	}
}

// A whichEntry is one name in the output of which --json.
type whichEntry struct {
	Name    string   `json:"name"`
	Path    string   `json:"path,omitempty"`    // what the PATH has of the name first
	Distro  string   `json:"distro,omitempty"`  // where that is a link
	Command string   `json:"command,omitempty"` // what it runs there
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"`
	User    string   `json:"user,omitempty"`
	Cd      string   `json:"cd,omitempty"`
	Guest   string   `json:"guest,omitempty"` // its path in the guest, if that could be asked
	Hides   string   `json:"hides,omitempty"` // the host's program of the name
	Why     string   `json:"why"`
}

func runWhich(ctx context.Context, app *app, names []string, json bool) error {
	var entries []whichEntry
	lacks := false
	for _, name := range names {
		e, err := which(ctx, app, name)
		if err != nil {
			return err
		}
		lacks = lacks || e.Path == ""
		entries = append(entries, e)
	}
	if json {
		if err := app.ui.json(entries); err != nil {
			return err
		}
	} else {
		for _, e := range entries {
			app.ui.say("%s", printable(e.line()))
		}
	}
	if lacks {
		return exitError(exitFailed)
	}
	return nil
}

// line is the entry in words.
func (e *whichEntry) line() string {
	if e.Distro == "" {
		if e.Path == "" {
			return e.Name + ": " + e.Why
		}
		return e.Name + ": " + e.Path + " of this host: " + e.Why
	}
	command := strings.Join(append([]string{e.Command}, e.Args...), " ")
	if len(e.Env) > 0 {
		command = strings.Join(e.Env, " ") + " " + command
	}
	text := e.Name + ": " + e.Path + " runs " + command + " of " + e.Distro
	if e.Guest != "" && e.Guest != e.Command {
		text += " (" + e.Guest + " there)"
	}
	if e.User != "" {
		text += " as " + e.User
	}
	if e.Cd != "" {
		text += " in " + e.Cd
	}
	if e.Hides != "" {
		text += ", in place of the host's " + e.Hides
	}
	return text + ": " + e.Why
}

func which(ctx context.Context, app *app, name string) (whichEntry, error) {
	e := whichEntry{Name: name}
	dirs, path := app.store.Dirs, os.Getenv("PATH")
	e.Path = lookPath(path, name)
	host := dirs.HostProgram(path, name)
	record, why, err := app.linkAt(e.Path)
	if err != nil {
		return e, err
	}
	if record == nil {
		e.Why, err = whyHost(app, e.Path, name)
		return e, err
	}
	e.Distro, e.Args, e.Env, e.User, e.Cd, e.Hides, e.Why = record.Distro, record.Args, record.Env, record.User, record.Cd, host, why
	if e.Command = record.Command; e.Command == "" {
		e.Command = name
	}
	d, err := app.store.Get(e.Distro)
	if errors.Is(err, distro.ErrNotFound) {
		e.Why += "; but there is no such distro any more"
		return e, nil
	}
	if err != nil {
		return e, err
	}
	if c, err := machine.Dial(ctx, d.Dir); err == nil {
		c.Close()
		out, status, err := app.guestOutput(ctx, d, `command -v -- "$1"`, e.Command)
		if err != nil {
			return e, err
		}
		if e.Guest = strings.TrimRight(string(out), "\n"); status != 0 {
			e.Why += "; but " + d.Name + " has no such command"
		}
	}
	return e, nil
}

// linkAt is the record of a link of stile's, and why it is the one that runs. It
// is nil if path is none.
func (a *app) linkAt(path string) (*wire.Record, string, error) {
	dir := filepath.Dir(path)
	if path == "" || !a.store.Dirs.IsLinks(dir) {
		return nil, "", nil
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "links", filepath.Base(path)))
	if err != nil {
		return nil, "", fmt.Errorf("read link's record: %w", err)
	}
	var r wire.Record
	if err := r.Parse(data); err != nil {
		return nil, "", &distro.LinkError{Name: filepath.Base(path), Why: "its record is damaged", Cure: "make the link again"}
	}
	if dir == a.store.Dirs.Links {
		return &r, "it is linked", nil
	}
	of, err := a.store.Dirs.ViewOf(dir)
	if err != nil {
		return nil, "", err
	}
	return &r, of + " says so", nil
}

// whyHost says why no link runs.
func whyHost(app *app, path, name string) (string, error) {
	links, err := app.store.Links()
	if err != nil {
		return "", err
	}
	linked := slices.ContainsFunc(links, func(l distro.Link) bool { return l.Name == name })
	switch {
	case linked && path != "":
		return "the link of the name comes later on the PATH", nil
	case linked:
		return `it is linked, but the links' folder is not on the PATH: eval "$(stile init ` + shellName() + `)"`, nil
	case path != "":
		return "it is not linked", nil
	}
	// A distro may have it: say so if that is known without asking.
	d, err := app.here("")
	if err == nil {
		if names, err := app.store.Commands(d); err == nil && slices.Contains(names, name) {
			return "this host has no such command, but " + d.Name + " has: stile link " + name, nil
		}
	}
	return "there is no such command", nil
}

// lookPath is the program that execvp(3) would find, "" if there is none.
func lookPath(path, name string) string {
	if strings.Contains(name, "/") {
		if abs, err := filepath.Abs(name); err == nil && executable(abs) {
			return abs
		}
		return ""
	}
	for _, dir := range filepath.SplitList(path) {
		if file := filepath.Join(dir, name); name != "" && filepath.IsAbs(dir) && executable(file) {
			return file
		}
	}
	return ""
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil
}
