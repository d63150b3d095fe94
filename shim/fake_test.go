package main_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// A machine is a supervisor, played by the test, with a folder of links.
type machine struct {
	t        *testing.T
	dir      string
	home     string // the distro's folder
	listener *net.UnixListener
	requests []*request
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "st") // short: a socket's path holds 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, home: filepath.Join(dir, "home")}
	for _, d := range []string{"home", "bin", "links"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "s")
	if m.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(socket, filepath.Join(m.home, wire.SocketLink)); err != nil {
		t.Fatal(err)
	}
	m.script("echo \"$@\" >>"+dir+"/started; exit 9", "stile")
	t.Cleanup(func() {
		m.listener.Close()
		os.RemoveAll(dir)
	})
	m.link("git", wire.Record{})
	return m
}

// script writes a program into the machine's folder.
func (m *machine) script(text, name string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// starts are the calls of `stile` so far.
func (m *machine) starts() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "started"))
	if err != nil && !os.IsNotExist(err) {
		m.t.Error(err)
	}
	return string(b)
}

// record is r with what each record has.
func (m *machine) record(r wire.Record) []byte {
	m.t.Helper()
	r.Distro, r.Home, r.Stile = "deb", m.home, filepath.Join(m.dir, "stile")
	b, err := r.Append(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// link makes a link with its record, and returns its path.
func (m *machine) link(name string, r wire.Record) string {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "links", name), m.record(r), 0o600); err != nil {
		m.t.Fatal(err)
	}
	path := m.path(name)
	if err := os.Symlink(shim, path); err != nil && !os.IsExist(err) {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, "bin", name) }

// A process is a shim that runs, or what will become one.
type process struct {
	m      *machine
	cmd    *exec.Cmd
	stderr bytes.Buffer
	waited bool
}

// start starts a command. Its standard error is kept unless it has one.
func (m *machine) start(cmd *exec.Cmd) *process {
	m.t.Helper()
	p := &process{m: m, cmd: cmd}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.stderr
	}
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if !p.waited {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return p
}

// git starts the link of that name.
func (m *machine) git(args ...string) *process { return m.start(exec.Command(m.path("git"), args...)) }

// bash has a shell make the surroundings of the link: its $0 is the link's path.
func (m *machine) bash(script string, args ...string) *process {
	return m.start(exec.Command("bash", append([]string{"-c", script, m.path("git")}, args...)...))
}

// wait waits for the process's end. The machine lets go of what it was passed, for
// the end of standard error is waited for too.
func (p *process) wait() syscall.WaitStatus {
	p.m.t.Helper()
	for _, r := range p.m.requests {
		r.closeFiles()
	}
	timer := time.AfterFunc(patience, func() {
		p.m.t.Error("the shim does not end")
		p.cmd.Process.Kill()
	})
	defer timer.Stop()
	p.cmd.Wait()
	p.waited = true
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// expectExit waits for the end with a status of this code, and words on standard
// error.
func (p *process) expectExit(code int, stderr string) {
	p.m.t.Helper()
	if st := p.wait(); !st.Exited() || st.ExitStatus() != code {
		p.m.t.Errorf("the shim ends with %#x (exited %v, status %d), want status %d", int(st), st.Exited(), st.ExitStatus(), code)
	}
	if got := p.stderr.String(); got != stderr {
		p.m.t.Errorf("standard error is %q, want %q", got, stderr)
	}
}

// A request is what a shim has sent, with its connection.
type request struct {
	t      *testing.T
	conn   *net.UnixConn
	reader *wire.Reader
	run    wire.Run
	files  []*os.File
}

// accept takes one shim's request.
func (m *machine) accept() *request {
	m.t.Helper()
	m.listener.SetDeadline(time.Now().Add(patience))
	conn, err := m.listener.AcceptUnix()
	if err != nil {
		m.t.Fatalf("no shim connects: %v", err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	r := &request{t: m.t, conn: conn, reader: wire.NewReader(conn.Read)}
	m.t.Cleanup(r.close)
	m.requests = append(m.requests, r)
	f, err := session.Receive(conn)
	if err != nil {
		m.t.Fatalf("receive: %v", err)
	}
	for _, fd := range f.Files {
		r.files = append(r.files, os.NewFile(uintptr(fd), "passed"))
	}
	if f.Type != wire.TypeRun {
		m.t.Fatalf("the first message is of type %d", f.Type)
	}
	if err := r.run.Parse(f.Payload); err != nil {
		m.t.Fatalf("request: %v", err)
	}
	if r.run.Version != wire.Version || r.run.Distro != "deb" {
		m.t.Errorf("version %d, distro %q", r.run.Version, r.run.Distro)
	}
	return r
}

func (r *request) closeFiles() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}

func (r *request) close() {
	r.closeFiles()
	r.conn.Close()
}

func (r *request) send(t wire.Type, payload []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(wire.AppendMessage(nil, t, payload)); err != nil {
		r.t.Errorf("send to the shim: %v", err)
	}
}

func (r *request) exit(e wire.Exit) { r.t.Helper(); r.send(wire.TypeExit, e.Append(nil)) }

// expect is the payload of the next message, which is of type want.
func (r *request) expect(want wire.Type) []byte {
	r.t.Helper()
	typ, payload, err := r.reader.Next()
	if err != nil || typ != want {
		r.t.Fatalf("the shim says type %d %q, %v, want type %d", typ, payload, err, want)
	}
	return payload
}

// expectSignal is the signal that the shim passes on next.
func (r *request) expectSignal() wire.Signal {
	r.t.Helper()
	var s wire.Signal
	if err := s.Parse(r.expect(wire.TypeSignal)); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// expectEnd reads the end of the shim's connection.
func (r *request) expectEnd() {
	r.t.Helper()
	if typ, payload, err := r.reader.Next(); err != io.EOF {
		r.t.Errorf("the shim says type %d %q, %v, want the end", typ, payload, err)
	}
}

// sameFile reports whether a file that was passed is the one that the test has.
func sameFile(t *testing.T, a, b *os.File) bool {
	t.Helper()
	var x, y unix.Stat_t
	if err := unix.Fstat(int(a.Fd()), &x); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(int(b.Fd()), &y); err != nil {
		t.Fatal(err)
	}
	return x.Dev == y.Dev && x.Ino == y.Ino
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// soon waits for a condition.
func soon(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come to that", what)
		}
	}
}
