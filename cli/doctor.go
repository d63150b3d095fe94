package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/debian"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/machine"
	"github.com/stilehq/stile/vmm/kvm"
	"github.com/stilehq/stile/vmm/qemu"
)

func newDoctorCommand() *command {
	var json bool
	return &command{
		name: "doctor", args: "[--json]", short: "Check what stile needs of this host, and tell the cure of what lacks",
		long: `
It ends with 0 if stile can work here, else with 1. A "note" is about something
that is good to have.`,
		flags: func(f *pflag.FlagSet) { jsonFlag(f, &json) },
		run: func(ctx context.Context, app *app, args []string) error {
			return runDoctor(ctx, app, json)
		},
	}
}

// Levels of a check's outcome.
const (
	levelOK      = "ok"
	levelNote    = "note"    // stile works without
	levelProblem = "problem" // stile does not work
)

// A check is one line of doctor.
type check struct {
	Name   string `json:"name"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	Cure   string `json:"cure,omitempty"`
}

func runDoctor(ctx context.Context, app *app, json bool) error {
	dirs := app.store.Dirs
	checks := []check{
		checkKVM(machine.KVMSupport(app.store.Dirs)),
		checkQEMU(ctx),
		checkKernel(dirs),
		checkParts(),
		checkConfig(app.store),
		checkMmdebstrap(dirs),
		checkDisk(dirs),
		checkMemory(app.store),
		checkRuntime(dirs),
		checkPath(dirs),
	}
	failed := false
	for _, c := range checks {
		failed = failed || c.Level == levelProblem
	}
	if json {
		if err := app.ui.json(checks); err != nil {
			return err
		}
	} else {
		app.ui.checks(checks)
	}
	if failed {
		return exitError(exitFailed)
	}
	return nil
}

// checkKVM says whether machines can run on KVM. Without it they run on QEMU,
// emulated: slower, but all the same.
func checkKVM(r kvm.Result) check {
	c := check{Name: "KVM", Level: levelNote, Detail: r.Reason + "; machines run on QEMU, emulated", Cure: r.Hint}
	if r.Support == kvm.Usable {
		c.Level, c.Detail = levelOK, r.Reason
	} else if c.Cure == "" {
		c.Cure = "nothing to do here; a host with hardware virtualization, or nested virtualization in the VM that this is, makes it fast"
	}
	return c
}

func checkQEMU(ctx context.Context) check {
	c := check{Name: "QEMU", Level: levelProblem, Cure: "sudo apt install qemu-system-x86"}
	path, err := qemu.Find()
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		c.Detail = fmt.Sprintf("%s does not run: %v", path, err)
		return c
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return check{Name: "QEMU", Level: levelOK, Detail: strings.TrimSpace(line) + ", " + path}
}

func checkKernel(dirs distro.Dirs) check {
	path, err := payload.Kernel(dirs)
	if err != nil {
		_, hint, _ := explain(err)
		return check{"kernel", levelProblem, err.Error(), hint}
	}
	return check{Name: "kernel", Level: levelOK, Detail: path}
}

func checkParts() check {
	if _, err := payload.GuestInit(); err != nil {
		_, hint, _ := explain(err)
		return check{"guestinit", levelProblem, err.Error(), hint}
	}
	return check{Name: "guestinit", Level: levelOK, Detail: "found"}
}

func checkConfig(store *distro.Store) check {
	if _, err := store.ShareList(""); err != nil {
		_, hint, _ := explain(err)
		return check{"settings", levelProblem, err.Error(), hint}
	}
	return check{Name: "settings", Level: levelOK, Detail: store.Dirs.ConfigPath()}
}

func checkMmdebstrap(dirs distro.Dirs) check {
	path := dirs.WithoutLinks(os.Getenv("PATH"))
	mode, err := debian.Usable(path)
	if err != nil {
		_, hint, _ := explain(err)
		return check{"mmdebstrap", levelNote, "stile install debian does not work: " + err.Error(), hint}
	}
	return check{Name: "mmdebstrap", Level: levelOK, Detail: "usable, in mode " + string(mode)}
}

// diskNeeded is what a distro and its root file system in the cache take.
const diskNeeded = 2 << 30

func checkDisk(dirs distro.Dirs) check {
	c := check{Name: "disk", Level: levelOK}
	at := existing(dirs.Data)
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return check{"disk", levelProblem, fmt.Sprintf("%s: %v", at, err), "set XDG_DATA_HOME to a folder that can be used"}
	}
	free := st.Bavail * uint64(st.Bsize)
	c.Detail = fmt.Sprintf("%v free for %s", distro.Size(free), dirs.Data)
	switch {
	case unix.Access(at, unix.W_OK) != nil:
		c.Level, c.Cure = levelProblem, "see whom "+at+" belongs to, or set XDG_DATA_HOME to another folder"
		c.Detail = at + " can't be written"
	case free < diskNeeded:
		c.Level, c.Cure = levelNote, fmt.Sprintf("a distro takes about %v: make room, or set XDG_DATA_HOME to a folder elsewhere", distro.Size(diskNeeded))
	}
	return c
}

// existing is the nearest folder above path that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = path[:strings.LastIndexByte(path, '/')]
		if path == "" {
			path = "/"
		}
	}
	return path
}

// memoryNeeded is what a guest with its QEMU takes when it does little.
const memoryNeeded = 512 << 20

func checkMemory(store *distro.Store) check {
	available := memAvailable()
	c := check{Name: "memory", Level: levelOK, Detail: fmt.Sprintf("%v available", distro.Size(available))}
	if s, err := store.Settings(""); err == nil {
		c.Detail += fmt.Sprintf(", a guest may have %v", distro.Size(s.Memory))
	}
	if available < memoryNeeded {
		c.Level, c.Cure = levelNote, "a machine may fail to start: close something that takes memory"
	}
	return c
}

// memAvailable is MemAvailable of /proc/meminfo in bytes (proc(5)).
func memAvailable() uint64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 54)
			return n << 10
		}
	}
	return 0
}

func checkRuntime(dirs distro.Dirs) check {
	name := strings.Repeat("x", 20)
	if err := dirs.CheckName(name); err != nil {
		_, hint, _ := explain(err)
		return check{"runtime", levelNote, dirs.Runtime + ": names of distros have to be very short, for a socket's path has a limit", hint}
	}
	return check{Name: "runtime", Level: levelOK, Detail: dirs.Runtime}
}

func checkPath(dirs distro.Dirs) check {
	if !onPath(dirs) {
		return check{"PATH", levelNote, dirs.Links + " is not on the PATH",
			`add to the shell's rc file: eval "$(stile init ` + shellName() + `)"`}
	}
	return check{Name: "PATH", Level: levelOK, Detail: dirs.Links}
}
