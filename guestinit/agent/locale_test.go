package agent

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFixLocales(t *testing.T) {
	dir := t.TempDir()
	files := func(path string, flags int, mode uint32) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, path), flags, os.FileMode(mode))
	}
	env := func() []string {
		return []string{"LANG=de_DE.UTF-8", "LC_ALL=", "LC_CTYPE=fr_FR.utf8@euro", "LC_TIME=en_US", "LC_NAME=C.UTF-8", "LANGUAGE=de_DE.UTF-8",
			"LC_X=../../etc.UTF-8", "HOME=de_DE.UTF-8", "LC_COLLATE=it_IT.UTF8"}
	}
	check := func(what string, changed map[int]string) {
		t.Helper()
		want, got := env(), env()
		for i, e := range changed {
			want[i] = e
		}
		if fixLocales(got, files); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	german, french, italian := "LANG=C.UTF-8", "LC_CTYPE=C.UTF-8", "LC_COLLATE=C.UTF-8"
	check("no locales", map[int]string{0: german, 2: french, 8: italian})
	if err := os.MkdirAll(dir+"/usr/lib/locale/de_DE.utf8", 0o755); err != nil {
		t.Fatal(err)
	}
	check("a folder", map[int]string{2: french, 8: italian})
	names := "en_US\x00fr_FR.utf8@euro\x00xit_IT.utf8\x00"
	archive := make([]byte, 100, 200)
	for at, v := range map[int]uint32{0: 0xde020109, 20: 100, 24: uint32(len(names))} {
		binary.LittleEndian.PutUint32(archive[at:], v)
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(dir+"/usr/lib/locale/locale-archive", b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(append(archive, names...))
	check("an archive", map[int]string{8: italian})
	binary.LittleEndian.PutUint32(archive[24:], ^uint32(0))
	write(archive)
	check("a broken archive", map[int]string{2: french, 8: italian})
	write(nil)
	check("an empty archive", map[int]string{2: french, 8: italian})
}
