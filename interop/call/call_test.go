package call

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stilehq/stile/interop/wire"
)

func pair(t *testing.T, handle Handler) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		Serve(t.Context(), theirs, handle)
		theirs.Close()
	}()
	c := NewClient(ours)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDo(t *testing.T) {
	c := pair(t, func(_ context.Context, name string, body []byte) (any, error) {
		switch name {
		case "double":
			var n int
			if err := json.Unmarshal(body, &n); err != nil {
				return nil, err
			}
			return 2 * n, nil
		case "refuse":
			return nil, &wire.Error{Code: 126, What: "x", Why: "no", Hint: "ask"}
		}
		return nil, errors.New("unknown call")
	})
	for range 3 {
		var n int
		if err := c.Do(t.Context(), "double", 21, &n); err != nil || n != 42 {
			t.Fatalf("double: %d, %v", n, err)
		}
	}
	var e *wire.Error
	if err := c.Do(t.Context(), "refuse", nil, nil); !errors.As(err, &e) || *e != (wire.Error{Code: 126, What: "x", Why: "no", Hint: "ask"}) {
		t.Errorf("refuse: %v", err)
	}
	if err := c.Do(t.Context(), "other", nil, nil); !errors.As(err, &e) || e.Code != 125 || e.Error() != "other: unknown call" {
		t.Errorf("other: %v", err)
	}
}

// sockets is a connection that takes what is written though nobody reads it yet.
func sockets(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A call that nobody answers in time ends. Its late answer is not taken for that of
// a later call, which works: one slow answer must not cost a connection on which
// the life of a machine depends.
func TestLateAnswer(t *testing.T) {
	ours, theirs := sockets(t)
	release := make(chan struct{})
	go Serve(t.Context(), theirs, func(_ context.Context, name string, _ []byte) (any, error) {
		if name == "slow" {
			<-release
		}
		return name, nil
	})
	c := NewClient(ours)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "slow", nil, nil); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { close(release) })
	for range 3 {
		var name string
		if err := c.Do(t.Context(), "later", nil, &name); err != nil || name != "later" {
			t.Errorf("later: %q, %v", name, err)
		}
	}
}

// Who waits for a turn is bounded too, and does no harm to who has it.
func TestTurns(t *testing.T) {
	ours, theirs := sockets(t)
	release, asked := make(chan struct{}), make(chan struct{})
	go Serve(t.Context(), theirs, func(context.Context, string, []byte) (any, error) {
		close(asked)
		<-release
		return 1, nil
	})
	c := NewClient(ours)
	first := make(chan error)
	go func() { first <- c.Do(t.Context(), "first", nil, nil) }()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "second", nil, nil); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("first: %v", err)
	}
}

// A peer that goes away, breaks the rules, or stops within a message ends the
// connection's use.
func TestBrokenPeer(t *testing.T) {
	answer := wire.AppendMessage(nil, wire.TypeAnswer, (&wire.Answer{Body: []byte("1"), ID: 1}).Append(nil))
	for _, tt := range []struct {
		name  string
		bytes []byte
		keep  bool // the connection stays open
	}{
		{"goes away", nil, false},
		{"stops within a message", answer[:len(answer)-1], true},
		{"malformed answer", wire.AppendMessage(nil, wire.TypeAnswer, []byte{1}), true},
		{"too long", []byte{22, 0, 0, 0, 255, 255, 255, 255}, true},
	} {
		ours, theirs := sockets(t)
		go func() {
			wire.NewReader(theirs.Read).Next()
			theirs.Write(tt.bytes)
			if !tt.keep {
				theirs.Close()
			}
		}()
		c := NewClient(ours)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		for range 2 {
			if err := c.Do(ctx, "x", nil, nil); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		cancel()
		if err := c.Do(t.Context(), "x", nil, nil); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s, then: %v", tt.name, err)
		}
	}
}

func TestWait(t *testing.T) {
	ours, theirs := sockets(t)
	c := NewClient(ours)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is open: %v", err)
	}
	theirs.Close()
	if err := c.Wait(t.Context()); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

// FuzzServe has a server read anything: it answers, or ends.
func FuzzServe(f *testing.F) {
	f.Add(wire.AppendMessage(nil, wire.TypeCall, (&wire.Call{Name: "a", Body: []byte("1"), ID: 2}).Append(nil)))
	f.Add(wire.AppendMessage(nil, wire.TypeCall, []byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		Serve(t.Context(), struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), &out}, func(context.Context, string, []byte) (any, error) { return nil, errors.New("no") })
		r := wire.NewReader(out.Read)
		for {
			typ, payload, err := r.Next()
			if err == io.EOF {
				return
			}
			var a wire.Answer
			if err != nil || typ != wire.TypeAnswer || a.Parse(payload) != nil || a.Err == nil {
				t.Fatalf("it answers type %d %q, %v", typ, payload, err)
			}
		}
	})
}
