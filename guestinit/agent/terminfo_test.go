package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stilehq/stile/interop/wire"
)

func TestFixTerm(t *testing.T) {
	entry := append([]byte{0x1e, 2}, strings.Repeat("x", 20)...)
	known := "/lib/terminfo/x/xterm-256color"
	for _, tt := range []struct {
		name   string
		distro []string // files
		env    []string
		entry  []byte
		want   []string
		kept   string // where the entry is then
	}{
		{"no TERM", nil, []string{"A=b"}, entry, []string{"A=b"}, ""},
		{"known", []string{known}, []string{"TERM=xterm-256color"}, entry, []string{"TERM=xterm-256color"}, ""},
		{"known by TERMINFO", []string{known, "/opt/k/x/xterm-kitty"}, []string{"TERM=xterm-kitty", "TERMINFO=/opt/k"}, entry,
			[]string{"TERM=xterm-kitty", "TERMINFO=/opt/k"}, ""},
		{"sent", []string{known}, []string{"TERM=xterm-kitty", "TERMINFO=/host/only"}, entry,
			[]string{"TERM=xterm-kitty", "TERMINFO=/host/only", "TERMINFO_DIRS=/run/stile/terminfo:"}, "x/xterm-kitty"},
		{"sent, with other folders", nil, []string{"TERMINFO_DIRS=/a:/b", "TERM=foot"}, entry,
			[]string{"TERMINFO_DIRS=/a:/b:/run/stile/terminfo:", "TERM=foot"}, "f/foot"},
		{"not sent", []string{known}, []string{"TERM=foot"}, nil, []string{"TERM=xterm-256color"}, ""},
		{"not sent, no fallback", nil, []string{"TERM=foot"}, nil, []string{"TERM=foot"}, ""},
		{"no entry", []string{known}, []string{"TERM=foot"}, []byte("#!/bin/sh\nexit 1\n"), []string{"TERM=xterm-256color"}, ""},
		{"too long", []string{known}, []string{"TERM=foot"}, append(slices.Clone(entry), make([]byte, wire.MaxTerminfo)...), []string{"TERM=xterm-256color"}, ""},
		{"no name", []string{known}, []string{"TERM=../../x"}, entry, []string{"TERM=../../x"}, ""},
		{"hidden", []string{known}, []string{"TERM=.foot"}, entry, []string{"TERM=.foot"}, ""},
		{"empty", []string{known}, []string{"TERM="}, entry, []string{"TERM="}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			files := func(path string, flags int, mode uint32) (*os.File, error) {
				return os.OpenFile(dir+path, flags, os.FileMode(mode))
			}
			for _, f := range append(tt.distro, "/run/stile/x") {
				os.MkdirAll(filepath.Dir(dir+f), 0o755)
				if err := os.WriteFile(dir+f, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// As many at once as may come: each finds the entry.
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if got := fixTerm(slices.Clone(tt.env), tt.entry, files); !slices.Equal(got, tt.want) {
						t.Errorf("%q, want %q", got, tt.want)
					}
				})
			}
			all.Wait()
			have, _ := filepath.Glob(dir + stileTerminfo + "/*/*")
			if tt.kept == "" {
				if len(have) > 0 {
					t.Errorf("%q is kept", have)
				}
				return
			}
			b, err := os.ReadFile(dir + stileTerminfo + "/" + tt.kept)
			if err != nil || string(b) != string(entry) || len(have) != 1 {
				t.Errorf("kept %q: %q, %v", have, b, err)
			}
		})
	}
}
