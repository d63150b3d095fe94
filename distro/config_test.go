package distro

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"
)

func TestMemoryFor(t *testing.T) {
	for host, want := range map[uint64]uint64{
		0:                   512 << 20,
		700 << 20:           512 << 20,
		4<<30 + 4096:        2 << 30,
		4<<30 + 3<<20:       2 << 30, // a whole 2 MiB
		4<<30 + 4<<20:       2<<30 + 2<<20,
		16 << 30:            8 << 30,
		1 << 40:             8 << 30,
		1<<63 + 1<<62 + 123: 8 << 30,
	} {
		if got := memoryFor(host); got != want {
			t.Errorf("a host of %v: %v, want %v", Size(host), Size(got), Size(want))
		}
	}
}

func TestSettings(t *testing.T) {
	s := newStore(t)
	before, err := s.Settings("debian")
	if err != nil {
		t.Fatalf("without a file: %v", err)
	}
	if before.Engine != EngineAuto || before.Idle != time.Minute || before.CPUs < 1 || before.Memory < 512<<20 || before.Memory > 8<<30 || len(before.Shares) != 0 {
		t.Errorf("defaults %+v", before)
	}
	configure(t, s, `
engine = "qemu"
memory = "1537 MiB"
cpus = 2
idle = "0s"
[shares]
"~/src" = "ro"
"~/x" = "rw"
[distro.debian]
engine = "kvm"
memory = 536870912
[distro.debian.shares]
"~/src" = "rw"
[distro."a.b"]
cpus = 255
`)
	for name, want := range map[string]Settings{
		"other":  {EngineQEMU, 3 << 29, 2, 0, map[string]Mode{"~/src": ReadOnly, "~/x": ReadWrite}},
		"debian": {EngineKVM, 512 << 20, 2, 0, map[string]Mode{"~/src": ReadWrite, "~/x": ReadWrite}},
		"a.b":    {EngineQEMU, 3 << 29, 255, 0, map[string]Mode{"~/src": ReadOnly, "~/x": ReadWrite}},
	} {
		if got, err := s.Settings(name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("settings of %s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for _, tc := range []struct {
		text string
		line int
		want string
	}{
		{"# one\n\nmemroy = \"4GiB\"\n", 3, `unknown key "memroy"`},
		{"cpus = 2\n[distro.debian]\ncpu = 2\n", 3, `unknown key "distro.debian.cpu"`},
		{"[sharse]\n\"~\" = \"ro\"\n", 1, `unknown key "sharse"`},
		{"\nengine = \"xen\"\n", 2, `engine "xen": choose auto, kvm or qemu`},
		{"memory = \"lots\"\n", 1, `size "lots": write a number and KiB, MiB, GiB or TiB`},
		{"idle = \"-5s\"\n", 1, `time "-5s": write it like 60s, 5m or 1h30m`},
		{"idle = 60\n", 0, `time "60": write it like 60s`}, // go-toml loses the line
		{"engine = 5\n", 0, `engine "5": choose`},
		{"[distro.debian.shares]\n\"~\" = true\n", 0, `mode "true": choose`},
		{"cpus = \"four\"\n", 1, ""},
		{"cpus = 99999999999999999999\n", 1, ""},
		{"[shares]\n\"~\" = \"wr\"\n", 2, `mode "wr": choose rw, ro or none`},
		{"cpus = 1\ncpus = 2\n", 2, ""},
		{"cpus = 1\n\n= 2\n", 3, ""},
		{"cpus\n", 1, ""},
		{"x = \"\xff\"\n", 1, ""},
		{"\x00\x01", 1, ""},
		{"cpus = 0\n", 0, "cpus is 0: 1 to 255 are possible"},
		{"memory = \"64MiB\"\n", 0, "memory is 64 MiB: at least 128 MiB are needed"},
		{"[distro.debian]\ncpus = 256\n", 0, "distro.debian.cpus is 256"},
		{"[distro.Debian]\n", 0, `[distro.Debian]: name "Debian": it has 'D' in it`},
		{"distro = 5\n", 1, ""},
	} {
		s := newStore(t)
		configure(t, s, tc.text)
		_, err := s.Settings("debian")
		var bad *ConfigError
		if !errors.As(err, &bad) {
			t.Errorf("%q: %v, want a ConfigError", tc.text, err)
			continue
		}
		where := s.Dirs.ConfigPath()
		if tc.line != 0 {
			where += fmt.Sprint(":", tc.line)
		}
		wantError(t, err, where+": "+tc.want)
		wantHint(t, err)
	}
}

func TestConfigIsFolder(t *testing.T) {
	s := newStore(t)
	if err := os.MkdirAll(s.Dirs.ConfigPath(), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := s.Settings("debian")
	wantError(t, err, "read settings: read "+s.Dirs.ConfigPath()+": is a directory")
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "17": 17, "512MiB": 512 << 20, "4GiB": 4 << 30, "4G": 4 << 30, "4GB": 4 << 30, "4 g": 4 << 30, "1.5 GiB": 3 << 29,
		"1TiB": 1 << 40, "2k": 2048, "7B": 7, ".5KiB": 512,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, int64(got), err, int64(want))
		}
	}
	for _, text := range []string{"", "G", "-1", "-1GiB", "1PiB", "4i", "4ib", "4bib", "4GiBB", "4G iB", "1.2.3", "0x10", "1e30", "99999999TiB", "inf", "NaN", "4G4", "4\n", "١"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, int64(got))
		} else {
			wantError(t, err, "write a number and KiB")
		}
	}
}

func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 3 << 29: "1.5 GiB", 64 << 30: "64 GiB", 5000 << 40: "5000 TiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d is %q, want %q", int64(size), got, want)
		}
	}
}
