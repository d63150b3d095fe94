// Package agent is guestinit's half of sessions and calls: what the vmm process
// asks for on vsock streams (package wire has the protocol).
//
// Each session has a control stream and a stream for each descriptor that needs
// one. The command starts as soon as Run has been read; the streams of its
// descriptors come when they come, for its pipes are there from the start.
package agent

import (
	"sync"
	"time"

	"github.com/stilehq/stile/guestinit/root"
	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/guestinit/spawn"
	"github.com/stilehq/stile/guestinit/users"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
)

// helloLimit is how long a stream may take to say what it is, and to find the
// session that it belongs to: long, for a host that starts hundreds of commands at
// once, in an emulated guest, has its streams wait.
var helloLimit = 2 * time.Minute // a variable for tests

// Options are what an Agent works with.
type Options struct {
	Config  *guest.Config
	Spawner *spawn.Spawner // nil in import mode
	Files   users.Files    // opens the distro's files

	// Mount and Unmount place a share in the distro and take it away.
	Mount, Unmount func(guest.Share) error
	// Links changes which host commands are on the PATH, and Register makes sure that
	// the kernel knows how to execute them: nil where there are none.
	Links    func(names []string) error
	Register func()
	// Import unpacks a tar stream into the root disk.
	Import func(*sock.Conn) error
	// Reclaim shrinks the page cache, within a limit of time, and says by how
	// many bytes.
	Reclaim func(time.Duration) (uint64, error)
	// Shutdown ends the distro and makes its disk clean.
	Shutdown func() error
	// Off ends the machine; it does not return.
	Off func()
}

// An Agent serves the streams of one boot of the guest.
type Agent struct {
	opts  Options
	clock clock

	mu       sync.Mutex
	sessions map[uint64]*session
	early    map[uint64][]stream // of sessions that are not known yet
	starting map[uint64]bool     // sessions whose request has come, and that take their early streams
	ending   bool
}

// stream is a data stream that has said what it is.
type stream struct {
	number uint32
	conn   *sock.Conn
}

// New makes an Agent.
func New(o Options) *Agent {
	return &Agent{opts: o, sessions: make(map[uint64]*session), early: make(map[uint64][]stream), starting: make(map[uint64]bool)}
}

// Serve accepts streams until the listener is closed.
func (a *Agent) Serve(l *sock.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go a.greet(c)
	}
}

// greet reads what a stream is and serves it.
func (a *Agent) greet(c *sock.Conn) {
	var h wire.Hello
	reader := wire.NewReader(c.Read)
	c.SetReadDeadline(time.Now().Add(helloLimit))
	typ, payload, err := reader.Next()
	if err != nil || typ != wire.TypeHello || h.Parse(payload) != nil || h.Generation != a.opts.Config.Generation {
		c.Close() // not of this boot
		return
	}
	if h.Kind != wire.StreamControl {
		c.SetReadDeadline(time.Time{})
	}
	switch h.Kind {
	case wire.StreamControl:
		a.control(c, reader, h.Session)
	case wire.StreamData:
		a.data(c, h)
	case wire.StreamCall:
		a.calls(c)
	case wire.StreamImport:
		a.importTar(c)
	default:
		c.Close()
	}
}

// control reads a session's request and runs it until its stream ends.
func (a *Agent) control(c *sock.Conn, reader *wire.Reader, id uint64) {
	a.mu.Lock()
	a.starting[id] = true // with many others that may take long
	a.mu.Unlock()
	s := a.begin(c, reader, id)
	// What has arrived, and from now on arrives, finds the session.
	a.mu.Lock()
	if s != nil {
		a.sessions[id] = s
	}
	early := a.early[id]
	delete(a.early, id)
	delete(a.starting, id)
	a.mu.Unlock()
	for _, st := range early {
		if s == nil {
			st.conn.Close()
		} else {
			s.attach(st)
		}
	}
	if s != nil {
		s.serve(reader)
	}
}

// begin reads a session's request and starts its command; nil says that it has not,
// and that the host has been told.
func (a *Agent) begin(c *sock.Conn, reader *wire.Reader, id uint64) *session {
	typ, payload, err := reader.Next()
	if err != nil || typ != wire.TypeRun {
		c.Close()
		return nil
	}
	c.SetReadDeadline(time.Time{})
	s := newSession(a, id, c)
	if err := s.run.Parse(payload); err != nil {
		s.refuse(&wire.Error{Code: 125, What: "request", Why: err.Error()})
		return nil
	}
	a.clock.set(s.run.Time)
	if a.opts.Register != nil {
		a.opts.Register()
	}
	root.Fence() // the command sees the shares as they are now
	a.mu.Lock()
	ending := a.ending || a.opts.Spawner == nil
	a.mu.Unlock()
	if ending {
		s.refuse(&wire.Error{Code: 125, What: "distro " + a.opts.Config.Distro, Why: "it is being shut down"})
		return nil
	}
	if e := s.start(); e != nil {
		s.refuse(e)
		return nil
	}
	return s
}

// data gives a stream to its session, or keeps it until that is known.
func (a *Agent) data(c *sock.Conn, h wire.Hello) {
	st := stream{h.Number, c}
	a.mu.Lock()
	s := a.sessions[h.Session]
	if s == nil {
		a.early[h.Session] = append(a.early[h.Session], st)
	}
	a.mu.Unlock()
	if s != nil {
		s.attach(st)
		return
	}
	time.AfterFunc(helloLimit, func() {
		a.mu.Lock()
		if a.starting[h.Session] {
			a.mu.Unlock()
			return
		}
		late := a.early[h.Session]
		delete(a.early, h.Session)
		a.mu.Unlock()
		for _, st := range late {
			st.conn.Close()
		}
	})
}

func (a *Agent) forget(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[s.id] == s {
		delete(a.sessions, s.id)
	}
}

// Reaped tells that an orphan of the distro has ended: a session that waited for
// the last of its processes may be over.
func (a *Agent) Reaped() {
	a.mu.Lock()
	var waiting []*session
	for _, s := range a.sessions {
		if s.terminal != nil && s.hasEnded() {
			waiting = append(waiting, s)
		}
	}
	a.mu.Unlock()
	for _, s := range waiting {
		s.mail.put(lookAgain{})
	}
}

// clock keeps the guest's CLOCK_REALTIME by the times that requests carry. A
// request is late by how long it was on its way, so of several the one that puts
// the host's clock furthest ahead of CLOCK_MONOTONIC is the best.
type clock struct {
	mu      sync.Mutex
	offsets [clockWindow]int64 // host's realtime less our monotonic, in ns
	n       int
}

const (
	clockWindow = 16
	clockSlack  = int64(20 * time.Millisecond)
)

// set takes the host's time in ns, as of when the request was sent.
func (c *clock) set(host int64) {
	if host == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offsets[c.n%clockWindow] = host - monotonic()
	c.n++
	best := c.offsets[0]
	for _, o := range c.offsets[1:min(c.n, clockWindow)] {
		best = max(best, o)
	}
	if newest := c.offsets[(c.n-1)%clockWindow]; c.n > 1 && newest < best-int64(time.Minute) {
		// No request is that late: the host's clock was set back.
		c.offsets[0], c.n = newest, 1
		best = newest
	}
	want := best + monotonic()
	if off := time.Now().UnixNano() - want; off > clockSlack || off < -clockSlack {
		setRealtime(want)
	}
}
