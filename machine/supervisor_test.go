package machine

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/vmmproc"
	"github.com/stilehq/stile/vmm"
)

// A bench is a supervisor whose vmm process is the test.
type bench struct {
	*supervisor
	home  string        // with the link to the socket
	serve *net.UnixConn // the vmm process's end
}

// newBench makes a supervisor that serves its socket. asked answers its calls of
// the vmm process.
func newBench(t *testing.T, idle time.Duration, asked call.Handler) *bench {
	t.Helper()
	dir := t.TempDir()
	l, err := listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceLink(filepath.Join(dir, "s"), filepath.Join(dir, socketLink)); err != nil {
		t.Fatal(err)
	}
	s := newSupervisor(&spec{memory: 1 << 30, guest: guest.Config{Distro: "d"}}, idle, Status{Distro: "d", Version: "v"}, l)
	pair := func() (ours, theirs *net.UnixConn) {
		a, f, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		b, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close(); b.Close() })
		return a.(*net.UnixConn), b.(*net.UnixConn)
	}
	serve, theirs := pair()
	calls, answers := pair()
	s.vm = &vm{serve: serve, calls: call.NewClient(calls), gateway: session.NewGateway(serve)}
	go call.Serve(t.Context(), answers, asked)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close() })
	go s.events()
	go s.accept(ctx)
	go s.watchIdle(ctx)
	return &bench{s, dir, theirs}
}

// event is a word of the vmm process.
func (b *bench) event(t *testing.T, name string, body any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	m := wire.Call{Name: name, Body: data}
	if _, err := b.serve.Write(wire.AppendMessage(nil, wire.TypeEvent, m.Append(nil))); err != nil {
		t.Fatal(err)
	}
}

func nobody(context.Context, string, []byte) (any, error) { return guest.Processes{}, nil }

func dial(t *testing.T, b *bench) *Client {
	t.Helper()
	c, err := Dial(t.Context(), b.home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestReadyAndStatus(t *testing.T) {
	b := newBench(t, time.Hour, func(_ context.Context, name string, _ []byte) (any, error) {
		if name == vmmproc.CallCounts {
			return vmm.Counts{Exits: map[string]uint64{"pio": 3}}, nil
		}
		if name != vmmproc.CallProcesses {
			return nil, errors.New("unknown call " + name)
		}
		return guest.Processes{Left: []guest.Process{{PID: 7, Command: "sleep"}}}, nil
	})
	c := dial(t, b)
	if st, err := c.Status(t.Context(), false); err != nil || st.Ready || st.Distro != "d" || st.PID != os.Getpid() || st.Memory != 1<<30 {
		t.Errorf("before it is up: %+v, %v", st, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready: %v", err)
	}
	b.event(t, "unknown", 1)
	b.event(t, vmmproc.EventSessions, "no number")
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	b.event(t, vmmproc.EventSessions, 3)
	c = dial(t, b)
	if err := c.Ready(t.Context()); err != nil {
		t.Fatalf("ready: %v", err)
	}
	soon(t, "sessions", func() bool { st, err := c.Status(t.Context(), false); return err == nil && st.Sessions == 3 })
	st, err := c.Status(t.Context(), false)
	if counted, err := c.Status(t.Context(), true); err != nil || st.Counts != nil || counted.Counts == nil || counted.Counts.Exits["pio"] != 3 {
		t.Errorf("counts: %+v, unasked %+v, %v", counted.Counts, st.Counts, err)
	}
	if err != nil || !st.Ready || st.Kernel != "7.3" || !slices.Equal(st.Left, []string{"7 sleep"}) || st.IdleIn != 0 {
		t.Errorf("when it is up: %+v, %v", st, err)
	}
}

func soon(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come to that", what)
		}
	}
}

// The guest's own words reach whoever waits, and whoever comes.
func TestGuestDoesNotComeUp(t *testing.T) {
	b := newBench(t, time.Hour, nobody)
	want := wire.Error{Code: 125, What: "distro d", Why: "the root disk is damaged", Hint: "stile import"}
	c := dial(t, b)
	waits := make(chan error, 1)
	go func() { waits <- c.Ready(t.Context()) }()
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Err: &want})
	var e *wire.Error
	if err := <-waits; !errors.As(err, &e) || *e != want {
		t.Errorf("ready: %v", err)
	}
	conn, err := net.Dial("unix", filepath.Join(b.home, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	run := wire.Run{Argv: []string{"x"}}
	conn.Write(wire.AppendMessage(nil, wire.TypeRun, run.Append(nil)))
	typ, payload, err := wire.NewReader(conn.Read).Next()
	var got wire.Error
	if err != nil || typ != wire.TypeError || got.Parse(payload) != nil || got != want {
		t.Errorf("a shim is told type %d %+v, %v", typ, got, err)
	}
	select {
	case <-b.forced:
	case <-time.After(20 * time.Second):
		t.Error("the machine is not ended")
	}
}

// A Run goes on to the vmm process once the guest is up, with its connection and
// its descriptors.
func TestRunIsForwarded(t *testing.T) {
	b := newBench(t, time.Hour, nobody)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(b.home, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	run := wire.Run{Argv: []string{"x"}, Table: []wire.Descriptor{{Number: 1, Kind: wire.KindPipe, Access: wire.AccessWrite}}}
	if _, _, err := conn.WriteMsgUnix(wire.AppendMessage(nil, wire.TypeRun, run.Append(nil)), unix.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	b.serve.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if q, err := session.Accept(b.serve); err == nil {
		q.Close()
		t.Fatal("a session is handed on before the guest is up")
	}
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	b.serve.SetReadDeadline(time.Now().Add(20 * time.Second))
	q, err := session.Accept(b.serve)
	if err != nil {
		t.Fatal(err)
	}
	q.Conn.Write([]byte("hello"))
	buf := make([]byte, 5)
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("the shim reads %q, %v", buf[:n], err)
	}
	if q.Run.Argv[0] != "x" || len(q.Files) != 1 {
		t.Errorf("request %+v", q)
	}
	q.Close()
	r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := r.Read(buf); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the pipe has a writer still: %d, %v", n, err)
	}
}

// A machine ends when it was idle: not while it starts, not while a command runs,
// not while something that one left runs.
func TestIdle(t *testing.T) {
	left := make(chan []guest.Process, 100)
	b := newBench(t, 30*time.Millisecond, func(context.Context, string, []byte) (any, error) {
		select {
		case l := <-left:
			return guest.Processes{Left: l}, nil
		default:
			return guest.Processes{}, nil
		}
	})
	alive := func(why string) {
		t.Helper()
		select {
		case <-b.ending:
			t.Fatalf("the machine ends while %s", why)
		case <-time.After(100 * time.Millisecond):
		}
	}
	alive("it starts")
	b.event(t, vmmproc.EventSessions, 1)
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	alive("a command runs")
	left <- []guest.Process{{PID: 1, Command: "left"}}
	b.event(t, vmmproc.EventSessions, 0)
	alive("something runs that a command left")
	select {
	case <-b.ending:
	case <-time.After(recheck + 20*time.Second):
		t.Error("the machine does not end")
	}
}

// As many descriptors as may be are open for a moment: that is no end of service.
func TestAcceptGoesOn(t *testing.T) {
	b := newBench(t, time.Hour, nobody)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "client")
	defer f.Close()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(b.home, "s")})
	time.Sleep(5 * acceptPause)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{calls: call.NewClient(conn)}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Status(ctx, false); err != nil {
		t.Errorf("status: %v", err)
	}
}

