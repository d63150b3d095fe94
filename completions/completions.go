// Package completions has what stile puts into the user's shells.
package completions

import (
	"embed"
	"fmt"
	"strings"
)

// The scripts are plain files, so that shellcheck and shfmt see them. Each has
// the placeholder once, inside single quotes.
//
//go:embed init.bash init.zsh init.fish
var scripts embed.FS

const placeholder = "@LINKS@"

// Shells lists the shells that Init knows.
func Shells() []string { return []string{"bash", "zsh", "fish"} }

// Init returns the script that puts links, the folder of links, first on the
// PATH of a shell. Run again it changes nothing.
func Init(shell, links string) (string, error) {
	script, err := scripts.ReadFile("init." + shell)
	if err != nil {
		return "", fmt.Errorf("init: there is no script for %s", shell)
	}
	if strings.ContainsAny(links, ":\n") {
		return "", fmt.Errorf("init: the folder %q can't be on a PATH: its name has a colon or a line break", links)
	}
	quoted := strings.ReplaceAll(links, `'`, `'\''`)
	if shell == "fish" {
		quoted = strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(links)
	}
	return strings.Replace(string(script), placeholder, quoted, 1), nil
}
