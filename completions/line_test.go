package completions

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func texts(words []Word) (list []string) {
	for _, w := range words {
		list = append(list, w.Text)
	}
	return list
}

func TestParseBash(t *testing.T) {
	for _, tt := range []struct {
		line  string
		point int
		want  []string
		raw   string // of the last word
	}{
		{"", 0, []string{""}, ""},
		{"git ", 4, []string{"git", ""}, ""},
		{"git che", 7, []string{"git", "che"}, ""},
		{"git  che ckout", 8, []string{"git", "che"}, ""},
		{`cat "my fi`, 10, []string{"cat", "my fi"}, ""},
		{`cat 'my fi`, 10, []string{"cat", "my fi"}, ""},
		{`cat my\ fi`, 10, []string{"cat", "my fi"}, ""},
		{`cat "a\"b" c\`, 13, []string{"cat", `a"b`, "c"}, ""},
		{`cat "a\b"`, 9, []string{"cat", `a\b`}, ""},
		{`cat "$HOME/x`, 12, []string{"cat", "$HOME/x"}, `"$HOME/x`},
		{"cat ~/x", 7, []string{"cat", "~/x"}, "~/x"},
		{"cat a~", 6, []string{"cat", "a~"}, ""},
		{"git show $(git log | head -1) fi", 32, []string{"git", "show", "$(git log | head -1)", "fi"}, ""},
		{"git show `git log` fi", 21, []string{"git", "show", "`git log`", "fi"}, ""},
		{"echo ${A:-b c} d", 16, []string{"echo", "${A:-b c}", "d"}, ""},
		{"cat größe da", 9, []string{"cat", "größe"}, ""},
		{"cat $", 5, []string{"cat", "$"}, ""},
	} {
		words := ParseBash(tt.line, tt.point)
		if got := texts(words); !slices.Equal(got, tt.want) || words[len(words)-1].Raw != tt.raw {
			t.Errorf("%q to %d: %q (raw %q), want %q (raw %q)", tt.line, tt.point, got, words[len(words)-1].Raw, tt.want, tt.raw)
		}
	}
}

// The words are those that an interactive bash hands to a function, but for quotes:
// every word that needs some has backslashes.
func TestNewCommand(t *testing.T) {
	for _, tt := range []struct {
		line            string
		words           []string
		head, cur, prev string
	}{
		{"git che", []string{"git", "che"}, "", "che", "git"},
		{"git ", []string{"git", ""}, "", "", "git"},
		{"git log --format=on", []string{"git", "log", "--format", "=", "on"}, "--format=", "on", "="},
		{"git log --format=", []string{"git", "log", "--format", "="}, "--format=", "", "--format"},
		{"git show v1.0:ma", []string{"git", "show", "v1.0", ":", "ma"}, "v1.0:", "ma", ":"},
		{"scp host:/a=b", []string{"scp", "host", ":", "/a", "=", "b"}, "host:/a=", "b", "="},
		{"a b::c", []string{"a", "b", "::", "c"}, "b::", "c", "::"},
		{`cat "two words`, []string{"cat", `two\ words`}, "", "two words", "cat"},
		{`cat a\:b`, []string{"cat", "a", ":", "b"}, "a:", "b", ":"},
		{"cat '' x", []string{"cat", "''", "x"}, "", "x", "''"},
		{"cat a@b", []string{"cat", "a@b"}, "", "a@b", "cat"},
	} {
		c := NewCommand(ParseBash(tt.line, len(tt.line)))
		if !slices.Equal(c.Words, tt.words) || c.Head != tt.head || c.Cur != tt.cur || c.Prev != tt.prev || c.Index != len(tt.words)-1 {
			t.Errorf("%q: %q head %q cur %q prev %q, want %q head %q cur %q prev %q", tt.line, c.Words, c.Head, c.Cur, c.Prev, tt.words, tt.head, tt.cur, tt.prev)
		}
	}
}

// What is quoted reads back as what it was, by bash and by UnquoteBash.
func TestQuoteBash(t *testing.T) {
	for _, text := range []string{"", "a", "two words", `"'\`, "$HOME", "*?[a]", "~", "a~", "#", "a#", "line\nbreak", "tab\t", "größe", "-n", "{a,b}", "a;b|c&d", "!x", "\xff\x80", "^a"} {
		q := QuoteBash(text)
		out, err := exec.Command("bash", "-c", "printf %s "+q).Output()
		if text == "-n" {
			out = []byte("-n") // an option of printf's
		}
		if err != nil || string(out) != text {
			t.Errorf("bash reads %s as %q, %v; want %q", q, out, err, text)
		}
		if strings.Contains(text, "\n") {
			continue // $'\n' is an expansion, which UnquoteBash leaves alone
		}
		if got, ok := UnquoteBash(q); !ok || got != text {
			t.Errorf("%s is taken apart as %q, %v; want %q", q, got, ok, text)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"git che", `cat "a$(b`, "a `", "x $'\\n' ${", "cat \\", "a=b::'c"} {
		f.Add(s, len(s))
	}
	f.Fuzz(func(t *testing.T, line string, point int) {
		words := ParseBash(line, point)
		if len(words) == 0 {
			t.Fatal("there is no word at the cursor")
		}
		c := NewCommand(words)
		if c.Index != len(c.Words)-1 || c.Index < 0 {
			t.Fatalf("index %d of %q", c.Index, c.Words)
		}
	})
}
