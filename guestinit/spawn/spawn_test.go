package spawn

import (
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var once struct {
	sync.Once
	s   *Spawner
	err error
}

// distro is one set of namespaces for all tests, over the host's own root.
func distro(t testing.TB) *Spawner {
	if os.Getuid() != 0 {
		t.Skip("namespaces and other users need root")
	}
	if raceDetector {
		t.Skip("the race detector's calls can't run in processes outside of the runtime")
	}
	once.Do(func() {
		once.s, once.err = New(Options{CgroupFD: -1, Setup: func() error {
			return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}})
	})
	if once.err != nil {
		t.Fatal(once.err)
	}
	return once.s
}

// run starts c with a pipe for its output and returns that and all events.
func run(t testing.TB, c *Command) (string, []Event) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Terminal = -1
	c.Files = append(c.Files, File{int(w.Fd()), 1}, File{int(w.Fd()), 2})
	events := make(chan Event, 16)
	if _, err := distro(t).Start(c, func(e Event) { events <- e }); err != nil {
		t.Fatal(err)
	}
	w.Close()
	out, _ := io.ReadAll(r)
	var all []Event
	for {
		select {
		case e := <-events:
			all = append(all, e)
			if e.Kind == Gone {
				return string(out), all
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no end of %v: %v", c.Argv, all)
		}
	}
}

func sh(script string) *Command {
	return &Command{Argv: []string{"sh", "-c", script}, Paths: []string{"/bin/sh"}, Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Umask: 0o22}
}

// A command's end comes with what it and those that it waited for have used.
func TestUsage(t *testing.T) {
	_, events := run(t, sh(`dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done`))
	for _, e := range events {
		if e.Kind == Ended {
			if cpu := e.Usage.Utime.Nano(); cpu < 10e6 || e.Usage.Maxrss < 64<<10 || e.Usage.Nvcsw == 0 {
				t.Errorf("%+v, want 10 ms and 64 MiB", e.Usage)
			}
			return
		}
	}
	t.Errorf("it has not ended: %v", events)
}

// The command runs in its own pid namespace, session and process group, with
// just the descriptors and attributes that were asked for.
func TestStart(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Command)
		script string
		want   string
	}{
		{"output", nil, "echo hello", "hello\n"},
		{"closed stdin", nil, "test -e /proc/self/fd/0 || echo closed", "closed\n"},
		{"no stray descriptors", nil, "ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3 "},
		{"leader is the sitter", nil, `read -r line < /proc/$$/stat; set -- $line; test $5 = $$ && test $6 = $4 && cat /proc/$4/comm`, "stile-sitter\n"},
		{"pid 1 is the reaper", nil, "cat /proc/1/comm", "stile-reaper\n"},
		{"umask", func(c *Command) { c.Umask = 0o27 }, "umask", "0027\n"},
		{"directory", func(c *Command) { c.Dir = "/usr" }, "pwd -P", "/usr\n"},
		{"fall back home", func(c *Command) { c.Dir, c.Home = "/nonesuch", "/tmp" }, "pwd -P", "/tmp\n"},
		{"user", func(c *Command) { c.User = User{65534, 65533, []uint32{7, 8}} }, "id -u; id -g; id -G", "65534\n65533\n65533 7 8\n"},
		{"limit", func(c *Command) { c.Limits = []Limit{{unix.RLIMIT_NOFILE, 77, 99}} }, "ulimit -Sn; ulimit -Hn", "77\n99\n"},
		{"ignored", func(c *Command) { c.Ignored = 1 << (unix.SIGUSR1 - 1) }, "kill -USR1 $$; grep SigIgn: /proc/self/status", "SigIgn:\t0000000000000200\n"},
		{"no signal blocked", nil, "grep SigBlk: /proc/self/status", "SigBlk:\t0000000000000000\n"},
		{"oom score", nil, "cat /proc/self/oom_score_adj", "0\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := sh(tt.script)
			null, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			if tt.name != "closed stdin" {
				c.Files = []File{{int(null.Fd()), 0}}
			}
			if tt.change != nil {
				tt.change(c)
			}
			out, events := run(t, c)
			if out != tt.want {
				t.Errorf("got %q, want %q", out, tt.want)
			}
			if len(events) != 3 || events[0].Kind != Started || events[1].Kind != Ended {
				t.Errorf("events %+v", events)
			}
		})
	}
}