func TestDialNotRunning(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no link: %v", err)
	}
	if err := replaceLink(filepath.Join(dir, "s"), filepath.Join(dir, socketLink)); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a link to nothing: %v", err)
	}
	l, err := listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "s")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v, %v", info.Mode(), err)
	}
	l.Close()
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a dead machine's socket: %v", err)
	}
	// It is no obstacle.
	if l, err = listen(filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestWithoutLinks(t *testing.T) {
	got := withoutLinks([]string{"A=/l", "PATH=/l:/bin:/l/:/d/views/0/bin:/lx", "XPATH=/l"}, distro.Dirs{Data: "/d", Links: "/l"})
	if want := []string{"A=/l", "PATH=/bin:/lx", "XPATH=/l"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// The lock of starting a machine is waited for, within a limit.
func TestLockStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, err := lockStart(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lockStart(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is held: %v", err)
	}
	a.Close()
}

// A machine at rest is asked for its memory once, and again when it has come to
// rest again; one that something was left behind in is not.
func TestRest(t *testing.T) {
	var asked atomic.Int32
	var left atomic.Bool
	b := newBench(t, time.Hour, func(_ context.Context, name string, _ []byte) (any, error) {
		if name == vmmproc.CallReclaim {
			asked.Add(1)
			return guest.Reclaimed{Bytes: 1 << 20}, nil
		}
		if left.Load() {
			return guest.Processes{Left: []guest.Process{{PID: 7, Command: "make"}}}, nil
		}
		return guest.Processes{}, nil
	})
	b.rest = 20 * time.Millisecond
	go b.watchRest(t.Context())
	time.Sleep(60 * time.Millisecond)
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times before the guest was up", n)
	}
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	soon(t, "asked", func() bool { return asked.Load() == 1 })
	time.Sleep(100 * time.Millisecond)
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times in one rest", n)
	}
	b.event(t, vmmproc.EventSessions, 1)
	time.Sleep(60 * time.Millisecond)
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times while a session runs", n)
	}
	b.event(t, vmmproc.EventSessions, 0)
	soon(t, "asked again", func() bool { return asked.Load() == 2 })
	left.Store(true)
	b.event(t, vmmproc.EventSessions, 1)
	b.event(t, vmmproc.EventSessions, 0)
	time.Sleep(100 * time.Millisecond)
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times with a process left behind", n)
	}
	if st := b.report(t.Context()); st.Reclaimed != 2<<20 {
		t.Errorf("reclaimed %d", st.Reclaimed)
	}
}

// A guest that does not answer costs its machine's status nothing but what only
// the guest knows.
func TestStatusOfStuckGuest(t *testing.T) {
	b := newBench(t, time.Hour, func(ctx context.Context, name string, _ []byte) (any, error) {
		if name == vmmproc.CallCounts {
			return vmm.Counts{Exits: map[string]uint64{"pio": 3}}, nil
		}
		time.Sleep(reportLimit + 200*time.Millisecond)
		return nil, errors.New("stuck")
	})
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	c := dial(t, b)
	soon(t, "ready", func() bool { return b.isReady() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	st, err := c.Status(ctx, true)
	if err != nil || !st.Ready || st.Counts == nil || st.Counts.Exits["pio"] != 3 {
		t.Errorf("%+v, %v", st, err)
	}
}
