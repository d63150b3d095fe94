package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

func deadline() time.Time { return time.Now().Add(patience) }

func TestExitCodes(t *testing.T) {
	m := newMachine(t)
	for code := range 256 {
		p := m.git()
		r := m.accept()
		r.send(wire.TypeStarted, nil)
		r.exit(wire.Exit{Code: uint8(code)})
		p.expectExit(code, "")
		r.close()
	}
}

// What a command has used is said after it, if that was asked for.
func TestRusage(t *testing.T) {
	m := newMachine(t)
	m.link("counted", wire.Record{Rusage: true})
	for _, tt := range []struct {
		usage *wire.Usage
		want  string
	}{
		{&wire.Usage{User: 1_234_999, System: 5_000, MaxRSS: 7, MinorFaults: 1, MajorFaults: 2, BlocksIn: 3, BlocksOut: 4, Voluntary: 5, Involuntary: 6},
			"stile: rusage: user 1.234 s, system 0.005 s, memory 7 KiB, faults 1 minor 2 major, blocks 3 in 4 out, switches 5 voluntary 6 involuntary\n"},
		{&wire.Usage{MaxRSS: ^uint64(0), AtMost: true},
			"stile: rusage: user 0.000 s, system 0.000 s, memory 18446744073709551615 KiB or less, faults 0 minor 0 major, blocks 0 in 0 out, switches 0 voluntary 0 involuntary\n"},
		{nil, "stile: rusage: the machine does not say: it was started by an older stile\n"},
	} {
		for name, want := range map[string]string{"counted": tt.want, "git": ""} {
			p := m.start(exec.Command(m.path(name)))
			r := m.accept()
			r.send(wire.TypeStarted, nil)
			r.exit(wire.Exit{Code: 3, Usage: tt.usage})
			p.expectExit(3, want)
			r.close()
		}
	}
}

// The shim dies of the command's signal, whatever it was told to ignore or block.
func TestDeathBySignal(t *testing.T) {
	m := newMachine(t)
	for n := 1; n <= 64; n++ {
		switch syscall.Signal(n) {
		case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGURG, syscall.SIGWINCH:
			continue // kill nobody
		}
		p := m.start(exec.Command("env", "--ignore-signal", "--block-signal", m.path("git")))
		r := m.accept()
		r.send(wire.TypeStarted, nil)
		r.exit(wire.Exit{Signal: uint8(n), Core: true})
		if st := p.wait(); !st.Signaled() || int(st.Signal()) != n || st.CoreDump() {
			t.Errorf("signal %d: wait status %#x", n, int(st))
		}
		if p.stderr.Len() > 0 {
			t.Errorf("signal %d: standard error %q", n, p.stderr.String())
		}
		r.close()
	}
}

// Signals that somebody sends go to the command, each as it is.
func TestSignalsAreForwarded(t *testing.T) {
	m := newMachine(t)
	in, _ := pipe(t)
	cmd := exec.Command(m.path("git"))
	cmd.Stdin = in
	p := m.start(cmd)
	r := m.accept()
	r.send(wire.TypeStarted, nil)
	waitStarted(t, p)
	for n := 1; n <= 64; n++ {
		switch syscall.Signal(n) {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCONT:
			continue
		}
		if err := p.cmd.Process.Signal(syscall.Signal(n)); err != nil {
			t.Fatal(err)
		}
		if got := r.expectSignal(); int(got.Number) != n || got.Terminal {
			t.Errorf("signal %d is passed on as %+v", n, got)
		}
	}
	// The runtime's threads take some of them before the signalfd is read: none may
	// be lost there, or kill.
	for range 300 {
		p.cmd.Process.Signal(syscall.SIGTERM)
		if got := r.expectSignal(); got.Number != uint8(syscall.SIGTERM) {
			t.Fatalf("SIGTERM is passed on as %+v", got)
		}
	}
	p.cmd.Process.Signal(syscall.SIGCONT)
	r.expect(wire.TypeResume)
	r.exit(wire.Exit{})
	p.expectExit(0, "")
}

// waitStarted waits until the shim has let go of its descriptors, which is when it
// begins to pass signals on.
func waitStarted(t *testing.T, p *process) {
	t.Helper()
	soon(t, "started", func() bool {
		target, _ := os.Readlink("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/fd/0")
		return target == "/dev/null"
	})
}

// Before the machine has taken the request a signal has its usual effect.
func TestSignalBeforeStart(t *testing.T) {
	m := newMachine(t)
	p := m.git()
	r := m.accept()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if st := p.wait(); !st.Signaled() || st.Signal() != syscall.SIGTERM {
		t.Errorf("wait status %#x", int(st))
	}
	r.expectEnd()

	// An ignored one has none.
	for range 20 {
		p = m.start(exec.Command("env", "--ignore-signal=TERM", m.path("git")))
		r = m.accept()
		p.cmd.Process.Signal(syscall.SIGTERM)
		time.Sleep(2 * time.Millisecond) // it may take the exit first, and be right
		r.exit(wire.Exit{Code: 3})
		p.expectExit(3, "")
	}
}

