package main_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

// The snippets of testdata/exact are each run with the host's programs, and with
// the linked ones of the same versions, which nobody must be able to tell apart: by
// what is printed, by the status that waitpid sees, by the offset of the input and
// by the files that are left. Programs are called g-NAME: a symlink to the host's
// program, or a link of stile's. A file of snippets is a txtar archive; the name of
// a snippet is followed by the shells that run it, or by tty: and one shell, which
// then is typed at as the lines say (see terminal).
//
// Then they are run through a relay as one makes it in an afternoon (see naive):
// it has to fail many, or the snippets ask too little.

// naiveFails is how many rows the naive relay has to fail at least.
const naiveFails = 50

// How long one row may take; and with the naive relay, where many never end.
const (
	rowLimit   = 60 * time.Second
	naiveLimit = 5 * time.Second
)

func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "g-"); ok {
		naive(name)
	}
	os.Exit(m.Run())
}

// exactPackages are the Debian packages of the programs that the snippets use:
// where the versions differ, apart from Debian's own changes, nothing can be said.
var exactPackages = []string{"coreutils", "dash", "bash", "grep", "sed", "mawk", "diffutils", "findutils", "perl-base", "git", "less", "util-linux", "tar", "gzip"}

// exactPrograms are what the snippets call g-NAME, and what that is where the names
// differ.
var exactPrograms = strings.Fields(`awk bash cat cmp comm cut date dd diff echo env false git grep gzip head id
	install less ln ls mkdir mktemp nice nohup od paste perl printenv printf pwd sed seq sh sleep sort stat stty
	tail tar tee test timeout touch tr true tty wc xargs yes`)

// exact links|naive: compares the snippets run with stile's links, or
// through the naive relay, with the host's programs.
func cmdExact(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "links" && args[0] != "naive" {
		ts.Fatalf("usage: exact links|naive")
	}
	x := &exactRun{ts: ts, home: ts.Getenv("HOME"), env: environ(ts)}
	ts.Check(x.makePrograms())
	ts.Check(x.checkVersions())
	rows, err := loadRows()
	ts.Check(err)
	if args[0] == "naive" {
		// At a terminal it fails nearly all, each when its patience has ended.
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.tty })
	}
	var mu sync.Mutex
	var differ []string
	var report strings.Builder
	slots := make(chan struct{}, 3)
	var all sync.WaitGroup
	for i, r := range rows {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			dir := fmt.Sprintf("%s/work/row%d", x.home, i)
			want := x.run(r, "host", dir)
			got := x.run(r, args[0], dir)
			if args[0] == "naive" {
				got.offset = want.offset // or nearly all would fail for what they had not asked
			}
			if got.equal(want) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			differ = append(differ, r.name)
			if args[0] == "links" {
				fmt.Fprintf(&report, "%s\n%s--- with the host's programs\n%s--- with links\n%s\n", r.name, r.text, want, got)
			}
		})
	}
	all.Wait()
	slices.Sort(differ)
	fmt.Fprintf(ts.Stdout(), "%d rows, %d differ\n%s\n", len(rows), len(differ), strings.Join(differ, "\n"))
	switch {
	case args[0] == "naive" && len(differ) < naiveFails:
		ts.Fatalf("the naive relay fails %d rows only, want %d", len(differ), naiveFails)
	case args[0] == "links" && len(differ) > 0:
		ts.Fatalf("%d of %d rows differ\n%s", len(differ), len(rows), report.String())
	}
}

// A row is one snippet in one shell.
type row struct {
	name  string
	shell string
	tty   bool
	text  string
}

