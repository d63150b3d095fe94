package main

import (
	"strings"
	"testing"

	"github.com/stilehq/stile/kernel"
)

func TestParseFragment(t *testing.T) {
	lines, err := parseFragment("f", `# head

CONFIG_A=y      # a reason
CONFIG_B=n # why
CONFIG_C=64     # a number
CONFIG_D=-1     # another
CONFIG_E="a,b"  # a string
`)
	if err != nil {
		t.Fatal(err)
	}
	want := "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\nCONFIG_D=-1\nCONFIG_E=\"a,b\"\n"
	if got := dotConfig(lines); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if lines[0].where != "f:3" {
		t.Errorf("first line at %s", lines[0].where)
	}
}

func TestParseFragmentErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no reason", "CONFIG_A=y\n", "f:1: CONFIG_A has no reason"},
		{"empty reason", "CONFIG_A=y #\n", "no reason"},
		{"module", "CONFIG_A=m # why\n", "not CONFIG_NAME=value"},
		{"no prefix", "A=y # why\n", "not CONFIG_NAME=value"},
		{"word", "CONFIG_A=yes # why\n", "not CONFIG_NAME=value"},
		{"spaces", "CONFIG_A = y # why\n", "not CONFIG_NAME=value"},
		{"kernel's own n", "CONFIG_A is not set # why\n", "not CONFIG_NAME=value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := parseFragment("f", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckTwice(t *testing.T) {
	a := line{symbol: "CONFIG_A", value: "y", where: "1"}
	b := line{symbol: "CONFIG_B", value: "y", where: "2"}
	again := line{symbol: "CONFIG_A", value: "y", where: "3"}
	other := line{symbol: "CONFIG_A", value: "n", where: "4"}
	for _, c := range []struct {
		name  string
		lines []line
		want  string
	}{
		{"once", []line{a, b}, ""},
		{"twice", []line{a, b, again}, "3: CONFIG_A stands already in 1"},
		{"two values", []line{a, other}, "4: CONFIG_A=n, but y in 1"},
	} {
		t.Run(c.name, func(t *testing.T) { wantError(t, checkTwice(c.lines), c.want) })
	}
}

func TestCheckSurvived(t *testing.T) {
	const final = `# a comment
CONFIG_A=y
# CONFIG_B is not set
CONFIG_C=64
CONFIG_D="x"
`
	for _, c := range []struct{ symbol, value, want string }{
		{"CONFIG_A", "y", ""},
		{"CONFIG_B", "n", ""},
		{"CONFIG_C", "64", ""},
		{"CONFIG_D", `"x"`, ""},
		{"CONFIG_A", "n", `CONFIG_A=n became "CONFIG_A=y"`},
		{"CONFIG_B", "y", `became "# CONFIG_B is not set"`},
		{"CONFIG_C", "6", `became "CONFIG_C=64"`},
		{"CONFIG_E", "y", "is lost"},
		{"CONFIG_E", "n", "does nothing"},
	} {
		t.Run(c.symbol+"="+c.value, func(t *testing.T) {
			l := line{symbol: c.symbol, value: c.value, where: "f:1"}
			wantError(t, checkSurvived([]line{l}, final), c.want)
		})
	}
}

// The fragments themselves: seconds here are minutes in a build.
func TestFragments(t *testing.T) {
	for _, set := range kernel.Sets() {
		b := &build{set: set}
		lines, err := b.fragments()
		if err != nil {
			t.Errorf("%s: %v", set.Name, err)
		}
		if len(lines) < 100 {
			t.Errorf("%s: %d lines", set.Name, len(lines))
		}
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil {
		t.Errorf("error %v", err)
	}
	if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, want %q", err, want)
	}
}
