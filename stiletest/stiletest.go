// Package stiletest runs scripts of testscript (https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript)
// whose commands are those of a stile guest, from a Go test of one's own:
//
//	func TestScripts(t *testing.T) {
//		stiletest.Run(t, stiletest.Params{Dir: "testdata"})
//	}
//
// `stile testscript` runs the same scripts without Go.
//
// # In a script
//
// Everything of testscript, and:
//
//	guest CMD ARG...   runs a command in the guest
//	host CMD ARG...    runs a command of the host, whatever is linked
//	LINK ARG...        the name of a link runs in the guest
//
// each with ! before it if the command has to fail; stdout, stderr and stdin work
// as they do for exec. A name that is a command of testscript's own (cp, grep, rm
// and the like) stays that. Conditions are
//
//	[guest]            there is a distro to run commands in
//	[distro:NAME]      it is this one, or was copied from it
//
// The scripts' folders lie in /tmp, which a guest shares unless its user took that
// away.
package stiletest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stilehq/stile/distro"
)

// Params say what to run. Dir or Files is needed.
type Params struct {
	Dir   string   // a folder of scripts: *.txtar and *.txt
	Files []string // or the scripts themselves

	Distro string // "" is the default
	// Clone gives each script a copy of the distro, which is removed after it. The
	// distro's own machine must not run then.
	Clone bool
	Stile string // the stile program; "" is the one on the PATH

	Update   bool   // write what commands printed into the scripts that compare with cmp
	TestWork bool   // leave the scripts' folders there
	WorkDir  string // make them here; it has to be shared with the guest
	// Setup is called for each script, after its folder was made; may be nil.
	Setup func(*testscript.Env) error
}

// Run runs the scripts as tests of t's.
func Run(t *testing.T, p Params) {
	t.Helper()
	r, err := newRunner(p)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, r.params())
}

// RunT is Run for another implementation of testscript.T.
func RunT(t testscript.T, p Params) {
	r, err := newRunner(p)
	if err != nil {
		t.Fatal(err)
	}
	testscript.RunT(t, r.params())
}

// A runner is what the scripts of one Run have in common.
type runner struct {
	Params
	store  *distro.Store
	distro *distro.Distro // nil if there is none
	links  []string       // names, of commands that testscript has none of
	path   string         // PATH without links

	cloning sync.Mutex
}

func newRunner(p Params) (*runner, error) {
	dirs, err := distro.FindDirs()
	if err != nil {
		return nil, err
	}
	r := &runner{Params: p, store: distro.NewStore(dirs), path: dirs.WithoutLinks(os.Getenv("PATH"))}
	if r.Stile == "" {
		if r.Stile, err = exec.LookPath("stile"); err != nil {
			return nil, fmt.Errorf("find stile: %w", err)
		}
	}
	if r.Stile, err = filepath.Abs(r.Stile); err != nil {
		return nil, fmt.Errorf("find stile: %w", err)
	}
	r.distro, err = r.store.Get(p.Distro)
	if errors.Is(err, distro.ErrNoDefault) && !p.Clone {
		return r, nil // scripts can ask: [guest]
	}
	if err != nil {
		return nil, err
	}
	links, err := r.store.Links()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if !slices.Contains(builtins, l.Name) {
			r.links = append(r.links, l.Name)
		}
	}
	return r, nil
}

// builtins are the commands of testscript itself, which can't be others.
var builtins = []string{"cd", "chmod", "cmp", "cmpenv", "cp", "env", "exec", "exists", "grep", "kill", "mkdir", "mv", "rm", "skip",
	"stderr", "stdin", "stdout", "stop", "symlink", "ttyin", "ttyout", "unix2dos", "unquote", "wait", "guest", "host"}

func (r *runner) params() testscript.Params {
	p := testscript.Params{
		Dir: r.Dir, Files: r.Files, UpdateScripts: r.Update, TestWork: r.TestWork, WorkdirRoot: r.WorkDir,
		Setup: r.setup, Condition: r.condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"guest": func(ts *testscript.TestScript, neg bool, args []string) { r.guest(ts, neg, args, nil) },
			"host":  r.host,
		},
	}
	for _, name := range r.links {
		p.Cmds[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			r.guest(ts, neg, append([]string{name}, args...), r.record(name))
		}
	}
	return p
}

