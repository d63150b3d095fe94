package fileserver

import (
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mounted is a server whose shares this kernel has mounted.
type mounted struct {
	*Server
	host  string // the shared folder
	guest string // the same through the server
	root  string // the mount point
}

// mount serves a fresh folder and mounts it, as a guest would. It needs root
// and /dev/fuse.
func mount(t testing.TB, opts Options) *mounted {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("mounting needs /dev/fuse")
	}
	opts.Logger = log.New(testWriter{t}, "", 0)
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	m := &mounted{Server: s, host: filepath.Join(base, "host"), root: filepath.Join(base, "mnt")}
	m.guest = filepath.Join(m.root, "share")
	for _, dir := range []string{m.host, m.root} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddShare(Share{Dir: "share", Path: m.host}); err != nil {
		t.Fatal(err)
	}
	mo := s.Protocol()
	mo.DirectMountStrict = true
	mo.DirectMountFlags = unix.MS_NOATIME
	mo.Options = []string{"default_permissions"}
	mo.Debug = os.Getenv("FUSE_DEBUG") != ""
	fs, err := fuse.NewServer(s, m.root, mo)
	if err != nil {
		t.Skipf("mount: %v", err)
	}
	go fs.Serve()
	if err := fs.WaitMount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := 0; ; i++ {
			err := fs.Unmount()
			if err == nil {
				break
			}
			if i > 50 {
				t.Errorf("unmount: %v", err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}
