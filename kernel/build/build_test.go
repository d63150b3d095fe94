package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stilehq/stile/kernel"
)

func TestMirrors(t *testing.T) {
	for _, c := range []struct {
		name, out string
		want      []string
	}{
		{"one of two origins", `Packages|Debian|Debian|stable|http://m/debian/
Packages|Debian|Debian|stable-updates|http://m/debian/
Packages|Debian|Debian-Security|stable-security|http://m/debian-security/
Packages|Other|Other|x|http://o/
Translations|Debian|Debian|stable|http://t/
`, []string{"http://m/debian/"}},
		{"before the first update", `Packages|||stable|http://m/debian/
Packages|||stable-security|http://m/debian-security/
`, []string{"http://m/debian/"}},
		{"unknown values as apt leaves them", `Packages|$(ORIGIN)|$(LABEL)|stable|http://m/debian/
`, []string{"http://m/debian/"}},
		{"another distribution", "Packages|Ubuntu|Ubuntu|noble|http://u/\n", nil},
		{"nothing", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := debianMirrors(parseTargets(c.out)); !slices.Equal(got, c.want) {
				t.Errorf("mirrors %q, want %q", got, c.want)
			}
		})
	}
}

func TestMakefileVersion(t *testing.T) {
	got, err := makefileVersion("# head\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\nx_VERSION = 9\n")
	if err != nil || got != "7.3.4" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := makefileVersion("all:\n"); err == nil {
		t.Error("no error of a makefile without a version")
	}
}

// A file that is not what the pin means stops the build, wherever it came from.
func TestHashes(t *testing.T) {
	pin, err := kernel.ParsePin("version 1\nsource tar l.tar.xz ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &build{pin: pin, sources: dir, work: filepath.Join(dir, "work")}
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	write(t, good, "abc")
	write(t, bad, "abd")

	t.Setenv(sourceEnv, good)
	if got, err := b.fetch(t.Context()); err != nil || got != good {
		t.Errorf("the user's file: %q, %v", got, err)
	}
	t.Setenv(sourceEnv, bad)
	if _, err := b.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "does not stand in kernel/pin") {
		t.Errorf("the user's wrong file: %v", err)
	}
	t.Setenv(sourceEnv, filepath.Join(dir, "none"))
	if _, err := b.fetch(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the user's missing file: %v", err)
	}

	t.Setenv(sourceEnv, "")
	if _, err := b.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), sourceEnv) {
		t.Errorf("no source at all: %v", err)
	}
	cached := filepath.Join(dir, pin.Sources[0].SHA256)
	write(t, cached, "abd")
	if _, err := b.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a damaged file in the cache: %v", err)
	}
	write(t, cached, "abc")
	if got, err := b.fetch(t.Context()); err != nil || got != cached {
		t.Errorf("a file in the cache: %q, %v", got, err)
	}
}

// Nothing of the caller's environment may change what is built.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"CFLAGS", "KCFLAGS", "MAKEFLAGS", "ARCH", "CROSS_COMPILE", "KCONFIG_CONFIG"} {
		t.Setenv(name, "surprise")
	}
	b := &build{work: t.TempDir()}
	env := strings.Join(b.command(t.Context(), "make").Env, "\n")
	if strings.Contains(env, "surprise") {
		t.Errorf("environment\n%s", env)
	}
	for _, want := range []string{"PATH=", "LC_ALL=C", "KBUILD_BUILD_TIMESTAMP=1980", "KBUILD_BUILD_USER=stile", "LOCALVERSION="} {
		if !strings.Contains(env, want) {
			t.Errorf("no %s in the environment", want)
		}
	}
}

func TestFailureShowsTheEnd(t *testing.T) {
	u := testUI(t)
	cmd := exec.Command("sh", "-c", "for i in $(seq 30); do echo line $i; done; printf end >&2; exit 3")
	err := u.step("compile", func() error { return u.run(cmd) })
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if strings.Contains(text, "line 11\n") || !strings.Contains(text, "line 12\n") || !strings.Contains(text, "  end\n") {
		t.Errorf("not the last %d lines:\n%s", tailLines, text)
	}
	if !strings.HasSuffix(text, "full log: "+u.logPath) || !strings.Contains(text, "exit status 3") {
		t.Errorf("error\n%s", text)
	}
	log, err := os.ReadFile(u.logPath)
	if err != nil || !strings.Contains(string(log), "line 1\n") {
		t.Errorf("log %q, %v", log, err)
	}
}

// An interrupted build leaves no compiler behind.
func TestCancelEndsTheGroup(t *testing.T) {
	u := testUI(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	// The grandchild holds the pipe: Run returns when it, too, is gone.
	if err := u.run(command(ctx, "sh", "-c", "sleep 60 & wait")); err == nil {
		t.Error("no error")
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path, func() { t.Error("waited for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	locked := make(chan error)
	go func() {
		unlock, err := lock(path, func() { close(waiting) })
		if err == nil {
			unlock()
		}
		locked <- err
	}()
	<-waiting
	unlock()
	if err := <-locked; err != nil {
		t.Error(err)
	}
}

func TestCheckImage(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkImage(self); err == nil {
		t.Error("a test program passes for a kernel")
	}
	text := filepath.Join(t.TempDir(), "text")
	write(t, text, "no kernel")
	if err := checkImage(text); err == nil {
		t.Error("a text passes for a kernel")
	}
}

func testUI(t *testing.T) *ui {
	t.Helper()
	u := &ui{out: t.Output(), logPath: filepath.Join(t.TempDir(), "log")}
	if err := u.openLog(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.log.Close() })
	return u
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
