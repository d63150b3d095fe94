package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/guestinit/zone"
	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
)

// How long processes have at the end: to end by themselves after SIGTERM, and to
// be gone after SIGKILL. And how long the host has to take the last answer.
const (
	termLimit   = 5 * time.Second
	killLimit   = 5 * time.Second
	answerLimit = 2 * time.Second

	reclaimLimit = 2 * time.Second // less than the host waits for any answer
)

// calls answers the calls on a stream.
func (a *Agent) calls(c *sock.Conn) {
	defer c.Close()
	off := false
	call.Serve(context.Background(), answering{c, &off, a.opts.Off}, func(_ context.Context, name string, body []byte) (any, error) {
		answer, err := a.handle(name, body)
		off = name == guest.CallShutdown && err == nil
		return answer, err
	})
}

// answering ends the machine once the answer to a shutdown has been written.
type answering struct {
	*sock.Conn
	off *bool
	end func()
}

// Write writes an answer.
func (w answering) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if *w.off {
		// A restart takes along what the device has not taken yet. The host
		// closes the connection when it has the answer.
		w.Conn.CloseWrite()
		w.Conn.SetReadDeadline(time.Now().Add(answerLimit))
		io.Copy(io.Discard, struct{ io.Reader }{w.Conn})
		w.end()
	}
	return n, err
}

func (a *Agent) handle(name string, body []byte) (any, error) {
	switch name {
	case guest.CallMount, guest.CallUnmount:
		var s guest.Share
		if err := json.Unmarshal(body, &s); err != nil {
			return nil, err
		}
		if a.opts.Spawner == nil {
			return nil, errors.New("no distro runs")
		}
		if name == guest.CallMount {
			return nil, a.opts.Mount(s)
		}
		return nil, a.opts.Unmount(s)
	case guest.CallProcesses:
		if a.opts.Spawner == nil {
			return guest.Processes{}, nil
		}
		return a.processes(), nil
	case guest.CallTime:
		var t guest.Time
		if err := json.Unmarshal(body, &t); err != nil {
			return nil, err
		}
		a.clock.set(t.Now)
		return nil, nil
	case guest.CallZone:
		var z guest.Zone
		if err := json.Unmarshal(body, &z); err != nil {
			return nil, err
		}
		return nil, zone.Follow(zone.Files(a.opts.Files), z)
	case guest.CallLinks:
		var names []string
		if err := json.Unmarshal(body, &names); err != nil {
			return nil, err
		}
		if a.opts.Links == nil {
			return nil, errors.New("this distro has no host commands")
		}
		return nil, a.opts.Links(names)
	case guest.CallReclaim:
		if a.opts.Spawner == nil {
			return nil, errors.New("no distro runs")
		}
		n, err := a.opts.Reclaim(reclaimLimit)
		return guest.Reclaimed{Bytes: n}, err
	case guest.CallShutdown:
		a.mu.Lock()
		a.ending = true
		a.mu.Unlock()
		if a.opts.Spawner != nil {
			a.endAll()
		}
		return nil, a.opts.Shutdown()
	}
	return nil, errors.New("unknown call")
}

// endAll ends every process of the distro, in order where they let it.
func (a *Agent) endAll() {
	if a.signalAll(unix.SIGTERM) == 0 {
		return
	}
	a.signalAll(unix.SIGCONT)
	if a.awaitEnd(termLimit, 0) {
		return
	}
	for end := time.Now().Add(killLimit); time.Now().Before(end); {
		if a.signalAll(unix.SIGKILL) == 0 || a.awaitEnd(100*time.Millisecond, 0) {
			return
		}
	}
}

// awaitEnd waits until no process is left, and reports whether that came true.
func (a *Agent) awaitEnd(limit time.Duration, sig unix.Signal) bool {
	wait := time.Millisecond
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if a.signalAll(sig) == 0 {
			return true
		}
		time.Sleep(wait)
		wait = min(2*wait, 50*time.Millisecond)
	}
	return false
}

// importTar unpacks the archive on a stream and answers.
func (a *Agent) importTar(c *sock.Conn) {
	defer c.Close()
	err := errors.New("this machine is not for an import")
	if a.opts.Import != nil {
		err = a.opts.Import(c)
	}
	var m wire.Answer
	if err != nil {
		m.Err = call.AsError(err, "unpack")
	}
	c.Write(wire.AppendMessage(nil, wire.TypeAnswer, m.Append(nil)))
}
