package fileserver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hiddenTree makes .config/stile with things in it and hides it.
func hiddenTree(t *testing.T, m *mounted) string {
	t.Helper()
	dir := filepath.Join(m.host, ".config", "stile")
	must(t, os.MkdirAll(filepath.Join(dir, "sub", "deep"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "config.toml"), []byte("secret"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "deep", "key"), []byte("secret"), 0o644))
	must(t, m.Hide(dir))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err error, want ...syscall.Errno) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: %v, want one of %v", what, err, want)
}

// unseen fails if name is seen in dir, listed or asked for.
func unseen(t *testing.T, dir, name string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is seen in %s: %v", name, dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == name {
			t.Errorf("%s is listed in %s", name, dir)
		}
	}
}

func TestHidden(t *testing.T) {
	m := mount(t, Options{})
	hiddenTree(t, m)
	config := filepath.Join(m.guest, ".config")
	stile := filepath.Join(config, "stile")
	unseen(t, config, "stile")

	must(t, os.Mkdir(filepath.Join(m.guest, "own"), 0o755))
	must(t, os.WriteFile(filepath.Join(m.guest, "file"), nil, 0o644))
	for what, err := range map[string]error{
		"mkdir":    os.Mkdir(stile, 0o755),
		"symlink":  os.Symlink("/", stile),
		"link":     os.Link(filepath.Join(m.guest, "file"), stile),
		"mknod":    unix.Mknod(stile, unix.S_IFIFO|0o644, 0),
		"rename":   os.Rename(filepath.Join(m.guest, "own"), stile),
		"create":   func() error { _, err := os.Create(stile); return err }(),
		"exchange": unix.Renameat2(unix.AT_FDCWD, filepath.Join(m.guest, "own"), unix.AT_FDCWD, stile, unix.RENAME_EXCHANGE),
		"away":     os.Rename(stile, filepath.Join(m.guest, "away")),
		"rmdir":    unix.Rmdir(stile),
		"unlink":   unix.Unlink(stile),
		"ancestor": os.Rename(config, filepath.Join(m.guest, "away")),
		"swapped":  unix.Renameat2(unix.AT_FDCWD, filepath.Join(m.guest, "own"), unix.AT_FDCWD, config, unix.RENAME_EXCHANGE),
		"open":     func() error { _, err := os.Open(filepath.Join(stile, "config.toml")); return err }(),
	} {
		wantErr(t, what, err, unix.EEXIST, unix.EBUSY, unix.EACCES, unix.ENOENT)
	}
	if b, err := os.ReadFile(filepath.Join(m.host, ".config", "stile", "config.toml")); err != nil || string(b) != "secret" {
		t.Errorf("the hidden file is %q, %v", b, err)
	}
	must(t, os.Rename(filepath.Join(m.guest, "own"), filepath.Join(config, "own"))) // what is free stays free
}

func TestHiddenByOtherNames(t *testing.T) {
	m := mount(t, Options{})
	dir := hiddenTree(t, m)

	must(t, os.Link(filepath.Join(dir, "config.toml"), filepath.Join(m.host, "hard")))
	unseen(t, m.guest, "hard")
	if err := os.WriteFile(filepath.Join(m.guest, "hard"), []byte("x"), 0o644); err == nil {
		t.Error("a hidden file was written through a hard link")
	}
	// A file that came later.
	must(t, os.WriteFile(filepath.Join(dir, "sub", "later"), []byte("secret"), 0o644))
	time.Sleep(2 * scanEvery)
	must(t, os.Link(filepath.Join(dir, "sub", "later"), filepath.Join(m.host, "hard2")))
	unseen(t, m.guest, "hard2")

	// Two names of something that is not hidden.
	must(t, os.WriteFile(filepath.Join(m.host, "a"), []byte("open"), 0o644))
	must(t, os.Link(filepath.Join(m.host, "a"), filepath.Join(m.host, "b")))
	if b, err := os.ReadFile(filepath.Join(m.guest, "b")); err != nil || string(b) != "open" {
		t.Errorf("a hard link to something else reads %q, %v", b, err)
	}

	// A folder below, mounted elsewhere.
	bind := filepath.Join(m.host, "bind")
	must(t, os.Mkdir(bind, 0o755))
	if err := unix.Mount(filepath.Join(dir, "sub"), bind, "", unix.MS_BIND, ""); err != nil {
		t.Logf("bind mount: %v", err)
	} else {
		defer unix.Unmount(bind, unix.MNT_DETACH)
		if _, err := os.ReadDir(bind + "/deep"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(filepath.Join(m.guest, "bind", "deep", "key")); err == nil {
			t.Error("a bind mount shows the hidden folder")
		}
	}

	// Renamed on the host.
	must(t, os.Rename(dir, filepath.Join(m.host, "elsewhere")))
	unseen(t, m.guest, "elsewhere")

	for _, path := range []string{filepath.Join(m.host, "elsewhere"), filepath.Join(m.host, "elsewhere", "sub"), "/proc", "/proc/self"} {
		if err := m.AddShare(Share{Dir: "x", Path: path}); err == nil {
			t.Errorf("%s is shared", path)
		}
	}
}

func TestKernelWindows(t *testing.T) {
	m := mount(t, Options{})
	must(t, m.AddShare(Share{Dir: "slash", Path: "/", ReadOnly: true}))
	for _, path := range []string{"proc/self/mem", "proc/1/root", "sys/kernel"} {
		if _, err := os.Lstat(filepath.Join(m.root, "slash", path)); err == nil {
			t.Errorf("%s is reached", path)
		}
	}
	if _, err := os.Stat(filepath.Join(m.root, "slash", "etc", "passwd")); err != nil {
		t.Error(err)
	}
	err := os.Mkdir(filepath.Join(m.root, "slash", strings.TrimPrefix(m.host, "/"), "made"), 0o755)
	wantErr(t, "mkdir in a read-only share", err, unix.EROFS)
	must(t, m.RemoveShare("slash"))
	if _, err := os.Stat(filepath.Join(m.root, "slash")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after RemoveShare: %v", err)
	}
}
