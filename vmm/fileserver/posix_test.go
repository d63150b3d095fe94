package fileserver

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posixFolder names a folder that TestPOSIX is to run in, instead of a share
// that this kernel mounts: one inside of a guest (testdata/posix.txtar).
const posixFolder = "STILE_POSIX_FOLDER"

// TestPOSIX runs go-fuse's table of POSIX behaviours in a share.
func TestPOSIX(t *testing.T) {
	for name, f := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("it wants one process's POSIX locks through two descriptors to conflict, which they do on no file system of Linux")
			}
			f(t, posixDir(t))
		})
	}
}

// posixDir is an empty folder of a share.
func posixDir(t *testing.T) string {
	in := os.Getenv(posixFolder)
	if in == "" {
		return mount(t, Options{}).guest
	}
	dir, err := os.MkdirTemp(in, "posix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