// distroVar is the variable of a script that names its distro.
const distroVar = "STILE_DISTRO"

// setup gives stile the user's own home, where testscript has none, and the script
// its distro.
func (r *runner) setup(env *testscript.Env) error {
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "USER", "LANG", "LC_ALL"} {
		if value, ok := os.LookupEnv(name); ok {
			env.Setenv(name, value)
		}
	}
	env.Setenv("PATH", r.store.Dirs.Links+string(os.PathListSeparator)+r.path)
	if r.distro != nil {
		env.Setenv(distroVar, r.distro.Name)
	}
	if r.Clone {
		// exec of a link would run in the distro that was copied.
		env.Setenv("PATH", r.path)
		name := "test-" + strings.ToLower(rand.Text()[:10])
		// Scripts run at the same time, and a disk is copied by one at a time.
		r.cloning.Lock()
		_, err := r.store.Clone(context.Background(), r.distro.Name, name)
		r.cloning.Unlock()
		if errors.Is(err, distro.ErrInUse) {
			return fmt.Errorf("%w: stop its machine first: stile stop %s", err, r.distro.Name)
		}
		if err != nil {
			return err
		}
		env.Setenv(distroVar, name)
		env.Defer(func() {
			if err := r.remove(name); err != nil {
				env.T().Log(err)
				env.T().FailNow()
			}
		})
	}
	if r.Setup != nil {
		return r.Setup(env)
	}
	return nil
}

// remove stops and removes the copy of a distro.
func (r *runner) remove(name string) error {
	for _, args := range [][]string{{"stop", "--force", name}, {"remove", name}} {
		if out, err := exec.Command(r.Stile, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("stile %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}

func (r *runner) condition(cond string) (bool, error) {
	name, isDistro := strings.CutPrefix(cond, "distro:")
	switch {
	case cond == "guest":
		return r.distro != nil, nil
	case isDistro:
		return r.distro != nil && r.distro.Name == name, nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

// record finds what a link means.
func (r *runner) record(name string) *distro.Link {
	links, err := r.store.Links()
	if err != nil {
		return nil
	}
	if i := slices.IndexFunc(links, func(l distro.Link) bool { return l.Name == name }); i >= 0 {
		return &links[i]
	}
	return nil
}

// guest runs a command of the script's distro, or a link.
func (r *runner) guest(ts *testscript.TestScript, neg bool, args []string, link *distro.Link) {
	if len(args) == 0 {
		ts.Fatalf("usage: guest CMD ARG...")
	}
	if r.distro == nil {
		ts.Fatalf("there is no distro: make one (stile install debian), or ask: [guest]")
	}
	run := []string{r.Stile, "run", "-d", ts.Getenv(distroVar)}
	if link != nil {
		rec := link.Record
		// A link to another distro stays what it is.
		if rec.Distro != r.distro.Name {
			run[3] = rec.Distro
		}
		for _, e := range rec.Env {
			run = append(run, "-e", e)
		}
		if rec.User != "" {
			run = append(run, "-u", rec.User)
		}
		if rec.Cd != "" {
			run = append(run, "--cd", rec.Cd)
		}
		args = append(append([]string{link.Command()}, rec.Args...), args[1:]...)
	}
	r.exec(ts, neg, append(append(run, "--"), args...))
}

// host runs a command of the host.
func (r *runner) host(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: host CMD ARG...")
	}
	// env has no say in where execvp looks: the path is worked out here.
	path := args[0]
	if !strings.Contains(path, "/") {
		if path = r.store.Dirs.HostProgram(r.path, args[0]); path == "" {
			ts.Fatalf("%s: the host has no such command", args[0])
		}
	}
	r.exec(ts, neg, append([]string{path}, args[1:]...))
}

// exec runs a program as the command exec does.
func (r *runner) exec(ts *testscript.TestScript, neg bool, argv []string) {
	err := ts.Exec(argv[0], argv[1:]...)
	if err != nil {
		ts.Logf("[%v]\n", err)
	}
	if (err == nil) == neg {
		if neg {
			ts.Fatalf("unexpected command success")
		}
		ts.Fatalf("unexpected command failure")
	}
}
