package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
)

func newImportCommand() *command {
	var isolated bool
	return &command{
		name: "import", args: "NAME FILE|- [--isolated]", min: 2, max: 2,
		short: "Make a distro from a tar archive",
		long: `
The archive holds a root file system. It may be compressed with gzip, xz or
zstd; - is the standard input. Owners, modes, links, devices and extended
attributes are kept, whoever imports: a guest does the unpacking.

` + isolatedHelp,
		flags: func(f *pflag.FlagSet) { isolatedFlag(f, &isolated) },
		run: func(ctx context.Context, app *app, args []string) error {
			return runImport(ctx, app, args[0], args[1], isolated)
		},
	}
}

func runImport(ctx context.Context, app *app, name, file string, isolated bool) error {
	if err := app.store.CheckNew(name); err != nil {
		return err
	}
	f, source := os.Stdin, "-"
	if file != "-" {
		var err error
		f, err = os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			return &wire.Error{Code: exitStile, What: "import " + name, Why: err.Error(), Hint: "name an archive that is there, or - for the standard input"}
		}
		if err != nil {
			return fmt.Errorf("import %s: %w", name, err)
		}
		defer f.Close()
		if source, err = filepath.Abs(file); err != nil {
			source = file
		}
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return &folderError{file}
	}
	progress := app.ui.progress()
	defer progress.end()
	if err := importFile(ctx, app, name, f, distro.Info{Source: source, Isolated: isolated}, progress); err != nil {
		return err
	}
	progress.end()
	return nil
}

type folderError struct{ path string }

func (e *folderError) Error() string { return "import " + e.path + ": it is a folder" }
func (e *folderError) Hint() string {
	return "make an archive of it: tar -C " + e.path + " -c . | stile import NAME -"
}
