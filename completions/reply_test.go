package completions

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What each shell is told about one answer.
func TestReply(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "some file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".hidden"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const noColon = " \t\n\"'><=;|&("
	for _, tt := range []struct {
		name, line, breaks string
		answer             Answer
		bash, zsh, lines   string // with | for NUL
	}{
		{"words", "git che", Breaks, Answer{Candidates: []string{"checkout", "cherry"}},
			"|checkout|cherry|", "||wcheckout||wcherry||", "checkout\ncherry\n"},
		{"blank of its own", "git che", Breaks, Answer{Options: []string{"nospace"}, Candidates: []string{"checkout ", "--x="}},
			"nospace|checkout |--x=|", "||wcheckout||o--x=||", "checkout\n--x=\n"},
		{"after =", "git log --format=o", Breaks, Answer{Candidates: []string{"oneline"}},
			"|oneline|", "|--format=|w--format=oneline||", "--format=oneline\n"},
		{"after a colon that does not break here", "git show v1:ma", noColon, Answer{Candidates: []string{"main"}},
			"|v1:main|", "|v1:|wv1:main||", "v1:main\n"},
		{"after an @ that breaks here", "ssh me@ho", Breaks + "@", Answer{Candidates: []string{"me@host"}},
			"|host|", "||wme@host||", "me@host\n"},
		{"in quotes", `git show "v1:ma`, Breaks, Answer{Candidates: []string{"main"}},
			"|v1:main|", "|v1:|wv1:main||", "v1:main\n"},
		{"quoted by the function", "x t", Breaks, Answer{Candidates: []string{`two\ words`, `$HOME`, "it's"}},
			`|two\ words|$HOME|it's|`, "||wtwo words||w$HOME||wit's||", "two words\n$HOME\nit's\n"},
		{"file names", "x t", Breaks, Answer{Options: []string{"filenames"}, Candidates: []string{`two words`, `a\b`, "d/"}},
			`filenames|two words|a\b|d/|`, `||ftwo words||fa\b||dd||`, "two words\na\\b\nd/\n"},
		{"the host's files", "x s", Breaks, Answer{Files: []Files{{Cur: "s"}}},
			"filenames|some file|sub|", "||fsome file||dsub||", "some file\nsub/\n"},
		{"folders alone", "x s", Breaks, Answer{Files: []Files{{Dirs: true, Cur: "s"}}},
			"filenames|sub|", "||dsub||", "sub/\n"},
		{"part of the word", "x -os", Breaks, Answer{Files: []Files{{Cur: "s"}}},
			"filenames|-osome file|-osub|", "||f-osome file||d-osub||", "-osome file\n-osub/\n"},
		{"files by default", "x s", Breaks, Answer{Options: []string{"default"}},
			"filenames|some file|sub|", "||fsome file||dsub||", "some file\nsub/\n"},
		{"folders too", "x s", Breaks, Answer{Options: []string{"plusdirs"}, Candidates: []string{"sx"}},
			"filenames|sx|sub|", "||fsx||dsub||", "sx\nsub/\n"},
		{"hidden files", "x ", Breaks, Answer{Files: []Files{{}}},
			"filenames|.hidden|some file|sub|", "||fsome file||dsub||", "some file\nsub/\n"},
		{"hidden files that are wanted", "x .h", Breaks, Answer{Files: []Files{{Cur: ".h"}}},
			"filenames|.hidden|", "||f.hidden||", ".hidden\n"},
		{"none", "x s", Breaks, Answer{}, "|", "||", ""},
		{"order", "x s", Breaks, Answer{Options: []string{"nosort"}, Candidates: []string{"s2", "s1"}},
			"nosort|s2|s1|", "nosort||ws2||ws1||", "s2\ns1\n"},
		{"a line break", "x s", Breaks, Answer{Options: []string{"filenames"}, Candidates: []string{"s\n1"}},
			"filenames|s\n1|", "||fs\n1||", ""},
	} {
		q := &Request{Dir: dir, Command: NewCommand(ParseBash(tt.line, len(tt.line))), HostFiles: true}
		tt.answer.Complete = true
		r := NewReply(q, &tt.answer)
		bars := func(s string) string { return strings.ReplaceAll(s, "\x00", "|") }
		if got := bars(r.Bash(&q.Command, tt.breaks)); got != tt.bash {
			t.Errorf("%s: bash gets %q, want %q", tt.name, got, tt.bash)
		}
		if got := bars(r.Zsh()); got != tt.zsh {
			t.Errorf("%s: zsh gets %q, want %q", tt.name, got, tt.zsh)
		}
		if got := r.Lines(); got != tt.lines {
			t.Errorf("%s: fish gets %q, want %q", tt.name, got, tt.lines)
		}
	}
}

func TestParseWord(t *testing.T) {
	for _, tt := range []struct{ shell, raw, text, keep string }{
		{"fish", `a\ b`, "a b", ""}, {"fish", `'a\'b $x`, "a'b $x", ""}, {"fish", `"a\$b`, "a$b", ""}, {"fish", `"$x`, "$x", `"$x`},
		{"fish", "~/x", "~/x", "~/x"}, {"fish", "a(b", "a(b", "a(b"}, {"fish", `'\n'`, `\n`, ""},
		{"zsh", `a\ b`, "a b", ""}, {"zsh", `"my fi`, "my fi", ""}, {"zsh", "~/x", "~/x", "~/x"}, {"zsh", "a b", "a b", ""},
	} {
		if w := ParseWord(tt.shell, tt.raw); w.Text != tt.text || w.Raw != tt.keep {
			t.Errorf("%s %s: %+v, want %q and %q", tt.shell, tt.raw, w, tt.text, tt.keep)
		}
	}
}
