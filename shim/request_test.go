package main_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

func TestRequestArguments(t *testing.T) {
	m := newMachine(t)
	args := []string{"", "a b", "\xff\xfe", "new\nline", "*", "$HOME", `'"\`, strings.Repeat("x", 100_000)}
	cmd := exec.Command(m.path("git"), args...)
	cmd.Env = []string{"A=b", "A=c", "odd", "=x", "B=\xff\n", "PWD=/nowhere"}
	p := m.start(cmd)
	r := m.accept()
	if want := append([]string{m.path("git")}, args...); !slices.Equal(r.run.Argv, want) {
		t.Errorf("argv %.200q", r.run.Argv)
	}
	// exec.Cmd leaves the first of two variables of a name out.
	if want := []string{"A=c", "odd", "=x", "B=\xff\n", "PWD=/nowhere"}; !slices.Equal(r.run.Env, want) {
		t.Errorf("environment %q, want %q", r.run.Env, want)
	}
	if r.run.Path != "git" || r.run.User != "" || r.run.Login || r.run.CwdFallback || r.run.Terminal != nil && !onTerminal() {
		t.Errorf("%+v", r.run)
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

// onTerminal reports whether the test itself has a controlling terminal.
func onTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// What a link's record says comes before what the caller says, and argv[0] is the
// caller's.
func TestRequestRecord(t *testing.T) {
	m := newMachine(t)
	m.link("py", wire.Record{Command: "/usr/bin/python3", User: "root", Cd: "/srv", Args: []string{"-B", ""}, Env: []string{"A=2", "N="}})
	p := m.start(exec.Command("bash", "-c", `A=1 exec -a other "$0" x`, m.path("py")))
	r := m.accept()
	if want := []string{"other", "-B", "", "x"}; !slices.Equal(r.run.Argv, want) || r.run.Path != "/usr/bin/python3" {
		t.Errorf("%q runs with %q, want %q", r.run.Path, r.run.Argv, want)
	}
	if r.run.User != "root" || r.run.Cwd != "/srv" {
		t.Errorf("user %q in %q", r.run.User, r.run.Cwd)
	}
	if !slices.Contains(r.run.Env, "A=2") || !slices.Contains(r.run.Env, "N=") || slices.Contains(r.run.Env, "A=1") {
		t.Errorf("environment %q", r.run.Env)
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

// Links to links, relative ones, and a link as a script's interpreter.
func TestRequestLinks(t *testing.T) {
	m := newMachine(t)
	if err := os.Symlink("bin/git", filepath.Join(m.dir, "alias")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(m.dir, "alias"), filepath.Join(m.dir, "alias2")); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(m.dir, "script")
	if err := os.WriteFile(script, []byte("#!"+m.path("git")+" -x\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, path string }{{"", filepath.Join(m.dir, "alias2")}, {m.dir, "bin/git"}, {filepath.Join(m.dir, "bin"), "./git"}, {"", script}} {
		cmd := exec.Command(tt.path, "log")
		cmd.Dir = tt.dir
		p := m.start(cmd)
		r := m.accept()
		want := []string{tt.path, "log"}
		if tt.path == script {
			want = []string{m.path("git"), "-x", script, "log"}
		}
		if !slices.Equal(r.run.Argv, want) || r.run.Path != "git" {
			t.Errorf("%s: %q runs with %q, want %q", tt.path, r.run.Path, r.run.Argv, want)
		}
		r.exit(wire.Exit{})
		p.expectExit(0, "")
	}
}

// `stile run` passes the record as an open file.
func TestRequestFromRun(t *testing.T) {
	m := newMachine(t)
	start := func(r wire.Record, args ...string) *process {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Write(m.record(r))
		cmd := exec.Command(shim)
		cmd.Args = append([]string{wire.RecordArgv0, "/proc/self/fd/3"}, args...)
		cmd.ExtraFiles = []*os.File{f}
		return m.start(cmd)
	}
	p := start(wire.Record{CwdFallback: true}, "ls", "-l")
	r := m.accept()
	if !slices.Equal(r.run.Argv, []string{"ls", "-l"}) || r.run.Path != "" || !r.run.CwdFallback {
		t.Errorf("%+v", r.run)
	}
	r.exit(wire.Exit{Code: 4})
	p.expectExit(4, "")

	p = start(wire.Record{Login: true})
	r = m.accept()
	if len(r.run.Argv) != 0 || !r.run.Login {
		t.Errorf("%+v", r.run)
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")

	start(wire.Record{}).expectExit(125, "stile: stile-run: there is no command\n")
	cmd := exec.Command(shim)
	cmd.Args = []string{wire.RecordArgv0, "/proc/self/fd/99", "ls"}
	m.start(cmd).expectExit(125, "stile: stile-run: the record is not readable\n")
}

func TestRequestFolder(t *testing.T) {
	m := newMachine(t)
	real := filepath.Join(m.dir, "real")
	sym := filepath.Join(m.dir, "sym")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", sym); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, dir, pwd, want string }{
		{"a symlink in PWD is kept", real, sym, sym},
		{"PWD of another folder", real, "/", real},
		{"PWD of none", real, "/nowhere", real},
		{"relative PWD", real, ".", real},
		{"no PWD", real, "", real},
	} {
		cmd := exec.Command(m.path("git"))
		cmd.Dir = tt.dir
		cmd.Env = []string{"A=b"}
		if tt.pwd != "" {
			cmd.Env = append(cmd.Env, "PWD="+tt.pwd)
		} else {
			cmd = exec.Command("env", "-u", "PWD", m.path("git"))
			cmd.Dir = tt.dir
		}
		p := m.start(cmd)
		r := m.accept()
		if r.run.Cwd != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, r.run.Cwd, tt.want)
		}
		r.exit(wire.Exit{})
		p.expectExit(0, "")
	}
	// A deleted folder is one in the guest too.
	p := m.start(exec.Command("bash", "-c", `mkdir "$1" && cd "$1" && rmdir "$1" && exec "$0"`, m.path("git"), filepath.Join(m.dir, "gone")))
	r := m.accept()
	if r.run.Cwd != "/" || !r.run.CwdGone {
		t.Errorf("a deleted folder: %q, %v", r.run.Cwd, r.run.CwdGone)
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

// What a process inherits besides its descriptors, as it was before Go's runtime
// changed it.
func TestRequestState(t *testing.T) {
	m := newMachine(t)
	p := m.bash(`umask 027; ulimit -S -n 300; ulimit -S -c 0; ulimit -S -s 4096; trap '' PIPE USR1 HUP
		exec nice -n 5 env --block-signal=USR2 --block-signal=TERM "$0"`)
	r := m.accept()
	if r.run.Umask != 0o027 || r.run.Priority != 15 {
		t.Errorf("umask %o, priority %d", r.run.Umask, r.run.Priority)
	}
	bit := func(signals ...unix.Signal) (set uint64) {
		for _, s := range signals {
			set |= 1 << (s - 1)
		}
		return set
	}
	// glibc's posix_spawn, make's for one, has its own two signals ignored.
	ignored := r.run.Ignored &^ bit(32, 33)
	if want := bit(unix.SIGPIPE, unix.SIGUSR1, unix.SIGHUP); ignored != want {
		t.Errorf("ignored signals %#x, want %#x", ignored, want)
	}
	if want := bit(unix.SIGUSR2, unix.SIGTERM); r.run.Blocked != want {
		t.Errorf("blocked signals %#x, want %#x", r.run.Blocked, want)
	}
	limits := map[uint32]uint64{}
	for _, l := range r.run.Limits {
		limits[l.Resource] = l.Soft
		if l.Max < l.Soft {
			t.Errorf("limit %+v", l)
		}
	}
	if limits[unix.RLIMIT_NOFILE] != 300 || limits[unix.RLIMIT_CORE] != 0 || limits[unix.RLIMIT_STACK] != 4096<<10 || len(limits) != 5 {
		t.Errorf("limits %v", limits)
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

func TestRequestDescriptors(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(m.dir, "file")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		r = wire.AccessRead
		w = wire.AccessWrite
	)
	for _, tt := range []struct {
		name, redirect string
		want           []wire.Descriptor // of 0, 1 and 2, then as numbered
	}{
		{"closed", "<&- >&- 2>&-", []wire.Descriptor{{Kind: wire.KindClosed}, {Kind: wire.KindClosed}, {Kind: wire.KindClosed}}},
		{"null", "</dev/null >/dev/null 2>/dev/null", []wire.Descriptor{{Kind: wire.KindNull, Access: r}, {Kind: wire.KindNull, Access: w}, {Kind: wire.KindNull, Access: w, SameAs: 2}}},
		{"one file twice", "<FILE >FILE.out 2>&1", []wire.Descriptor{{Kind: wire.KindFile, Access: r}, {Kind: wire.KindFile, Access: w}, {Kind: wire.KindFile, Access: w, SameAs: 2}}},
		{"opened twice", "<FILE >FILE.out 2>FILE.out", []wire.Descriptor{{Kind: wire.KindFile, Access: r}, {Kind: wire.KindFile, Access: w}, {Kind: wire.KindFile, Access: w}}},
		{"read and write", "<>FILE >&0 2>&-", []wire.Descriptor{{Kind: wire.KindFile, Access: r}, {Kind: wire.KindFile, Access: w}, {Kind: wire.KindClosed}}},
		{"devices", "</dev/zero >/dev/full 2>&1", []wire.Descriptor{{Kind: wire.KindOther, Access: r}, {Kind: wire.KindOther, Access: w}, {Kind: wire.KindOther, Access: w, SameAs: 2}}},
		{"pipes", "< <(sleep 0) > >(cat) 2>&1", []wire.Descriptor{{Kind: wire.KindPipe, Access: r}, {Kind: wire.KindPipe, Access: w}, {Kind: wire.KindPipe, Access: w, SameAs: 2},
			{Number: 62, Kind: wire.KindPipe, Access: w}, {Number: 63, Kind: wire.KindPipe, Access: r}}}, // bash leaves them open
		{"above 2", "</dev/null >FILE.out 2>&1 3<FILE 5>FILE.5 7>&1 9>>FILE.9 11</dev/null 12> >(cat)", []wire.Descriptor{{Kind: wire.KindNull, Access: r},
			{Kind: wire.KindFile, Access: w}, {Kind: wire.KindFile, Access: w, SameAs: 2}, {Number: 3, Kind: wire.KindFile, Access: r},
			{Number: 5, Kind: wire.KindFile, Access: w}, {Number: 7, Kind: wire.KindFile, Access: w, SameAs: 2}, {Number: 9, Kind: wire.KindFile, Access: w},
			{Number: 11, Kind: wire.KindNull, Access: r, SameAs: 1}, {Number: 12, Kind: wire.KindPipe, Access: w}, {Number: 63, Kind: wire.KindPipe, Access: w}}},
		{"devices, folders and sockets above 2", "<&- >&- 2>&- 3</dev/zero 4</ 5<>/dev/udp/127.0.0.1/9", []wire.Descriptor{{Kind: wire.KindClosed}, {Kind: wire.KindClosed}, {Kind: wire.KindClosed}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.t = t
			p := m.bash(`exec "$0" ` + strings.ReplaceAll(tt.redirect, "FILE", file))
			req := m.accept()
			attached := 0
			for i := range tt.want {
				if i < 3 {
					tt.want[i].Number = uint32(i)
				}
				if tt.want[i].Attached() {
					attached++
				}
			}
			if !slices.Equal(req.run.Table, tt.want) {
				t.Errorf("table %+v, want %+v", req.run.Table, tt.want)
			}
			if req.run.Terminal != nil {
				attached++
			}
			if len(req.files) != attached {
				t.Errorf("%d descriptors came, want %d", len(req.files), attached)
			}
			req.exit(wire.Exit{})
			p.expectExit(0, "")
		})
	}
}

// The descriptors themselves arrive, and the shim lets go of input and output once
// the machine has taken the request: who reads finds the end when the machine
// closes. Standard error stays open for the shim's own words.
func TestDescriptorsArePassed(t *testing.T) {
	m := newMachine(t)
	in, feed := pipe(t)
	out, w := pipe(t)
	_, werr := pipe(t)
	cmd := exec.Command(m.path("git"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, w, werr
	p := m.start(cmd)
	r := m.accept()
	if len(r.files) < 3 || !sameFile(t, r.files[0], in) || !sameFile(t, r.files[1], w) || !sameFile(t, r.files[2], werr) {
		t.Fatalf("%d descriptors, not those of the command", len(r.files))
	}
	in.Close()
	w.Close()
	werr.Close()
	r.send(wire.TypeStarted, nil)
	r.files[1].WriteString("out")
	r.closeFiles()
	out.SetReadDeadline(deadline())
	if b, err := io.ReadAll(out); string(b) != "out" || err != nil {
		t.Errorf("read %q, %v, want \"out\" and the end", b, err)
	}
	if _, err := feed.WriteString("x"); err == nil {
		t.Error("the input has a reader still")
	}
	r.exit(wire.Exit{Code: 5})
	if st := p.wait(); st.ExitStatus() != 5 {
		t.Errorf("status %#x", int(st))
	}
}

// A socket's descriptor is one for both directions.
func TestRequestSocket(t *testing.T) {
	m := newMachine(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
	defer theirs.Close()
	defer ours.Close()
	cmd := exec.Command(m.path("git"))
	cmd.Stdin, cmd.Stdout = theirs, theirs
	p := m.start(cmd)
	r := m.accept()
	both := wire.AccessRead | wire.AccessWrite
	want := []wire.Descriptor{{Number: 0, Kind: wire.KindSocket, Access: both}, {Number: 1, Kind: wire.KindSocket, Access: both, SameAs: 1}}
	if !slices.Equal(r.run.Table[:2], want) || !sameFile(t, r.files[0], theirs) {
		t.Errorf("table %+v, want %+v", r.run.Table[:2], want)
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

// A request of several megabytes arrives whole.
func TestRequestIsLong(t *testing.T) {
	m := newMachine(t)
	var args []string
	for i := range 15 {
		args = append(args, strconv.Itoa(i)+strings.Repeat("x", 120_000))
	}
	p := m.git(args...)
	r := m.accept()
	if !slices.Equal(r.run.Argv[1:], args) {
		t.Error("the arguments are not what they were")
	}
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

// Root is root in another user's distro, unless somebody else is named; its machine
// is started in the environment that leads there.
func TestRequestLent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root uses what is another's")
	}
	m := newMachine(t)
	record := wire.Record{Start: []string{"HOME=/owner", "XDG_DATA_HOME=/data"}}
	m.link("git", record)
	user := func(want string) {
		t.Helper()
		p := m.git()
		r := m.accept()
		if r.run.User != want || slices.Contains(r.run.Env, "HOME=/owner") {
			t.Errorf("user %q, want %q; environment %q", r.run.User, want, r.run.Env)
		}
		r.exit(wire.Exit{})
		p.expectExit(0, "")
	}
	user("")
	if err := os.Chown(m.home, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	user("root")
	m.link("git", wire.Record{User: "other", Start: record.Start})
	user("other")

	if err := os.Remove(filepath.Join(m.home, wire.SocketLink)); err != nil {
		t.Fatal(err)
	}
	m.script(`echo "$@ $HOME $XDG_DATA_HOME $A" >>`+m.dir+"/started; exit 9", "stile")
	cmd := exec.Command(m.path("git"))
	cmd.Env = []string{"HOME=/root", "A=b"}
	m.start(cmd).expectExit(125, "")
	if got := m.starts(); got != "start --quiet deb /owner /data b\n" {
		t.Errorf("calls of stile: %q", got)
	}
}
