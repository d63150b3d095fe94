package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// judge SUITE COMMAND...: runs the scripts of another project's own tests, whose
// commands are links to that project's program in the guest. The host's part, the
// files and terminals that the scripts make, is that of package testscript, as it is
// in that project. Where its scripts call a command without exec, they get it.
func cmdJudge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: judge SUITE COMMAND...")
	}
	// In a shared folder: the guest's program has to find the files.
	suite := ts.Getenv("HOME") + "/suite-" + args[1]
	ts.Check(os.Mkdir(suite, 0o755))
	files, err := filepath.Glob(args[0] + "/*.tx*")
	ts.Check(err)
	call := regexp.MustCompile(`^((?:\[[^]]*\] *)*(?:! *)?)(` + strings.Join(args[1:], "|") + `)( |$)`)
	for _, file := range files {
		script, err := os.ReadFile(file)
		ts.Check(err)
		lines := strings.Split(string(script), "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, "-- ") {
				break // files follow
			}
			lines[i] = call.ReplaceAllString(line, "${1}exec ${2}${3}")
		}
		ts.Check(os.WriteFile(filepath.Join(suite, filepath.Base(file)), []byte(strings.Join(lines, "\n")), 0o644))
	}
	j := &judgement{}
	func() {
		defer j.recover()
		testscript.RunT(j, testscript.Params{
			Dir:         suite,
			WorkdirRoot: ts.Getenv("HOME"),
			Setup: func(env *testscript.Env) error {
				for _, e := range environ(ts) {
					name, value, _ := strings.Cut(e, "=")
					if name != "WORK" && name != "LC_ALL" {
						env.Setenv(name, value)
					}
				}
				env.Setenv("HOME", env.WorkDir+"/home") // as the suite expects it: nothing is there
				return nil
			},
		})
	}()
	fmt.Fprintf(ts.Stdout(), "%d scripts, %d passed, %d skipped\n", len(files), j.passed, j.skipped)
	if j.failed > 0 || j.passed == 0 {
		ts.Fatalf("%d scripts failed\n%s", j.failed, j.log.String())
	}
}

// A judgement is what testscript.RunT reports to.
type judgement struct {
	mu                      sync.Mutex
	log                     strings.Builder
	passed, skipped, failed int
}

// A verdict ends a script that has failed or that is skipped.
type verdict struct{ skip bool }

func (j *judgement) recover() {
	if r := recover(); r != nil {
		v, ok := r.(verdict)
		if !ok {
			panic(r)
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if v.skip {
			j.skipped++
		} else {
			j.failed++
		}
	}
}

func (j *judgement) Run(name string, f func(testscript.T)) {
	defer j.recover()
	f(j)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.passed++
}

func (j *judgement) Log(args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fmt.Fprintln(&j.log, args...)
}

func (j *judgement) Skip(args ...any)  { j.Log(args...); panic(verdict{skip: true}) }
func (j *judgement) Fatal(args ...any) { j.Log(args...); panic(verdict{}) }
func (j *judgement) FailNow()          { panic(verdict{}) }
func (j *judgement) Parallel()         {}
func (j *judgement) Verbose() bool     { return false }
