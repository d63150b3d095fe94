package distro

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// shareStore is a store, and the folder that its home lies in.
func shareStore(t testing.TB) (s *Store, top string) {
	s = newStore(t)
	return s, filepath.Dir(s.Dirs.Home)
}

// wantShares checks the list, written as "path mode origin" with paths relative
// to the test's folder; /tmp, the default of all, is passed over.
func wantShares(t *testing.T, s *Store, top, name string, want ...string) {
	t.Helper()
	list, err := s.ShareList(name)
	if err != nil {
		t.Errorf("ShareList: %v", err)
		return
	}
	var got []string
	for _, sh := range list {
		if sh.Path != "/tmp" {
			got = append(got, fmt.Sprintf("%s %s %s", strings.TrimPrefix(sh.Path, top+"/"), sh.Mode, sh.Origin))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("shares of %q:\n%s\nwant:\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noTmp takes back the defaults: the test's folders lie in /tmp, in which, shared
// read-write, no read-only share is possible.
func noTmp(t *testing.T, s *Store) {
	configure(t, s, "[shares]\n\"/tmp\" = \"none\"\n\"~\" = \"none\"\n")
}

func TestDefaultShares(t *testing.T) {
	s, top := shareStore(t)
	wantShares(t, s, top, "debian", "home rw default")
	list, err := s.ShareList("debian")
	if err != nil || len(list) < 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, sh := range list {
		if sh.Real == "" {
			t.Errorf("%s has no folder", sh.Path)
		}
	}
	guests, err := s.Shares("debian")
	if err != nil || len(guests) != len(list) {
		t.Fatalf("%v, %v", guests, err)
	}
	dirs := map[string]bool{}
	for _, g := range guests {
		if len(g.Dir) != 16 || dirs[g.Dir] || g.ReadOnly {
			t.Errorf("guest's share %+v", g)
		}
		dirs[g.Dir] = true
	}
}

func TestShareAndUnshare(t *testing.T) {
	s, top := shareStore(t)
	noTmp(t, s)
	src := mkdir(t, top, "src")
	mkdir(t, top, "src/inner")
	wantShares(t, s, top, "")
	sh, err := s.Share(src, ReadOnly)
	must(t, err)
	if sh.Path != src || sh.Real != src || sh.Mode != ReadOnly || sh.Origin != "command" {
		t.Errorf("Share: %+v", sh)
	}
	wantShares(t, s, top, "", "src ro command")
	t.Chdir(top)
	sh, err = s.Share("src/../src/inner/", ReadWrite) // allows more
	must(t, err)
	wantShares(t, s, top, "any", "src ro command", "src/inner rw command")
	sh, err = s.Share("src", ReadWrite)
	must(t, err)
	_, err = s.Share("src/inner", ReadOnly)
	wantError(t, err, "share "+src+"/inner: it can't be read-only, as it lies in "+src+", which is shared rw")
	wantHint(t, err)
	wantShares(t, s, top, "", "src rw command", "src/inner rw command")
	sh, err = s.Unshare(src)
	must(t, err)
	wantShares(t, s, top, "", "src/inner rw command")
	_, err = s.Unshare(src)
	wantError(t, err, "share "+src+": it is not shared")
	wantHint(t, err)
	mkdir(t, top, "src/inner/most")
	_, err = s.Unshare(src + "/inner/most")
	wantError(t, err, "it is not shared itself: it lies in "+src+"/inner, which is")
	// A folder that is gone stays in the list, but no guest sees it.
	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	wantShares(t, s, top, "", "src/inner rw command")
	if guests, err := s.Shares(""); err != nil || len(guests) != 0 {
		t.Errorf("guest's shares %v, %v; want none", guests, err)
	}
	must(t, unshareErr(s, src+"/inner"))
	wantShares(t, s, top, "")
}

func unshareErr(s *Store, path string) error {
	_, err := s.Unshare(path)
	return err
}

// What a default or the file shares can be taken back by the command.
func TestUnshareDefault(t *testing.T) {
	s, top := shareStore(t)
	src := mkdir(t, top, "src")
	configure(t, s, "[shares]\n\"/tmp\" = \"none\"\n"+fmt.Sprintf("%q = \"rw\"\n", src))
	wantShares(t, s, top, "", "home rw default", "src rw config")
	for _, path := range []string{s.Dirs.Home, src} {
		if err := unshareErr(s, path); err != nil {
			t.Error(err)
		}
	}
	wantShares(t, s, top, "")
	_, err := s.Share(s.Dirs.Home, ReadOnly)
	must(t, err)
	wantShares(t, s, top, "", "home ro command")
}

func TestConfiguredShares(t *testing.T) {
	s, top := shareStore(t)
	src := mkdir(t, s.Dirs.Home, "src")
	for _, tc := range []struct {
		name, config string
		want         []string
		err          string
	}{
		{"tilde", "[shares]\n\"~\" = \"ro\"\n\"/tmp\" = \"none\"\n\"~/src\" = \"rw\"", []string{"home ro config", "home/src rw config"}, ""},
		{"of one distro", "[distro.debian.shares]\n\"/tmp\" = \"none\"\n\"~\" = \"none\"\n\"~/src/.\" = \"ro\"", []string{"home/src ro config"}, ""},
		// The distro's own word counts, however both write the path.
		{"of one distro in other words", fmt.Sprintf("[shares]\n\"~\" = \"none\"\n\"/tmp\" = \"none\"\n\"~/src\" = \"rw\"\n[distro.debian.shares]\n%q = \"ro\"", src), []string{"home/src ro config"}, ""},
		{"one folder twice", fmt.Sprintf("[shares]\n\"~/src\" = \"rw\"\n%q = \"ro\"", src), nil, "shares: " + src + " is there twice"},
		{"relative", "[shares]\n\"src\" = \"ro\"", nil, `shares: "src" is not absolute: start it with / or ~/`},
		{"another's home", "[shares]\n\"~bob\" = \"ro\"", nil, `"~bob" is not absolute`},
		{"the guest's own", "[shares]\n\"/usr/\" = \"ro\"", nil, "share /usr: the guest has its own /usr"},
		{"root", "[shares]\n\"/..\" = \"ro\"", nil, "share /: the guest has its own /"},
		{"none in rw", "[shares]\n\"/tmp\" = \"none\"\n\"~/src\" = \"none\"", nil, "it can't be kept from the guest, as it lies in " + s.Dirs.Home},
		{"ro in rw", "[shares]\n\"/tmp\" = \"none\"\n\"~/src\" = \"ro\"", nil, "it can't be read-only, as it lies in " + s.Dirs.Home},
	} {
		t.Run(tc.name, func(t *testing.T) {
			configure(t, s, tc.config)
			for range 20 { // maps come in any order
				if tc.err == "" {
					wantShares(t, s, top, "debian", tc.want...)
					continue
				}
				_, err := s.ShareList("debian")
				wantError(t, err, tc.err)
				wantHint(t, err)
			}
		})
	}
}

func TestBadShares(t *testing.T) {
	s, top := shareStore(t)
	if err := os.WriteFile(filepath.Join(top, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(s.Dirs.Data); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.Dirs.Data, filepath.Join(top, "way")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"": "it is empty", "/": "its own /", "/etc/": "its own /etc", "/proc/self": "its own /proc/self", "/dev/shm": "its own", "/usr/share/../lib": "its own /usr/lib",
		top + "/gone": "there is no such folder", top + "/file": "it is not a folder", top + "/file/x": "there is no such folder",
		s.Dirs.Data: "it is stile's own", top + "/way": "it is stile's own",
	} {
		_, err := s.Share(path, ReadWrite)
		var bad *ShareError
		if !errors.As(err, &bad) {
			t.Errorf("Share(%q): %v, want a ShareError", path, err)
			continue
		}
		wantError(t, err, want)
		wantHint(t, err)
	}
	if got, err := s.readShares(); err != nil || len(got) != 0 {
		t.Errorf("shares were noted: %v, %v", got, err)
	}
}

// A share through a symbolic link is seen at both paths, and goes as one.
func TestLinkedShare(t *testing.T) {
	s, top := shareStore(t)
	noTmp(t, s)
	real, path := mkdir(t, top, "real"), filepath.Join(top, "link")
	if err := os.Symlink("real", path); err != nil {
		t.Fatal(err)
	}
	sh, err := s.Share(path, ReadOnly)
	must(t, err)
	if sh.Path != path || sh.Real != real {
		t.Errorf("Share: %+v", sh)
	}
	wantShares(t, s, top, "", "link ro command", "real ro command")
	// The twin is not there of its own: to say that it is taken back would be
	// wrong, for it would stay.
	_, err = s.Unshare(real)
	wantError(t, err, "share "+real+": it is shared as "+path)
	wantHint(t, err)
	wantShares(t, s, top, "", "link ro command", "real ro command")
	must(t, unshareErr(s, path))
	wantShares(t, s, top, "")
}

// Commands that run at once lose nothing of each other's.
func TestSharesAtOnce(t *testing.T) {
	s, top := shareStore(t)
	noTmp(t, s)
	const n = 10
	var all sync.WaitGroup
	var want []string
	for i := range n {
		dir := mkdir(t, top, fmt.Sprint("d", i))
		want = append(want, fmt.Sprintf("d%d rw command", i))
		all.Go(func() {
			if _, err := s.Share(dir, ReadWrite); err != nil {
				t.Errorf("Share: %v", err)
			}
		})
	}
	all.Wait()
	wantShares(t, s, top, "", want...)
}

func TestDamagedSharesFile(t *testing.T) {
	s, _ := shareStore(t)
	if err := Ensure(s.Dirs.Data); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"shares": {"/x": "wr"}}`, `{"shares": 5}`} {
		if err := os.WriteFile(s.sharesPath(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.ShareList("")
		wantError(t, err, "read shares: "+s.sharesPath()+": ")
	}
}
