package cli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Every command has a page that tells all of its flags, and man finds nothing
// wrong with it.
func TestManual(t *testing.T) {
	pages := map[string]string{"stile": manual("1.0")}
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		p := manualOf(c, "1.0")
		pages[c.name] = p
		if !strings.Contains(pages["stile"], `stile\-`+roff(c.name)+`\fR(1)`) {
			t.Errorf("stile(1) does not name %s", c.name)
		}
		c.flagSet().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(p, `\-\-`+roff(f.Name)) {
				t.Errorf("the page of %s does not tell of --%s", c.name, f.Name)
			}
		})
	}
	t.Run("rendered", func(t *testing.T) {
		groff, err := exec.LookPath("groff")
		if err != nil {
			t.Skip("no groff here")
		}
		for name, p := range pages {
			cmd := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z")
			cmd.Stdin = strings.NewReader(p)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		}
	})
}

func TestRoff(t *testing.T) {
	for in, want := range map[string]string{
		"a-b":          `a\-b`,
		`\n`:           `\en`,
		".x\n'y\nz":    "\\&.x\n\\&'y\nz",
		"plain. words": "plain. words",
	} {
		if got := roff(in); got != want {
			t.Errorf("roff(%q) = %q, want %q", in, got, want)
		}
	}
}