// What can't be started says at which step, and why.
func TestStartError(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	os.WriteFile(dir+"/plain", []byte("echo plain"), 0o644)
	os.WriteFile(dir+"/script", []byte("echo script $1"), 0o755)
	os.WriteFile(dir+"/binary", []byte("\x7fXYZ\x00\x00"), 0o755)
	tests := []struct {
		name string
		c    Command
		out  string
		step Step
		err  unix.Errno
	}{
		{"no such file", Command{Paths: []string{"/a/b", "/c"}}, "", StepExec, unix.ENOENT},
		{"not executable", Command{Paths: []string{dir + "/plain", "/c"}}, "", StepExec, unix.EACCES},
		{"a directory", Command{Paths: []string{"/usr"}}, "", StepExec, unix.EACCES},
		{"next in PATH", Command{Argv: []string{"x", "y"}, Paths: []string{"/nonesuch", dir + "/plain", dir + "/script"}}, "script y\n", 0, 0},
		{"binary", Command{Paths: []string{dir + "/binary"}}, "", StepExec, unix.ENOEXEC},
		{"too long", Command{Argv: []string{strings.Repeat("x", 200_000)}, Paths: []string{"/bin/true"}}, "", StepExec, unix.E2BIG},
		{"no directory", Command{Dir: "/nonesuch", Paths: []string{"/bin/true"}}, "", StepDir, unix.ENOENT},
		{"a directory of root's", Command{Dir: "/root/.", User: User{UID: 65534}, Paths: []string{"/bin/true"}}, "", StepDir, unix.EACCES},
	}
	os.Chmod("/root", 0o700)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.c
			if c.Argv == nil {
				c.Argv = []string{"x"}
			}
			if c.Dir == "" {
				c.Dir = "/"
			}
			out, events := run(t, &c)
			if out != tt.out {
				t.Errorf("output %q, want %q", out, tt.out)
			}
			if tt.err == 0 {
				return
			}
			if events[0].Kind != Failed || events[0].Err.Step != tt.step || events[0].Err.Errno != tt.err {
				t.Errorf("events %+v %v", events, events[0].Err)
			}
		})
	}
}

// Descriptors land on their numbers whatever the numbers in guestinit are.
func TestCrossedDescriptors(t *testing.T) {
	a, b := scratch(t, "a"), scratch(t, "b")
	c := sh(fmtFD(int(b.Fd()), "read x <&%d; echo $x") + ";" + fmtFD(int(a.Fd()), "read x <&%d; echo $x"))
	c.Argv[0] = "bash"
	c.Paths = []string{"/bin/bash"}
	c.Files = []File{{int(a.Fd()), int(b.Fd())}, {int(b.Fd()), int(a.Fd())}}
	if out, _ := run(t, c); out != "a\nb\n" {
		t.Errorf("got %q", out)
	}
}

func fmtFD(n int, s string) string {
	return strings.ReplaceAll(s, "%d", string(rune('0'+n/10))+string(rune('0'+n%10)))
}

func scratch(t *testing.T, text string) *os.File {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.WriteString(text + "\n")
	f.Seek(0, 0)
	return f
}

// Stops, continues, signals and exit statuses arrive as they were.
func TestSignals(t *testing.T) {
	events := make(chan Event, 16)
	c := sh("kill -STOP $$; exec sleep 100")
	c.Terminal = -1
	p, err := distro(t).Start(c, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	expect := func(k Kind) Event {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != k {
				t.Fatalf("event %+v, want %v", e, k)
			}
			return e
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %v", k)
		}
		return Event{}
	}
	expect(Started)
	if e := expect(Stopped); e.Status.StopSignal() != unix.SIGSTOP {
		t.Errorf("stopped by %v", e.Status.StopSignal())
	}
	p.SignalGroup(unix.SIGCONT)
	expect(Continued)
	p.Signal(unix.SIGTERM)
	if e := expect(Ended); e.Status.Signal() != unix.SIGTERM {
		t.Errorf("ended with %#x", e.Status)
	}
	expect(Gone)
	if err := p.Signal(unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("a signal after the end: %v", err)
	}
}

// A storm of starts while the collector runs loses nothing.
func TestMany(t *testing.T) {
	distro(t)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = make([]byte, 1<<20)
			}
		}
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if out, ev := run(t, sh("echo x")); out != "x\n" || len(ev) != 3 {
					t.Errorf("%q %v", out, ev)
				}
			}
		})
	}
	wg.Wait()
}

func TestGaps(t *testing.T) {
	got := gaps([]uint32{5, 3, 9, 4, 3})
	want := [][2]uint32{{0, 2}, {6, 8}, {10, ^uint32(0)}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v", got)
	}
}

func BenchmarkTrue(b *testing.B) {
	for b.Loop() {
		run(b, &Command{Argv: []string{"true"}, Paths: []string{"/bin/true"}, Dir: "/"})
	}
}
