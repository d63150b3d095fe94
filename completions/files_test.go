package completions

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.txt", "B.TXT", "c.tar.gz", "d.tgz", "e", ".hidden", "sub/in.txt", "new\nline", "\xff"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"to": "sub", "none": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		files Files
		cur   string
		want  []string
	}{
		{Files{}, "", []string{".hidden", "B.TXT", "a.txt", "c.tar.gz", "d.tgz", "e", "new\nline", "none", "sub/", "to/", "\xff"}},
		{Files{}, ".", []string{".hidden"}},
		{Files{}, "sub/", []string{"sub/in.txt"}},
		{Files{}, "./sub/i", []string{"./sub/in.txt"}},
		{Files{}, dir + "/e", []string{dir + "/e"}},
		{Files{Dirs: true}, "", []string{"sub/", "to/"}},
		{Files{Pattern: "txt"}, "", []string{"B.TXT", "a.txt", "sub/", "to/"}},
		{Files{Pattern: "@(tgz|tar?(.@(gz|bz2)))"}, "", []string{"c.tar.gz", "d.tgz", "sub/", "to/"}},
		{Files{Pattern: "t[ag]*"}, "", []string{"c.tar.gz", "d.tgz", "sub/", "to/"}},
		{Files{Pattern: "txt"}, "c", []string{"c.tar.gz"}},
		{Files{Pattern: "!(txt)"}, "a", []string{"a.txt"}},
		{Files{Pattern: "[("}, "a", []string{"a.txt"}},
		{Files{}, "nowhere/", nil},
		{Files{}, "x", nil},
	} {
		if got := tt.files.List(dir, tt.cur); !slices.Equal(got, tt.want) {
			t.Errorf("%+v %q: %q, want %q", tt.files, tt.cur, got, tt.want)
		}
	}
}
