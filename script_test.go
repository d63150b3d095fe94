package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The scripts of testdata/ are the specification of what a user sees: one file
// a behaviour. Each has a home, a store and machines of its own, with a distro
// named "deb" in it, a copy of the one that the whole run made once.

// bin is the folder of the binaries under test; image the folder of the distro
// that each script gets a copy of. Both are made by testdata/test.sh.
var (
	bin   = os.Getenv("STILE_TEST_BIN")
	image = os.Getenv("STILE_TEST_DISTRO")
	cache = os.Getenv("STILE_TEST_CACHE")
)

// slow is how many times longer than elsewhere a test waits for what must come:
// a guest of a guest of an emulator is no faster.
var slow = time.Duration(max(1, number(os.Getenv("STILE_TEST_SLOW"))))

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func TestScripts(t *testing.T) {
	for name, value := range map[string]string{"STILE_TEST_BIN": bin, "STILE_TEST_DISTRO": image, "STILE_TEST_CACHE": cache} {
		if value == "" {
			t.Fatalf("%s is not set: the scripts are run by make test", name)
		}
	}
	testscript.Run(t, scripts("testdata", map[string]func(*testscript.TestScript, bool, []string){
		"exact":    cmdExact,
		"judge":    cmdJudge,
		"status":   cmdStatus,
		"samefile": cmdSameFile,
	}))
}

// scripts are those of a folder, with commands of their own.
func scripts(dir string, commands map[string]func(*testscript.TestScript, bool, []string)) testscript.Params {
	commands["eventually"], commands["terminal"] = cmdEventually, cmdTerminal
	// Two guests at a time: each has the emulator of a whole machine.
	slots := make(chan struct{}, runtime.NumCPU())
	var mu sync.Mutex
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			slots <- struct{}{}
			env.Defer(func() { <-slots })
			mu.Lock()
			defer mu.Unlock()
			return setup(env)
		},
		Cmds:      commands,
		Condition: condition,
	}
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "kvm":
		return os.Getenv("STILE_ENGINE") == "kvm", nil
	case "nested":
		return slow > 1, nil
	case "judges":
		return os.Getenv("STILE_TEST_JUDGES") != "", nil
	case "long":
		return os.Getenv("STILE_TEST_LONG") != "", nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// setup makes the home of one script. Its path is short, for a socket's path
// holds 108 bytes.
func setup(env *testscript.Env) error {
	home, err := os.MkdirTemp("", "st")
	if err != nil {
		return err
	}
	set := map[string]string{
		"JUDGES":          os.Getenv("STILE_TEST_JUDGES"),
		"HOME":            home,
		"XDG_CONFIG_HOME": home + "/.config",
		"XDG_DATA_HOME":   home + "/.local/share",
		"XDG_CACHE_HOME":  cache,
		"XDG_RUNTIME_DIR": home + "/run",
		"LINKS":           home + "/.local/share/stile/bin",
		"PATH":            home + "/.local/share/stile/bin:" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"USER":            os.Getenv("USER"),
		"LC_ALL":          "C.UTF-8",
		"TMPDIR":          "/tmp",
		"SHELL":           "/bin/bash",
	}
	if engine := os.Getenv("STILE_ENGINE"); engine != "" {
		set["STILE_ENGINE"] = engine
	}
	for k, v := range set {
		env.Setenv(k, v)
	}
	env.Defer(func() { teardown(env, home) })
	distro := home + "/.local/share/stile/distros/deb"
	for _, dir := range []string{distro, home + "/run", home + "/work"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// Packed: a file system that shows no holes, as 9P is, would be read for
	// 64 GiB.
	out, err := exec.Command("tar", "-xSf", filepath.Join(image, "distro.tar"), "-C", distro).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy the distro: %w: %s", err, out)
	}
	if err := os.WriteFile(home+"/.local/share/stile/default", []byte("deb\n"), 0o600); err != nil {
		return err
	}
	// Scripts work in a shared folder: the home's, not $WORK, which is not
	// below it.
	files, err := os.ReadDir(env.WorkDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() == ".tmp" {
			continue
		}
		if err := os.Rename(filepath.Join(env.WorkDir, f.Name()), filepath.Join(home, "work", f.Name())); err != nil {
			return err
		}
	}
	env.Cd = home + "/work"
	return nil
}

