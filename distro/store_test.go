package distro

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefault(t *testing.T) {
	s := newStore(t)
	want := func(name, words string) {
		t.Helper()
		got, err := s.Default()
		if name != "" {
			if got != name || err != nil {
				t.Errorf("default %q, %v; want %s", got, err, name)
			}
			return
		}
		if !errors.Is(err, ErrNoDefault) {
			t.Errorf("default %q, %v; want none", got, err)
		}
		wantError(t, err, words)
		wantHint(t, err)
	}
	want("", "there is no distro yet")
	mustImport(t, s, "b")
	mustImport(t, s, "a")
	want("b", "")
	if err := s.SetDefault("a"); err != nil {
		t.Error(err)
	}
	want("a", "")
	err := s.SetDefault("nobody")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("SetDefault: %v", err)
	}
	want("a", "")
	mustImport(t, s, "c")
	if err := s.Remove("a"); err != nil {
		t.Error(err)
	}
	want("", "none of b, c is the default")
	if err := s.Remove("b"); err != nil {
		t.Error(err)
	}
	want("c", "") // the only one
	if err := s.Remove("c"); err != nil {
		t.Error(err)
	}
	want("", "there is no distro yet")
	mustImport(t, s, "d") // a file that names a removed one does not matter
	want("d", "")
	mustImport(t, s, "e")
	want("d", "")
}

func TestGet(t *testing.T) {
	s := newStore(t)
	_, err := s.Get("debian")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.(*NotFoundError).Hint(), "there is none yet") {
		t.Errorf("Get: %v", err)
	}
	mustImport(t, s, "one")
	mustImport(t, s, "two")
	_, err = s.Get("debian")
	wantError(t, err, "debian: no such distro")
	if hint := err.(*NotFoundError).Hint(); hint != "there are: one, two" {
		t.Errorf("hint %q", hint)
	}
	for _, name := range []string{"../distros/one", ".", "One", "one\n"} {
		var bad *NameError
		if _, err := s.Get(name); !errors.As(err, &bad) {
			t.Errorf("Get(%q): %v, want a NameError", name, err)
		}
	}
	// Files and folders of other kinds are no distros.
	root := filepath.Join(s.Dirs.Data, "distros")
	for _, err := range []error{os.WriteFile(filepath.Join(root, "file"), nil, 0o600), os.Mkdir(filepath.Join(root, "Upper"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "one" || list[1].Name != "two" {
		t.Errorf("List: %v, %v", list, err)
	}
	d, err := s.Get("two")
	if err != nil {
		t.Fatal(err)
	}
	if logical, allocated, err := d.Usage(); err != nil || logical != DiskSize || allocated <= 0 || allocated > 16<<20 {
		t.Errorf("usage %d, %d, %v", logical, allocated, err)
	}
	path := filepath.Join(d.Dir, "settings.toml")
	if err := os.WriteFile(path, []byte("source = \"x\"\nsorce = \"y\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get("two")
	wantError(t, err, path+`:2: unknown key "sorce"`)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Get("two"); err != nil || d.Info != (Info{}) {
		t.Errorf("without settings: %+v, %v", d, err)
	}
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	root := filepath.Join(s.Dirs.Data, "distros")
	wantError(t, s.Remove(""), "it is empty")
	if err := s.Remove("debian"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove of none: %v", err)
	}
	d := mustImport(t, s, "debian")
	disk, err := d.OpenDisk()
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := s.Remove("debian"); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove of one in use: %v", err)
	}
	wantNames(t, root, "debian")
	wantNames(t, d.Dir, "disk.img", "settings.toml")
	disk.Close()
	if err := s.Remove("debian"); err != nil {
		t.Error(err)
	}
	wantNames(t, root)
	if _, err := d.OpenDisk(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenDisk of a removed one: %v", err)
	}
	// One whose disk is gone or damaged can be removed too.
	for _, harm := range []func(string) error{os.Remove, func(path string) error { return os.Truncate(path, 5) }} {
		if err := harm(mustImport(t, s, "debian").DiskPath()); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove("debian"); err != nil {
			t.Error(err)
		}
		wantNames(t, root)
	}
}

func TestFoldersArePrivate(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "debian")
	for _, dir := range []string{"", "distros", "distros/debian"} {
		info, err := os.Stat(filepath.Join(s.Dirs.Data, dir))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%q has mode %v, %v", dir, info.Mode(), err)
		}
	}
	for _, file := range []string{"default", "distros/debian/disk.img", "distros/debian/settings.toml"} {
		info, err := os.Stat(filepath.Join(s.Dirs.Data, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", file, info.Mode(), err)
		}
	}
}

// Somebody else may have made our folder in /tmp before us.
func TestRuntimeFallback(t *testing.T) {
	run, tmp := t.TempDir(), t.TempDir()
	uid := os.Getuid()
	if got, err := runtimeFallback(run, tmp, uid); err != nil || !strings.HasPrefix(got, tmp+"/stile-") {
		t.Errorf("without a login: %s, %v", got, err)
	}
	mine := strings.TrimPrefix(mustFallback(t, run, tmp, uid), tmp+"/stile-")
	login := mkdir(t, run, mine)
	if got, err := runtimeFallback(run, tmp, uid); err != nil || got != filepath.Join(login, "stile") {
		t.Errorf("with a login: %s, %v", got, err)
	}
	if err := os.Chmod(login, 0o777); err != nil {
		t.Fatal(err)
	}
	dir := mustFallback(t, run, tmp, uid)
	for _, tc := range []struct {
		make func() error
		want string
	}{
		{func() error { return os.Symlink("/", dir) }, "it is a symbolic link"},
		{func() error { return os.WriteFile(dir, nil, 0o600) }, "it is not a folder"},
		{func() error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770)) }, "others may write it"},
		{func() error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 12345, -1)) }, "it belongs to another user"},
	} {
		if err := tc.make(); errors.Is(err, fs.ErrPermission) {
			os.RemoveAll(dir)
			continue // only root can give a folder away
		} else if err != nil {
			t.Fatal(err)
		}
		_, err := runtimeFallback(run, tmp, uid)
		wantError(t, err, tc.want)
		os.RemoveAll(dir)
	}
}

func mustFallback(t *testing.T, run, tmp string, uid int) string {
	t.Helper()
	dir, err := runtimeFallback(run, tmp, uid)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func mkdir(t *testing.T, parent, name string) string {
	t.Helper()
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFindDirs(t *testing.T) {
	t.Setenv("HOME", "/home/u/")
	t.Setenv("XDG_CONFIG_HOME", "/c")
	t.Setenv("XDG_DATA_HOME", "relative")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/u")
	want := Dirs{Config: "/c/stile", Data: "/home/u/.local/share/stile", Cache: "/home/u/.cache/stile",
		Runtime: "/run/u/stile", Links: "/home/u/.local/share/stile/bin", Home: "/home/u"}
	if got, err := FindDirs(); err != nil || got != want {
		t.Errorf("FindDirs: %+v, %v; want %+v", got, err, want)
	}
	// Without HOME the user database is asked.
	t.Setenv("HOME", "")
	if got, err := FindDirs(); err != nil || !filepath.IsAbs(got.Home) {
		t.Errorf("without HOME: %+v, %v", got, err)
	}
}