func loadRows() ([]row, error) {
	files, err := filepath.Glob("testdata/exact/*.txtar")
	if err != nil {
		return nil, err
	}
	only, err := regexp.Compile(os.Getenv("STILE_TEST_EXACT")) // for whoever works on some rows
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			return nil, err
		}
		for _, f := range a.Files {
			name, shells, ok := strings.Cut(f.Name, " ")
			if !ok {
				return nil, fmt.Errorf("%s: %s names no shell", file, f.Name)
			}
			shells, tty := strings.CutPrefix(shells, "tty:")
			for _, shell := range strings.Split(shells, ",") {
				full := strings.TrimSuffix(filepath.Base(file), ".txtar") + "/" + name + "/" + shell
				if only.MatchString(full) {
					rows = append(rows, row{name: full, shell: shell, tty: tty, text: string(f.Data)})
				}
			}
		}
	}
	return rows, nil
}

// exactRun is one run of the table.
type exactRun struct {
	ts   *testscript.TestScript
	home string
	env  []string
}

// makePrograms makes a folder of programs for the host's and the naive variant.
func (x *exactRun) makePrograms() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, variant := range []string{"host", "naive"} {
		dir := x.home + "/" + variant
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		for _, name := range exactPrograms {
			target := self
			if variant == "host" {
				if target, err = lookPath(hostPath, name); err != nil {
					return err
				}
			}
			if err := os.Symlink(target, dir+"/g-"+name); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostPath is where the host's programs are.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// checkVersions fails where the two sides' programs differ in version.
func (x *exactRun) checkVersions() error {
	query := append([]string{"-W", "-f", "${Package} ${source:Upstream-Version}\n"}, exactPackages...)
	host, err := exec.Command("dpkg-query", query...).Output()
	if err != nil {
		return fmt.Errorf("the host's versions: %w", err)
	}
	cmd := exec.Command(filepath.Join(bin, "stile"), append([]string{"run", "dpkg-query"}, query...)...)
	cmd.Dir, cmd.Env = x.home+"/work", x.env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	guest, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("the guest's versions: %w: %s", err, &errs)
	}
	if !bytes.Equal(host, guest) {
		return fmt.Errorf("the versions differ: on the host\n%sin the guest\n%s", host, guest)
	}
	return nil
}

// An outcome is all that can be seen of a row.
type outcome struct {
	stdout, stderr []byte
	status         string
	offset         int64 // of the input that the snippet began with
	files          string
}

func (o *outcome) equal(p *outcome) bool { return o.String() == p.String() }

func (o *outcome) String() string {
	return fmt.Sprintf("stdout %q\nstderr %q\n%s, input at %d\n%s", numbered.ReplaceAll(o.stdout, []byte("$1 N")),
		numbered.ReplaceAll(o.stderr, []byte("$1 N")), o.status, o.offset, o.files)
}

// numbered finds where shells print the number of a process, which is another each
// time.
var numbered = regexp.MustCompile(`(line \d+:|(?m:^)\[\d+\]) +\d+\b`)

// run runs a row in a folder made for it, which is the same for each variant.
func (x *exactRun) run(r row, variant, dir string) *outcome {
	o := &outcome{}
	if err := x.attempt(r, variant, dir, o); err != nil {
		o.status = fmt.Sprintf("%s: %v", variant, err) // differs between variants
	}
	return o
}

func (x *exactRun) attempt(r row, variant, dir string, o *outcome) error {
	defer os.RemoveAll(dir)
	if err := makeRowFolder(dir, r.text); err != nil {
		return err
	}
	programs := x.home + "/" + variant
	if variant == "links" {
		programs = x.ts.Getenv("LINKS")
	}
	env := []string{"PATH=" + programs + ":" + hostPath, "TERM=xterm", "PWD=" + dir}
	for _, e := range x.env {
		name, _, _ := strings.Cut(e, "=")
		if !slices.Contains([]string{"PATH", "WORK", "LINKS", "TERM", "PWD"}, name) {
			env = append(env, e)
		}
	}
	argv := map[string][]string{"bash": {"bash", "--norc"}, "dash": {"dash"}, "zsh": {"zsh", "-f"}, "fish": {"fish", "--no-config"}}[r.shell]
	path, err := lookPath(hostPath, r.shell)
	if err != nil {
		return err
	}
	if r.tty {
		err = x.typeRow(r, path, argv, dir, env, o)
	} else {
		limit := rowLimit
		if variant == "naive" {
			limit = naiveLimit
		}
		err = x.runRow(path, append(argv, "snippet"), dir, env, limit, o)
	}
	if err == nil {
		o.files, err = listFiles(dir)
	}
	return err
}

// makeRowFolder makes the files that snippets read.
func makeRowFolder(dir, text string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	binary := make([]byte, 512)
	for i := range binary {
		binary[i] = byte(i)
	}
	for name, data := range map[string]string{"snippet": text, "lines": "one\ntwo\nthree\n", "words": "some words on one line\n",
		"empty": "", "binary": string(binary), "input": "first\nsecond\nthird\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(data), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (x *exactRun) runRow(path string, argv []string, dir string, env []string, limit time.Duration, o *outcome) error {
	input, err := os.Open(dir + "/input")
	if err != nil {
		return err
	}
	defer input.Close()
	cmd := &exec.Cmd{Path: path, Args: argv, Dir: dir, Env: env, Stdin: input, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(limit, func() { killIn(dir) })
	err = cmd.Wait()
	killIn(dir) // of a naive relay much may be left
	if !late.Stop() {
		return fmt.Errorf("it does not end; so far %q %q", out.Bytes(), errs.Bytes())
	}
	if cmd.ProcessState == nil {
		return err
	}
	o.stdout, o.stderr = out.Bytes(), errs.Bytes()
	o.status = fmt.Sprintf("status %#x", uint32(cmd.ProcessState.Sys().(syscall.WaitStatus)))
	o.offset, err = input.Seek(0, io.SeekCurrent)
	return err
}

// killIn ends what is left of a row, in whatever sessions: what is in its folder.
func killIn(dir string) {
	folders, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, path := range folders {
		if cwd, err := os.Readlink(path); err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/") || strings.HasPrefix(cwd, dir+" (")) {
			if pid := number(filepath.Base(filepath.Dir(path))); pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// typeRow types at a shell of its own, whose prompt is "#> ", and ends it.
func (x *exactRun) typeRow(r row, path string, argv []string, dir string, env []string, o *outcome) error {
	argv = append(argv, map[string][]string{"bash": {"--noediting", "-i"}, "zsh": {"+Z", "-i", "-o", "nopromptsp"}, "dash": {"-i"}}[r.shell]...)
	t, err := startTerminal(path, argv, dir, append(env, "PS1=#> ", "PROMPT=#> "))
	if err != nil {
		return err
	}
	defer t.close()
	lines := strings.Split(strings.TrimRight(r.text, "\n"), "\n")
	lines = append([]string{"expect #> "}, lines...)
	if !strings.HasPrefix(lines[len(lines)-1], "end ") {
		if lines[len(lines)-1] != "expect #> " {
			lines = append(lines, "expect #> ")
		}
		lines = append(lines, `send echo la''st\r`, `expect last\r\n#> `, `send exit\r`, "end 0")
	}
	for _, line := range lines {
		if err := t.step(line); err != nil {
			return fmt.Errorf("%s: %w; printed before %q, since %q", line, err, t.before(), t.rest())
		}
	}
	o.stdout = t.before()
	o.status = fmt.Sprintf("status %#x", uint32(t.cmd.ProcessState.Sys().(syscall.WaitStatus)))
	return nil
}

// listFiles lists what is in a folder: modes, and what the files hold.
func listFiles(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if rel == "." || strings.Contains(rel, ".git") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%v %q", info.Mode(), rel)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %q", target)
		case info.Mode().IsRegular() && rel != "pid":
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if len(data) > 200 {
				fmt.Fprintf(&b, " %d bytes %x", len(data), data[:100])
			} else {
				fmt.Fprintf(&b, " %q", data)
			}
		}
		b.WriteByte('\n')
		return nil
	})
	return b.String(), err
}