// teardown ends the script's machines and fails the script if anything of them
// is left.
func teardown(env *testscript.Env, home string) {
	stop := exec.Command(filepath.Join(bin, "stile"), "stop", "--all", "--force")
	stop.Env = env.Vars
	if out, err := stop.CombinedOutput(); err != nil {
		env.T().Log(fmt.Sprintf("stop: %v: %s", err, out))
	}
	deadline := time.Now().Add(10 * slow * time.Second)
	for {
		left := processesOf(home)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			env.T().Log("left running: " + strings.Join(left, "; "))
			env.T().FailNow()
		}
		time.Sleep(20 * time.Millisecond)
	}
	if logs, err := filepath.Glob(home + "/run/stile/*/console.log*"); err == nil && testing.Verbose() {
		for _, l := range logs {
			b, _ := os.ReadFile(l)
			env.T().Log(l + ":\n" + string(bytes.TrimSpace(b)))
		}
	}
	os.RemoveAll(home)
}

// processesOf lists the processes that have the script's home in their
// environment and are ours: supervisors, vmm processes, emulators, shims.
func processesOf(home string) []string {
	var left []string
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, e := range envs {
		b, err := os.ReadFile(e)
		if err != nil || !bytes.Contains(b, []byte("HOME="+home+"\x00")) {
			continue
		}
		cmd, err := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
		if err != nil || len(cmd) == 0 {
			continue // a zombie, or gone
		}
		name := filepath.Base(string(bytes.SplitN(cmd, []byte{0}, 2)[0]))
		if name == "stile" || name == "shim" || strings.HasPrefix(name, "qemu-system") {
			left = append(left, filepath.Base(filepath.Dir(e))+" "+string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
		}
	}
	return left
}

// status N CMD ARG...: the command must end with exactly that status: a number,
// or the name of the signal that killed it, as waitpid sees it.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N|SIGNAL CMD ARG...")
	}
	var out, errs bytes.Buffer
	path, err := lookPath(ts.Getenv("PATH"), args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Args[0] = args[1]
	cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 10 * slow * time.Second // what is left behind may have them open
	err = cmd.Run()
	got := "0"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		ws := exit.Sys().(interface {
			Signaled() bool
			ExitStatus() int
		})
		got = fmt.Sprint(ws.ExitStatus())
		if ws.Signaled() {
			got = unix.SignalName(exit.Sys().(interface{ Signal() unix.Signal }).Signal())
		}
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	fmt.Fprint(ts.Stdout(), out.String())
	fmt.Fprint(ts.Stderr(), errs.String())
	if got != args[0] {
		ts.Fatalf("%s ended with %s, want %s\nstderr: %s", strings.Join(args[1:], " "), got, args[0], errs.String())
	}
}

// eventually SH...: the shell command succeeds within ten seconds.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually SHELL-COMMAND")
	}
	var out []byte
	for end := time.Now().Add(10 * slow * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		cmd := exec.Command("bash", "-c", strings.Join(args, " "))
		cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
		var err error
		if out, err = cmd.CombinedOutput(); err == nil {
			return
		}
	}
	ts.Fatalf("it never came true: %s", out)
}

// samefile A B: two files hold the same bytes, however many.
func cmdSameFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: samefile A B")
	}
	a, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer a.Close()
	b, err := os.Open(ts.MkAbs(args[1]))
	ts.Check(err)
	defer b.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := 0; ; at += len(x) {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			ts.Fatalf("%s and %s differ within the MiB at %d (%d and %d bytes there)", args[0], args[1], at, n, m)
		}
		if errA != nil || errB != nil {
			return
		}
	}
}

func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, k := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "LINKS", "PATH", "USER", "LC_ALL", "TMPDIR", "SHELL", "WORK", "STILE_ENGINE"} {
		env = append(env, k+"="+ts.Getenv(k))
	}
	return env
}

func lookPath(path, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, name)
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found in PATH", name)
}
