// Package completions has what stile puts into the user's shells: the hooks that
// `stile init` prints, and the engine that asks a guest's own completion functions
// for candidates (Server, in the guest; Resident, between it and the shells).
package completions

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The scripts are plain files, so that shellcheck and shfmt see them. What is
// filled in stands inside single quotes.
//
//go:embed *.bash *.zsh *.fish *.ps1
var scripts embed.FS

// suffixes of the shells' scripts.
var suffixes = map[string]string{"bash": "bash", "zsh": "zsh", "fish": "fish", "pwsh": "ps1"}

// Shells lists the shells that Init knows.
func Shells() []string { return []string{"bash", "zsh", "fish", "pwsh"} }

// Options of Init.
type Options struct {
	Links string // the folder of links
	Stile string // the stile program
	Views string // the folder of folders of links
	Fish  string // the folder of FishFiles
	// Parts that the user does without.
	NoCompletions, NoNotFound, NoPrompt bool
}

// Init returns the script that puts the folder of links first on the PATH of a
// shell, and its hooks in place. Run again it changes nothing.
func Init(shell string, o Options) (string, error) {
	suffix := suffixes[shell]
	if suffix == "" {
		return "", fmt.Errorf("init: there is no script for %s", shell)
	}
	if strings.ContainsAny(o.Links, ":\n") {
		return "", fmt.Errorf("init: the folder %q can't be on a PATH: its name has a colon or a line break", o.Links)
	}
	quote := func(s string) string { return strings.ReplaceAll(s, `'`, `'\''`) }
	switch shell {
	case "fish":
		quote = strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	case "pwsh":
		quote = strings.NewReplacer(`'`, `''`).Replace
	}
	parts := []string{"init"}
	if !o.NoCompletions {
		parts = append(parts, "complete")
	}
	if !o.NoNotFound {
		parts = append(parts, "notfound")
	}
	if !o.NoPrompt {
		parts = append(parts, "prompt")
	}
	var b strings.Builder
	for _, part := range parts {
		script, err := scripts.ReadFile(part + "." + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue // this shell can't have that part: docs/shells.md
		}
		if err != nil {
			return "", fmt.Errorf("init: %w", err)
		}
		b.Write(script)
	}
	fill := strings.NewReplacer("@LINKS@", quote(o.Links), "@STILE@", quote(o.Stile), "@FISH@", quote(o.Fish), "@VIEWS@", quote(o.Views))
	return fill.Replace(b.String()), nil
}

// FishFiles makes dir hold a file for each name, and nothing else: fish reads a
// command's completions from the first folder that has a file of its name.
func FishFiles(dir string, names []string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && len(names) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write completions of fish: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write completions of fish: %w", err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".fish"); !ok || !slices.Contains(names, name) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("write completions of fish: %w", err)
			}
		}
	}
	for _, name := range names {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(name)
		text := "functions -q __stile_complete\nand complete -c '" + quoted + "' -f -a '(__stile_complete)'\n"
		path := filepath.Join(dir, name+".fish")
		if old, err := os.ReadFile(path); err == nil && string(old) == text || len(name) > 250 {
			continue // a name that long has no room for the suffix
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write completions of fish: %w", err)
		}
	}
	return nil
}
