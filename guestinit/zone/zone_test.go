package zone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stilehq/stile/interop/guest"
)

// A distro is a folder with the files of some zones.
type distro struct {
	t    *testing.T
	root string
}

func newDistro(t *testing.T, zones ...string) *distro {
	d := &distro{t, t.TempDir()}
	d.write("etc/hostname", "d")
	for _, z := range zones {
		d.write(zoneFiles+z, "data of "+z)
	}
	return d
}

func (d *distro) open(path string, flags int, mode uint32) (*os.File, error) {
	return os.OpenFile(d.root+path, flags, os.FileMode(mode))
}

func (d *distro) write(path, text string) {
	d.t.Helper()
	path = filepath.Join(d.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// link makes /etc/localtime as a user does.
func (d *distro) link(target string) {
	d.t.Helper()
	path := d.root + "/etc/localtime"
	os.Remove(path)
	if err := os.Symlink(target, path); err != nil {
		d.t.Fatal(err)
	}
}

func (d *distro) follow(name string) {
	d.t.Helper()
	z := guest.Zone{Name: name, Data: []byte("the host's " + name)}
	if name == "" {
		z.Data = nil
	}
	if err := Follow(d.open, z); err != nil {
		d.t.Fatal(err)
	}
}

// want says what /etc/localtime is: the target of a link, the text of a file, or "".
func (d *distro) want(want string) {
	d.t.Helper()
	got, err := os.Readlink(d.root + "/etc/localtime")
	if err != nil {
		b, err := os.ReadFile(d.root + "/etc/localtime")
		if err != nil && !os.IsNotExist(err) {
			d.t.Fatal(err)
		}
		got = string(b)
	}
	if got != want {
		d.t.Errorf("localtime is %q, want %q", got, want)
	}
	left, _ := filepath.Glob(d.root + "/*/*.stile")
	if len(left) > 0 {
		d.t.Errorf("%q is left", left)
	}
}

const (
	berlin = "../usr/share/zoneinfo/Europe/Berlin"
	tokyo  = "../usr/share/zoneinfo/Asia/Tokyo"
)

// What the distro came with is the host's from now on, and goes where it goes.
func TestFollow(t *testing.T) {
	for _, tt := range []struct{ name, link, file string }{
		{"nothing", "", ""},
		{"Debian's", "/usr/share/zoneinfo/Etc/UTC", ""},
		{"UTC", "../usr/share/zoneinfo/UTC", ""},
		{"a file", "", "TZif2...\nUTC0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDistro(t, "Europe/Berlin", "Asia/Tokyo", "Etc/UTC", "UTC")
			if tt.link != "" {
				d.link(tt.link)
			} else if tt.file != "" {
				d.write("etc/localtime", tt.file)
			}
			for _, step := range [][2]string{{"Europe/Berlin", berlin}, {"Europe/Berlin", berlin}, {"Asia/Tokyo", tokyo},
				{"Mars/Base", "the host's Mars/Base"}, {"", "../usr/share/zoneinfo/Etc/UTC"}, {"Europe/Berlin", berlin}} {
				d.follow(step[0])
				d.want(step[1])
			}
		})
	}
}

// What a user has chosen stays, whenever that was.
func TestChoiceStays(t *testing.T) {
	const newYork = "/usr/share/zoneinfo/America/New_York"
	d := newDistro(t, "Europe/Berlin", "Asia/Tokyo", "Etc/UTC")
	d.link(newYork)
	d.follow("Europe/Berlin")
	d.want(newYork)
	d.link("/usr/share/zoneinfo/Etc/UTC") // now it is a choice, too
	d.follow("Europe/Berlin")
	d.want("/usr/share/zoneinfo/Etc/UTC")

	d = newDistro(t, "Europe/Berlin", "Asia/Tokyo", "Etc/UTC")
	d.follow("Europe/Berlin")
	d.want(berlin)
	d.link("/usr/share/zoneinfo/Europe/Berlin") // as dpkg-reconfigure makes it
	d.follow("Asia/Tokyo")
	d.want("/usr/share/zoneinfo/Europe/Berlin")
	d.link("/usr/share/zoneinfo/Etc/UTC")
	d.follow("Asia/Tokyo")
	d.want("/usr/share/zoneinfo/Etc/UTC")
	if err := os.Remove(d.root + "/etc/localtime"); err != nil { // back to the host's
		t.Fatal(err)
	}
	d.follow("Asia/Tokyo")
	d.want(tokyo)

	// A distro without zones has the host's data, or nothing.
	d = newDistro(t)
	d.follow("Asia/Tokyo")
	d.want("the host's Asia/Tokyo")
	d.follow("")
	d.want("")
	d.write("etc/localtime", "a user's")
	d.follow("Asia/Tokyo")
	d.want("a user's")

	// A host with UTC, and then a user who chooses just that.
	d = newDistro(t, "Europe/Berlin", "UTC")
	d.link("../usr/share/zoneinfo/UTC")
	d.follow("UTC")
	d.follow("Europe/Berlin")
	d.want(berlin)
	d.link("/usr/share/zoneinfo/UTC")
	d.follow("Europe/Berlin")
	d.want("/usr/share/zoneinfo/UTC")
}

// Debian's second place for the name goes along, where it said the same.
func TestTimezone(t *testing.T) {
	for _, tt := range []struct{ before, after string }{{"Etc/UTC\n", "Europe/Berlin\n"}, {"Asia/Tokyo\n", "Asia/Tokyo\n"}, {"", ""}} {
		d := newDistro(t, "Europe/Berlin", "Etc/UTC")
		d.link("/usr/share/zoneinfo/Etc/UTC")
		if tt.before != "" {
			d.write("etc/timezone", tt.before)
		}
		d.follow("Europe/Berlin")
		check := func(want string) {
			t.Helper()
			b, err := os.ReadFile(d.root + "/etc/timezone")
			if want == "" && !os.IsNotExist(err) || string(b) != want {
				t.Errorf("%q became %q, %v, want %q", tt.before, b, err, want)
			}
		}
		check(tt.after)
		d.follow("No/Name") // that the distro knows
		if tt.after == "Europe/Berlin\n" {
			tt.after = ""
		}
		check(tt.after)
	}
}

// What is no file stays; a distro without /etc is left alone.
func TestOdd(t *testing.T) {
	d := newDistro(t, "UTC")
	if err := os.Mkdir(d.root+"/etc/localtime", 0o755); err != nil {
		t.Fatal(err)
	}
	d.follow("UTC")
	if info, err := os.Stat(d.root + "/etc/localtime"); err != nil || !info.IsDir() {
		t.Errorf("the folder became %v, %v", info, err)
	}
	d = &distro{t, t.TempDir()}
	d.follow("UTC")
	if names, _ := os.ReadDir(d.root); len(names) > 0 {
		t.Errorf("a distro without /etc has %v", names)
	}
	d = newDistro(t, "UTC")
	d.write("var/lib/stile", "a file, where a folder should be")
	if err := Follow(d.open, guest.Zone{Name: "UTC"}); err == nil || !strings.HasPrefix(err.Error(), "time zone: ") {
		t.Errorf("error %v", err)
	}
}