func TestErrors(t *testing.T) {
	m := newMachine(t)
	p := m.git()
	r := m.accept()
	r.send(wire.TypeStarted, nil)
	notice := wire.Error{What: "write to standard output", Why: "no space left on device"}
	r.send(wire.TypeNotice, notice.Append(nil))
	r.send(999, []byte("of a newer machine"))
	e := wire.Error{Code: 127, What: "git", Why: "command not found in distro deb", Hint: "to install it: apt install git"}
	r.send(wire.TypeError, e.Append(nil))
	p.expectExit(127, "stile: write to standard output: no space left on device\n"+
		"stile: git: command not found in distro deb\nstile: to install it: apt install git\n")

	// No record.
	path := m.path("nolink")
	if err := os.Symlink(shim, path); err != nil {
		t.Fatal(err)
	}
	m.start(exec.Command(path)).expectExit(125, "stile: "+path+": no distro is known for this link\nstile: make links with: stile link\n")
	for _, bad := range []string{"", "rubbish", "distro=d\x00"} {
		if err := os.WriteFile(filepath.Join(m.dir, "links", "nolink"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		m.start(exec.Command(path)).expectExit(125, "stile: "+path+": invalid argument\nstile: make links with: stile link\n")
	}
	// A symlink to itself, by way of a name that the kernel does not follow.
	if got := m.starts(); got != "" {
		t.Errorf("machines were started: %q", got)
	}
}

// The machine's end before it has taken the request is nobody's business but
// another machine's; after that it is the command's end.
func TestMachineDies(t *testing.T) {
	const words = "stile: distro deb: the machine ended while the command ran\nstile: see: stile logs deb\n"
	m := newMachine(t)
	for _, tt := range []struct {
		name string
		last func(r *request)
	}{
		{"closes", func(r *request) {}},
		{"half a message", func(r *request) { r.conn.Write([]byte{5, 0, 0}) }},
		{"half a payload", func(r *request) { r.conn.Write([]byte{5, 0, 0, 0, 9, 0, 0, 0, 1}) }},
		{"rubbish", func(r *request) { r.conn.Write([]byte("\xff\xff\xff\xff\xff\xff\xff\xff")) }},
		{"malformed Exit", func(r *request) { r.send(wire.TypeExit, []byte{1}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.t = t
			p := m.git()
			r := m.accept()
			r.send(wire.TypeStarted, nil)
			tt.last(r)
			r.close()
			p.expectExit(125, words)
		})
	}
	m.t = t
	// Not taken: a new machine is started, and has it.
	m.script("echo \"$@\" >>"+m.dir+"/started", "stile")
	p := m.git("a")
	m.accept().close()
	r := m.accept()
	if r.run.Argv[1] != "a" || len(r.files) == 0 {
		t.Errorf("the second request is %q with %d descriptors", r.run.Argv, len(r.files))
	}
	r.exit(wire.Exit{Code: 2})
	p.expectExit(2, "")
	if got := m.starts(); got != "start --quiet deb\n" {
		t.Errorf("calls of stile: %q", got)
	}
	p = m.git()
	for range 3 {
		m.accept().close()
	}
	p.expectExit(125, "stile: distro deb: the machine ended before it had taken the command\nstile: see: stile logs deb\n")
}

// Nothing listens: `stile start` is run, with the caller's surroundings and none of
// its descriptors.
func TestMachineIsStarted(t *testing.T) {
	m := newMachine(t)
	link := filepath.Join(m.home, wire.SocketLink)
	for _, before := range []string{"no link", "a link to nothing", "a socket that nobody serves"} {
		os.Remove(link)
		os.Remove(filepath.Join(m.dir, "started"))
		switch before {
		case "a link to nothing":
			os.Symlink(filepath.Join(m.dir, "nothing"), link)
		case "a socket that nobody serves":
			dead := filepath.Join(m.dir, "dead")
			os.Remove(dead)
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: dead}); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			os.Symlink(dead, link)
		}
		m.script("echo \"$@\" $A $(ulimit -S -n) $(readlink /proc/$$/fd/0) $(readlink /proc/$$/fd/* | grep -c -e socket: -e signalfd -e /dev/tty) >>"+m.dir+"/started; trap >>"+m.dir+
			"/started; ln -sfn "+m.dir+"/s "+link, "stile")
		p := m.start(exec.Command("bash", "-c", `trap '' USR1; ulimit -S -n 333; A=b exec "$0"`, m.path("git")))
		r := m.accept()
		r.exit(wire.Exit{Code: 1})
		p.expectExit(1, "")
		got := m.starts()
		if !strings.HasPrefix(got, "start --quiet deb b 333 /dev/null 0\n") {
			t.Errorf("%s: %q", before, got)
		}
		r.close()
	}
}

func TestMachineDoesNotStart(t *testing.T) {
	m := newMachine(t)
	os.Remove(filepath.Join(m.home, wire.SocketLink))
	m.script("echo stile: no QEMU >&2; exit 125", "stile")
	m.git().expectExit(125, "stile: no QEMU\n")
	m.script("exit 0", "stile")
	m.git().expectExit(125, "stile: distro deb: connect to its machine: no such file or directory\nstile: see: stile status\n")
	os.Remove(filepath.Join(m.dir, "stile"))
	m.git().expectExit(125, "stile: start distro deb: "+m.dir+"/stile: no such file or directory\nstile: make the links again with: stile link\n")
	m.script("", "stile")
	os.WriteFile(filepath.Join(m.dir, "stile"), []byte("\x7fELF"), 0o755)
	m.git().expectExit(125, "stile: start distro deb: "+m.dir+"/stile: cannot be executed\nstile: make the links again with: stile link\n")
}

// A socket's path is longer than a socket's address holds.
func TestLongSocketPath(t *testing.T) {
	m := newMachine(t)
	long := filepath.Join(m.dir, strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(m.dir, "s"), filepath.Join(long, "s")); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(m.home, wire.SocketLink))
	if err := os.Symlink(filepath.Join(long, "s"), filepath.Join(m.home, wire.SocketLink)); err != nil {
		t.Fatal(err)
	}
	p := m.git()
	m.accept().exit(wire.Exit{Code: 6})
	p.expectExit(6, "")
}
