package machine

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/vmmproc"
)

// While the guest waits for room whose command runs is told once, status says so,
// commands and an orderly stop are refused, and idle time ends nothing.
func TestStalled(t *testing.T) {
	told := make(chan wire.Error, 10)
	b := newBench(t, 30*time.Millisecond, func(_ context.Context, name string, body []byte) (any, error) {
		if name != vmmproc.CallNotice {
			return guest.Processes{}, nil
		}
		var e wire.Error
		err := json.Unmarshal(body, &e)
		told <- e
		return nil, err
	})
	b.event(t, vmmproc.EventSessions, 1)
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	b.event(t, vmmproc.EventStalled, true)
	b.event(t, vmmproc.EventStalled, true)
	const why = "the host's disk is full, and the machine waits for room on it"
	select {
	case e := <-told:
		if e.Why != why || e.Hint == "" {
			t.Errorf("who has a command is told %+v", e)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("who has a command is told nothing")
	}
	b.event(t, vmmproc.EventSessions, 0)
	c := dial(t, b)
	soon(t, "full, no session", func() bool {
		st, err := c.Status(t.Context(), false)
		return err == nil && st.Full && st.Sessions == 0 && st.IdleIn == 0
	})
	if typ, e := run(t, b); typ != wire.TypeError || e.Why != why || e.Code != 125 {
		t.Errorf("a command is told type %d %+v", typ, e)
	}
	if err := c.Stop(t.Context(), false); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("stop: %v", err)
	}
	select {
	case <-b.ending:
		t.Fatal("the machine ends")
	case <-time.After(100 * time.Millisecond):
	}
	if len(told) != 0 {
		t.Errorf("told again: %+v", <-told)
	}
	b.event(t, vmmproc.EventStalled, false)
	select {
	case <-b.ending:
	case <-time.After(recheck + 20*time.Second):
		t.Error("with room and nothing to do it does not end")
	}
}

// A command that comes as there is room again is not refused.
func TestRoomComesBack(t *testing.T) {
	b := newBench(t, time.Hour, nobody)
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	b.event(t, vmmproc.EventStalled, true)
	soon(t, "full", func() bool { return b.stalled() != nil })
	go b.setStalled(false)
	b.serve.SetReadDeadline(time.Now().Add(20 * time.Second))
	conn := sendRun(t, b)
	defer conn.Close()
	q, err := session.Accept(b.serve)
	if err != nil {
		t.Fatal(err)
	}
	q.Close()
}

// A guest that does not come up for want of room is ended, and its commands told.
func TestStalledAtStart(t *testing.T) {
	b := newBench(t, time.Hour, nobody)
	b.event(t, vmmproc.EventStalled, true)
	if typ, e := run(t, b); typ != wire.TypeError || e.Why != "the host's disk is full: the machine can't start" || e.Hint == "" {
		t.Errorf("a command is told type %d %+v", typ, e)
	}
	select {
	case <-b.forced:
	case <-time.After(20 * time.Second):
		t.Error("the machine is not ended")
	}
}

// sendRun asks for a command.
func sendRun(t *testing.T, b *bench) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(b.home, "s"))
	if err != nil {
		t.Fatal(err)
	}
	r := wire.Run{Argv: []string{"x"}}
	if _, err := conn.Write(wire.AppendMessage(nil, wire.TypeRun, r.Append(nil))); err != nil {
		t.Fatal(err)
	}
	return conn
}

// run asks for a command that is to be refused.
func run(t *testing.T, b *bench) (typ wire.Type, e wire.Error) {
	t.Helper()
	conn := sendRun(t, b)
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	typ, payload, err := wire.NewReader(conn.Read).Next()
	if err != nil || e.Parse(payload) != nil {
		t.Fatalf("answer: type %d, %v", typ, err)
	}
	return typ, e
}
