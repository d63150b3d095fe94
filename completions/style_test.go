package completions

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
)

// What users read in their shells is as clean as tools can say.
func TestScriptsAreClean(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		tool    []string
	}{
		{"*.bash", []string{"shellcheck", "--shell=bash"}},
		{"*.bash", []string{"shfmt", "-d"}},
		{"*.bash", []string{"bash", "-n"}},
		{"*.zsh", []string{"zsh", "-n"}},
		{"*.fish", []string{"fish", "--no-execute"}},
		{"*.fish", []string{"fish_indent", "--check"}},
	} {
		t.Run(tt.tool[0]+" "+tt.pattern, func(t *testing.T) {
			path, err := exec.LookPath(tt.tool[0])
			if err != nil {
				t.Skipf("the host has no %s", tt.tool[0])
			}
			files, err := filepath.Glob(tt.pattern)
			if err != nil || len(files) < 4 {
				t.Fatalf("%d files, %v", len(files), err)
			}
			for _, f := range files {
				var out bytes.Buffer
				cmd := exec.Command(path, append(tt.tool[1:], f)...)
				cmd.Stdout, cmd.Stderr = &out, &out
				if err := cmd.Run(); err != nil {
					t.Errorf("%s: %v\n%s", f, err, out.Bytes())
				}
			}
		})
	}
}
