package cli

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"

	"github.com/stilehq/stile/stiletest"
)

// testscriptFlags are those of testscript.
type testscriptFlags struct {
	distro, run, junit                 string
	clone, update, work, verbose, json bool
}

func newTestscriptCommand() *command {
	var flags testscriptFlags
	return &command{
		name: "testscript", args: "[FLAG...] PATH...", min: 1, max: -1,
		short: "Run test scripts whose commands run in a guest",
		long: `
A PATH is a script, or a folder with scripts *.txtar. They are those of testscript
(https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript), with these
commands besides:

  guest CMD ARG...   runs a command in the guest
  host CMD ARG...    runs a command of the host
  LINK ARG...        the name of a link runs in the guest

and the conditions [guest] and [distro:NAME]. A Go test runs the same scripts by
the package github.com/stilehq/stile/stiletest. It ends with 1 if one fails.`,
		flags: func(f *pflag.FlagSet) {
			distroFlag(f, &flags.distro)
			f.BoolVar(&flags.clone, "clone", false, "give each script a fresh copy of the distro, whose machine must not run")
			f.StringVar(&flags.run, "run", "", "run only scripts whose names match a regular `expression`")
			f.BoolVar(&flags.update, "update", false, "write what commands print into the files that cmp compares it with")
			f.BoolVarP(&flags.verbose, "verbose", "v", false, "print the log of scripts that pass too")
			f.BoolVar(&flags.work, "work", false, "leave the scripts' folders there, and print where")
			jsonFlag(f, &flags.json)
			f.StringVar(&flags.junit, "junit", "", "write a JUnit report to a `file`")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			return runTestscript(app, &flags, args)
		},
	}
}

// Outcomes of a script.
const (
	outcomePass = "pass"
	outcomeFail = "fail"
	outcomeSkip = "skip"
)

// A scriptResult is one script in the output of testscript --json.
type scriptResult struct {
	Name    string  `json:"name"`
	Outcome string  `json:"outcome"`
	Seconds float64 `json:"seconds"`
	Log     string  `json:"log,omitempty"`
}

func runTestscript(app *app, flags *testscriptFlags, args []string) error {
	files, err := scriptFiles(args, flags.run)
	if err != nil {
		return err
	}
	stile, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	t := &scriptRunner{verbose: flags.verbose}
	if !flags.json {
		t.done = app.ui.scriptDone
	}
	stopped := t.protect(func() {
		stiletest.RunT(t, stiletest.Params{Files: files, Distro: flags.distro, Clone: flags.clone, Stile: stile,
			Update: flags.update, TestWork: flags.work})
	})
	if stopped && len(t.results) == 0 {
		return errors.New("testscript: " + strings.TrimSpace(t.log.String()))
	}
	if flags.json {
		if err := app.ui.json(t.results); err != nil {
			return err
		}
	}
	if flags.junit != "" {
		if err := writeJUnit(flags.junit, t.results); err != nil {
			return err
		}
	}
	failed := slices.ContainsFunc(t.results, func(r scriptResult) bool { return r.Outcome == outcomeFail })
	if failed || stopped {
		return exitError(exitFailed)
	}
	return nil
}

// scriptFiles lists the scripts that the arguments name. None at all is an error:
// a suite that ran nothing would pass.
func scriptFiles(args []string, run string) ([]string, error) {
	re, err := regexp.Compile(run)
	if err != nil {
		return nil, fmt.Errorf("testscript --run %s: %w", run, err)
	}
	var files []string
	for _, a := range args {
		info, err := os.Stat(a)
		if err != nil {
			return nil, fmt.Errorf("testscript: %w", err)
		}
		if !info.IsDir() {
			files = append(files, a)
			continue
		}
		err = filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".txtar" {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("testscript: %w", err)
		}
	}
	files = slices.DeleteFunc(files, func(f string) bool { return !re.MatchString(strings.TrimSuffix(filepath.Base(f), ".txtar")) })
	if len(files) == 0 {
		return nil, fmt.Errorf("testscript: there is no script in %s", strings.Join(args, ", "))
	}
	return files, nil
}

// A scriptRunner is the testing.T of the scripts: it runs them one after the other.
type scriptRunner struct {
	verbose bool
	done    func(*scriptResult, bool)
	log     strings.Builder
	results []scriptResult
	skipped bool
}

// An endOfScript is what a script's end panics with, as testing.T ends the
// goroutine.
type endOfScript struct{}

// protect calls f and reports whether it was ended by FailNow or Skip.
func (t *scriptRunner) protect(f func()) (ended bool) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case endOfScript:
			ended = true
		default:
			panic(v)
		}
	}()
	f()
	return false
}

func (t *scriptRunner) Skip(args ...any) {
	t.Log(args...)
	t.skipped = true
	panic(endOfScript{})
}

func (t *scriptRunner) Fatal(args ...any) {
	t.Log(args...)
	t.FailNow()
}

func (t *scriptRunner) Log(args ...any) { fmt.Fprintln(&t.log, args...) }
func (t *scriptRunner) FailNow()        { panic(endOfScript{}) }
func (t *scriptRunner) Verbose() bool   { return t.verbose }

// Parallel changes nothing: the guest is one machine.
func (t *scriptRunner) Parallel() {}

func (t *scriptRunner) Run(name string, f func(testscript.T)) {
	one := &scriptRunner{verbose: t.verbose}
	start := time.Now()
	r := scriptResult{Name: name, Outcome: outcomePass}
	if ended := one.protect(func() { f(one) }); one.skipped {
		r.Outcome = outcomeSkip
	} else if ended {
		r.Outcome = outcomeFail
	}
	r.Seconds, r.Log = time.Since(start).Seconds(), one.log.String()
	t.results = append(t.results, r)
	if t.done != nil {
		t.done(&r, t.verbose)
	}
}

// JUnit's report, as CI systems read it.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string     `xml:"name,attr"`
		Class   string     `xml:"classname,attr"`
		Seconds string     `xml:"time,attr"`
		Failure *junitText `xml:"failure,omitempty"`
		Skipped *junitText `xml:"skipped,omitempty"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(path string, results []scriptResult) error {
	s := junitSuite{Name: "stile testscript", Tests: len(results)}
	for _, r := range results {
		c := junitCase{Name: r.Name, Class: "testscript", Seconds: fmt.Sprintf("%.3f", r.Seconds)}
		lines := strings.Split(strings.TrimSpace(r.Log), "\n")
		switch r.Outcome {
		case outcomeFail:
			s.Failures++
			c.Failure = &junitText{lines[len(lines)-1], r.Log}
		case outcomeSkip:
			s.Skipped++
			c.Skipped = &junitText{Message: lines[len(lines)-1]}
		}
		s.Cases = append(s.Cases, c)
	}
	data, err := xml.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(path, append([]byte(xml.Header), append(data, '\n')...), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
