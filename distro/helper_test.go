package distro

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newStore is an empty store in a folder of the test's own.
func newStore(t testing.TB) *Store {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(top, name) }
	if err := os.Mkdir(in("home"), 0o700); err != nil {
		t.Fatal(err)
	}
	return NewStore(Dirs{
		Config: in("config"), Data: in("data"), Cache: in("cache"), Links: in("data/bin"), Home: in("home"),
		Runtime: filepath.Join(top[:min(len(top), 60)], "run"), // socket paths are short; nothing is made there
	})
}

// configure writes the user's settings.
func configure(t testing.TB, s *Store, text string) {
	t.Helper()
	if err := Ensure(s.Dirs.Config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Dirs.ConfigPath(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tarball is an archive with one file in it.
func tarball(t testing.TB, body string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1e9, 0)}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll is an unpacker that reads the archive and leaves the image as it is.
func readAll(_ context.Context, _ *os.File, archive io.Reader) error {
	_, err := io.Copy(io.Discard, archive)
	return err
}

func mustImport(t testing.TB, s *Store, name string) *Distro {
	t.Helper()
	d, err := s.Import(t.Context(), name, bytes.NewReader(tarball(t, "body")), Info{Source: "test"}, readAll)
	if err != nil {
		t.Fatalf("Import %s: %v", name, err)
	}
	return d
}

// names lists a folder; one that is not there is empty.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func wantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", filepath.Base(dir), got, want)
	}
}

// wantError checks an error's words, and that it is one line.
func wantError(t testing.TB, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %q", err, words)
	} else if strings.Contains(err.Error(), "\n") {
		t.Errorf("error has several lines: %q", err)
	}
}

// wantHint checks that an error tells the cure.
func wantHint(t testing.TB, err error) {
	t.Helper()
	if h, ok := err.(interface{ Hint() string }); !ok || h.Hint() == "" {
		t.Errorf("%T has no hint: %v", err, err)
	}
}
