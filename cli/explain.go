package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
)

func newExplainCommand() *command {
	var json bool
	var name string
	return &command{
		name: "explain", args: "[-d NAME] [--json] PATH...", min: 1, max: -1,
		short: "Tell which tree a path means in a distro: the host's or its own",
		long: `
A path below a shared folder is the same file on both sides. Any other path, as
/etc/hosts is, names one file on the host and another in the distro, whose own tree
it is in. It ends with 1 if a path is not the same on both sides.`,
		flags: func(f *pflag.FlagSet) {
			distroFlag(f, &name)
			jsonFlag(f, &json)
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runExplain(app, name, args, json)
		},
	}
}

// An explained is one path in the output of explain --json.
type explained struct {
	Path  string `json:"path"`            // absolute, as the distro has it
	Same  bool   `json:"same"`            // it is the same file on both sides
	Mode  string `json:"mode,omitempty"`  // of the share: rw or ro
	Share string `json:"share,omitempty"` // the share's folder
	Why   string `json:"why"`
}

func runExplain(app *app, name string, paths []string, json bool) error {
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	shares, err := app.store.ShareList(d.Name)
	if err != nil {
		return err
	}
	var list []explained
	same := true
	for _, p := range paths {
		e, err := explainPath(app.store.Dirs, d.Name, shares, p)
		if err != nil {
			return err
		}
		same = same && e.Same
		list = append(list, e)
	}
	if json {
		err = app.ui.json(list)
	} else {
		var rows [][]string
		for _, e := range list {
			rows = append(rows, []string{e.Path, e.Why})
		}
		app.ui.table([]string{"PATH", ""}, rows)
	}
	if err == nil && !same {
		err = exitError(exitFailed)
	}
	return err
}

func explainPath(dirs distro.Dirs, name string, shares []distro.Share, path string) (explained, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return explained{}, fmt.Errorf("explain %s: %w", path, err)
	}
	e := explained{Path: abs}
	// What is not there yet is explained by the folder that it would be in.
	real, rest := abs, ""
	for {
		r, err := filepath.EvalSymlinks(real)
		if err == nil {
			real = filepath.Join(r, rest)
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || real == "/" {
			return e, fmt.Errorf("explain %s: %w", path, err)
		}
		real, rest = filepath.Dir(real), filepath.Join(filepath.Base(real), rest)
	}
	for _, dir := range []string{dirs.Config, dirs.Data, dirs.Cache, dirs.Runtime} {
		if own, err := filepath.EvalSymlinks(dir); err == nil && inFolder(real, own) {
			e.Why = "stile's own, which no guest sees"
			return e, nil
		}
	}
	// The list is ordered by path, so that the innermost share comes last.
	for _, s := range shares {
		if s.Real != "" && inFolder(abs, s.Path) {
			e.Same, e.Mode, e.Share = true, string(s.Mode), s.Path
		}
	}
	switch {
	case !e.Same:
		e.Why = "the distro's own: on the host it is another file"
		for _, s := range shares {
			if s.Real != "" && inFolder(real, s.Real) {
				e.Why += "; " + real + ", where the host's leads, is shared"
				break
			}
		}
	case e.Mode == string(distro.ReadOnly):
		e.Why = "the host's, read-only, by " + e.Share
	default:
		e.Why = "the host's, by " + e.Share
	}
	if e.Same && real != abs && !e.sharedToo(real, shares) {
		e.Same = false
		e.Why = "a link to " + real + ", which in " + name + " is the distro's own"
	}
	return e, nil
}

// sharedToo reports whether where a link leads is shared as well.
func (e *explained) sharedToo(real string, shares []distro.Share) bool {
	for _, s := range shares {
		if s.Real != "" && (inFolder(real, s.Path) || inFolder(real, s.Real)) {
			return true
		}
	}
	return false
}

func inFolder(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
