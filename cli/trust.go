package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
)

func newTrustCommand() *command {
	return &command{
		name: "trust", args: "[FILE|FOLDER]", max: 1, short: "Let a folder's .stile.toml count",
		long: `
A file .stile.toml names the distro that its folder and those below it use in
place of the default, and links of their own:

  distro = "alpine"
  [links.make]
  args = ["-j4"]          # the keys are those of stile help links

Such a file can make any command run anything, so it counts only after you have
read it and trusted it, and no more when it is changed.`,
		run: func(ctx context.Context, app *app, args []string) error {
			path, err := folderFile(app, first(args))
			if err != nil {
				return err
			}
			f, err := app.store.Trust(path)
			if err != nil {
				return err
			}
			text := "the default distro"
			if f.Distro != "" {
				text = f.Distro
			}
			app.ui.say("%s uses %s", printable(f.Dir()), text)
			return nil
		},
	}
}

func newUntrustCommand() *command {
	return &command{
		name: "untrust", args: "[FILE|FOLDER]", max: 1, short: "Let a folder's .stile.toml count no more",
		run: func(ctx context.Context, app *app, args []string) error {
			path, err := folderFile(app, first(args))
			if err != nil {
				return err
			}
			if found, err := app.store.Untrust(path); err != nil {
				return err
			} else if !found {
				app.ui.note("%s was not trusted", printable(path))
			}
			return refreshViews(app)
		},
	}
}

// folderFile is the .stile.toml that the user means: the one of the current
// folder or above, that of a folder, or the file itself.
func folderFile(app *app, arg string) (string, error) {
	if arg != "" {
		path, err := filepath.Abs(arg)
		if err != nil {
			return "", fmt.Errorf("find %s: %w", arg, err)
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return filepath.Join(path, distro.FolderFile), nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find %s: %w", arg, err)
		}
		if filepath.Base(path) != distro.FolderFile {
			return "", &distro.ConfigError{Path: arg, Why: "the file's name has to be " + distro.FolderFile}
		}
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the current folder: %w", err)
	}
	f, err := app.store.Folder(dir)
	if err != nil {
		return "", err
	}
	if f == nil {
		return "", &distro.ConfigError{Path: filepath.Join(dir, distro.FolderFile), Why: "there is no such file, here or above"}
	}
	return f.Path, nil
}

// newViewCommand is what the shells' hooks ask when the .stile.toml that counts
// is another one than before.
func newViewCommand() *command {
	return &command{
		name: "view", args: "FILE", min: 1, max: 1, hidden: true,
		short: "Print the folder of links that a .stile.toml wants (the shells' hooks ask)",
		run: func(ctx context.Context, app *app, args []string) error {
			f, err := app.store.ReadFolder(args[0])
			if err != nil {
				return err
			}
			stile, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find stile's own program: %w", err)
			}
			shim, err := payload.Shim(app.store.Dirs)
			if err != nil {
				return err
			}
			bin, err := app.store.View(f, stile, shim)
			if err != nil {
				return err
			}
			if strings.ContainsAny(bin, ":\n") {
				return fmt.Errorf("the folder %q can't be on a PATH: its name has a colon or a line break", bin)
			}
			app.ui.say("%s", bin)
			return nil
		},
	}
}
