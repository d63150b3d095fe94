package distro

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever is in the settings file, it is settings that can be used or one line
// about the file.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"engine = \"qemu\"\nmemory = \"1.5 GiB\"\ncpus = 2\nidle = \"0s\"\n[shares]\n\"~/src\" = \"ro\"\n[distro.debian]\ncpus = 3\n",
		"[distro.a.shares]\n\"/x\" = \"none\"\n[distro.\"b.c\"]\n", "cpus = 0x10\nmemory = 1e9\n", "distro = { a = { idle = 1s } }", "[[shares]]\n", "\"\" = 1", "cpus = [1]\n",
	} {
		f.Add([]byte(text))
	}
	s := newStore(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		configure(t, s, string(text))
		config, err := LoadConfig(s.Dirs)
		if err != nil {
			var bad *ConfigError
			if !errors.As(err, &bad) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%T: %q", err, err)
			}
			return
		}
		for _, name := range []string{"debian", "a", "none"} {
			got := config.Settings(name)
			if got.CPUs < 1 || got.CPUs > 255 || got.Memory < minMemory || got.Idle < 0 {
				t.Errorf("settings %+v", got)
			}
			switch got.Engine {
			case EngineAuto, EngineKVM, EngineQEMU:
			default:
				t.Errorf("engine %q", got.Engine)
			}
			list, err := s.ShareList(name)
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			for _, sh := range list {
				if !filepath.IsAbs(sh.Path) || filepath.Clean(sh.Path) != sh.Path || sh.Mode != ReadOnly && sh.Mode != ReadWrite {
					t.Errorf("share %+v", sh)
				}
			}
		}
	})
}

func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"4GiB", "1.5 t", "-1", "1e5k", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := ParseSize(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		if size < 0 {
			t.Errorf("%q is %d", text, int64(size))
		}
		if again, err := ParseSize(size.String()); err != nil || float64(again) < 0.94*float64(size) || float64(again) > 1.06*float64(size) {
			t.Errorf("%q is %v, which is %d, %v", text, size, int64(again), err)
		}
	})
}

// A superblock of any bytes is accepted, or an error that names the image.
func FuzzImage(f *testing.F) {
	image, err := createImage(filepath.Join(f.TempDir(), "disk.img"))
	if err != nil {
		f.Fatal(err)
	}
	super := make([]byte, superSize)
	if _, err := image.ReadAt(super, superOffset); err != nil {
		f.Fatal(err)
	}
	image.Close()
	f.Add(super, int64(DiskSize))
	f.Add(super, int64(superOffset+superSize))
	f.Add([]byte{}, int64(0))
	path := filepath.Join(f.TempDir(), "disk.img")
	f.Fuzz(func(t *testing.T, super []byte, size int64) {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt(super[:min(len(super), superSize)], superOffset); err != nil {
			t.Fatal(err)
		}
		if err := file.Truncate(size & (1<<43 - 1)); err != nil {
			t.Fatal(err)
		}
		disk, err := OpenDisk(path)
		if err == nil {
			disk.Close()
			return
		}
		var bad *ImageError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%T: %q", err, err)
		}
	})
}
