package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/debian"
	"github.com/stilehq/stile/machine"
)

func newInstallCommand() *command {
	var name string
	var isolated bool
	return &command{
		name: "install", args: "SOURCE [--name NAME] [--isolated]", min: 1, max: 1,
		short: "Make a distro from a source",
		long: `
SOURCE is one of

  debian         the release of Debian that this host runs, else stable
  debian:SUITE   another release, such as debian:trixie

Debian comes from the mirror that this host's own apt uses, by mmdebstrap. What
was fetched is kept, and used again as long as the mirror has nothing newer.

` + isolatedHelp,
		flags: func(f *pflag.FlagSet) {
			isolatedFlag(f, &isolated)
			f.StringVar(&name, "name", "", "the distro's `name`; by default the source's first word")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runInstall(ctx, app, args[0], name, isolated)
		},
	}
}

// isolatedHelp and isolatedFlag are of install and import.
const isolatedHelp = `An isolated distro (--isolated) shares nothing with the host but the folders that
config.toml names for it, below [distro.NAME.shares]; it gets no more of a caller's
environment than terminal, locale and user's name; and it can call no commands of
the host.`

func isolatedFlag(f *pflag.FlagSet, p *bool) {
	f.BoolVar(p, "isolated", false, "share nothing with it but what config.toml names for it")
}

func runInstall(ctx context.Context, app *app, source, name string, isolated bool) error {
	kind, suite, _ := strings.Cut(source, ":")
	if kind != "debian" {
		return &sourceError{source}
	}
	if name == "" {
		name = kind
	}
	if err := app.store.CheckNew(name); err != nil {
		return err
	}
	progress := app.ui.progress()
	defer progress.end()
	root, err := debian.Bootstrap(ctx, debian.Options{
		Suite:    suite,
		Cache:    filepath.Join(app.store.Dirs.Cache, "rootfs"),
		Path:     app.store.Dirs.WithoutLinks(os.Getenv("PATH")),
		Progress: progress.begin,
	})
	if err != nil {
		return err
	}
	if root.Stale {
		progress.end()
		app.ui.note("the mirror does not answer: using what was fetched before")
	}
	f, err := os.Open(root.Path)
	if err != nil {
		return fmt.Errorf("read root file system: %w", err)
	}
	defer f.Close()
	progress.begin("unpacking")
	if err := importFile(ctx, app, name, f, distro.Info{Source: "debian:" + root.Suite, Isolated: isolated}, progress); err != nil {
		return err
	}
	progress.end()
	app.ui.say("%s is ready: stile run -d %s COMMAND, or link commands: stile link -d %s COMMAND...", name, name, name)
	return nil
}

// importFile makes a distro of an open archive and shows how far it is.
func importFile(ctx context.Context, app *app, name string, f *os.File, info distro.Info, progress *progress) error {
	var total int64
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		total = info.Size()
	}
	progress.beginBytes("unpacking", total)
	info.Created = time.Now()
	_, err := app.store.Import(ctx, name, progress.reader(interruptible(ctx, f)), info, machine.Unpacker(app.store.Dirs))
	return err
}

// interruptible lets a read of a terminal or a pipe that gives nothing end when
// ctx does.
func interruptible(ctx context.Context, f *os.File) io.Reader {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return f
	}
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, f)
		w.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	return r
}

type sourceError struct{ source string }

func (e *sourceError) Error() string { return "install " + e.source + ": there is no such source" }
func (e *sourceError) Hint() string {
	return "debian and debian:SUITE are possible; an archive: stile import NAME FILE"
}
