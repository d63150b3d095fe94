package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// shim is the binary under test, built as the Makefile builds it.
var shim string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shim = filepath.Join(dir, "shim")
	flags, err := makeVariable("SHIM_LDFLAGS")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", shim, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build with %q: %v\n%s", flags, err, out)
		return 1
	}
	// Whoever runs the tests may have left descriptors open; the commands under test
	// are to have none but their own.
	for fd := 3; fd < 1024; fd++ {
		unix.CloseOnExec(fd) // no error: most are not open
	}
	return m.Run()
}

// makeVariable is the value of a variable of the Makefile, in which others may
// stand.
func makeVariable(name string) (string, error) {
	data, err := os.ReadFile("../Makefile")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		value, ok := strings.CutPrefix(line, name+" := ")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		for strings.Contains(value, "$(") {
			_, rest, _ := strings.Cut(value, "$(")
			inner, _, _ := strings.Cut(rest, ")")
			v, err := makeVariable(inner)
			if err != nil {
				return "", err
			}
			value = strings.ReplaceAll(value, "$("+inner+")", v)
		}
		return value, nil
	}
	return "", fmt.Errorf("the Makefile has no %s", name)
}

// The start of the shim is part of each command's time: package os alone would
// double it.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{.Standard}} {{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		standard, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if standard == "true" && (strings.HasPrefix(path, "internal/") || strings.HasPrefix(path, "runtime/")) {
			continue // the runtime's own
		}
		got = append(got, path)
	}
	slices.Sort(got)
	want := []string{
		"cmp", "errors",
		"github.com/stilehq/stile/interop/early", "github.com/stilehq/stile/interop/wire", "github.com/stilehq/stile/shim",
		"iter", "math/bits", "runtime", "slices", "sync", "sync/atomic", "syscall", "unsafe",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the shim imports\n%q, want\n%q", got, want)
	}
}

func TestSize(t *testing.T) {
	info, err := os.Stat(shim)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > 1_500_000 {
		t.Errorf("the shim has %d bytes, and may have 1,500,000", info.Size())
	}
	out, err := exec.Command("go", "version", "-m", shim).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "CGO_ENABLED=0") {
		t.Errorf("it is not static: %v\n%s", err, out)
	}
}

// Linked without its entry point it would not know what the runtime has changed.
func TestRefusesToRunWithoutEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shim")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(path).CombinedOutput()
	if code := exitCode(err); code != 125 || !strings.HasPrefix(string(out), "stile: shim: built without its entry point\n") {
		t.Errorf("it ends with %d: %s", code, out)
	}
}

// exitCode is the status that a command ended with, -1 if a signal killed it.
func exitCode(err error) int {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	return -1000 // it did not run
}
