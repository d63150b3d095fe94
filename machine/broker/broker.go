// Package broker runs commands of the host for a guest: the host's half of what
// package interop/wire calls host commands. It serves streams that come from any
// process of the guest, which is not trusted: each message is bounded and checked,
// and what is run is for Config.Authorize to decide.
//
// A command is started by a sitter (SitterMain), a process that leads the command's
// session and owns its terminal, so that job control works, and that ends the
// command's process group when the broker or the guest's process has gone.
package broker

import (
	"cmp"
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/stilehq/stile/interop/wire"
)

// The bounds of what one guest can take of the host.
const (
	maxSessions = 512 // commands that run, or are being asked for
	maxParsing  = 4   // requests that are being read: each may be MaxPayload long
	// for a stream to say what it is, and to find its session; long, for a guest may be
	// busy with a hundred commands at once
	helloLimit = time.Minute
)

// A Command is what to run.
type Command struct {
	Path string
	Argv []string
	Env  []string
	Dir  *os.File // the working folder; the broker closes it
}

// A Config says how a Broker does its work.
type Config struct {
	// Authorize decides whether a request is granted, and how: a *wire.Error says
	// why not. It may take as long as a user takes to answer; ctx is done when the
	// guest's process has gone.
	Authorize func(ctx context.Context, r *wire.Run) (*Command, *wire.Error)
	// Sitter is the command line that calls SitterMain.
	Sitter []string
	// HelloLimit bounds how long a stream may take to say what it is, and to find its
	// session; zero is a minute.
	HelloLimit time.Duration
}

// A Broker serves the streams of one machine.
type Broker struct {
	config  Config
	ctx     context.Context
	cancel  context.CancelFunc
	parsing chan struct{}
	all     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	sessions map[uint64]*session
	early    map[uint64][]stream // of sessions that are not known yet
}

// stream is a data stream that has said what it is.
type stream struct {
	number uint32
	conn   *net.UnixConn
}

// New makes a Broker. Close ends it.
func New(c Config) *Broker {
	b := &Broker{config: c, parsing: make(chan struct{}, maxParsing),
		sessions: make(map[uint64]*session), early: make(map[uint64][]stream)}
	b.config.HelloLimit = cmp.Or(c.HelloLimit, helloLimit)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// Close ends all commands and waits for that.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	for _, list := range b.early {
		for _, st := range list {
			st.conn.Close()
		}
	}
	b.early = nil
	b.mu.Unlock()
	b.cancel()
	b.all.Wait()
}

// Serve serves one stream of the guest's, which it takes over, and returns at once.
func (b *Broker) Serve(conn *net.UnixConn) {
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.all.Add(1)
	}
	b.mu.Unlock()
	if closed {
		conn.Close()
		return
	}
	go func() {
		defer b.all.Done()
		defer context.AfterFunc(b.ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
		b.greet(conn)
	}()
}

// greet reads what a stream is and serves it.
func (b *Broker) greet(conn *net.UnixConn) {
	var h wire.Hello
	conn.SetReadDeadline(time.Now().Add(b.config.HelloLimit))
	reader := wire.NewReader(conn.Read)
	reader.Limit(wire.MaxHello)
	typ, payload, err := reader.Next()
	if err != nil || typ != wire.TypeHello || h.Parse(payload) != nil {
		conn.Close()
		return
	}
	if h.Version != wire.Version {
		refuse(conn, &wire.Error{Code: 125, What: "host command", Why: "the guest's program is of another version of stile",
			Hint: "restart the machine: stile stop"})
		return
	}
	switch h.Kind {
	case wire.StreamControl:
		b.control(conn, reader, h.Session)
	case wire.StreamData:
		b.data(conn, h)
	default:
		conn.Close()
	}
}

// refuse ends a session that never began.
func refuse(conn *net.UnixConn, e *wire.Error) {
	conn.SetWriteDeadline(time.Now().Add(helloLimit))
	conn.Write(wire.AppendMessage(nil, wire.TypeError, e.Append(nil)))
	conn.Close()
}

// control reads a request and serves it to its end.
func (b *Broker) control(conn *net.UnixConn, reader *wire.Reader, id uint64) {
	s := &session{broker: b, id: id, control: conn, attached: make(chan struct{}, 1)}
	if e := b.readRun(reader, &s.run); e != nil {
		refuse(conn, e)
		return
	}
	conn.SetReadDeadline(time.Time{})
	if why := b.enter(s); why != "" {
		refuse(conn, &wire.Error{Code: 125, What: "host command", Why: why})
		return
	}
	defer b.leave(s)
	s.serve(reader)
}

func (b *Broker) readRun(reader *wire.Reader, run *wire.Run) *wire.Error {
	b.parsing <- struct{}{}
	defer func() { <-b.parsing }()
	reader.Limit(wire.MaxPayload)
	typ, payload, err := reader.Next()
	reader.Limit(maxMessage)
	if err == nil && typ != wire.TypeRun {
		err = wire.ErrField
	}
	if err == nil {
		err = run.Parse(payload)
	}
	if err == nil {
		err = checkRun(run)
	}
	if err != nil {
		return &wire.Error{Code: 125, What: "host command", Why: "request: " + err.Error()}
	}
	return nil
}

// maxMessage bounds what a guest's process says while its command runs.
const maxMessage = 64 << 10

// enter makes a session known, or says why not.
func (b *Broker) enter(s *session) (why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return "the machine ends"
	case len(b.sessions) >= maxSessions:
		return "too many of them run for this distro"
	case b.sessions[s.id] != nil:
		return "there is a session of this number"
	}
	b.sessions[s.id] = s
	s.streams = b.early[s.id]
	delete(b.early, s.id)
	return ""
}

func (b *Broker) leave(s *session) {
	b.mu.Lock()
	delete(b.sessions, s.id)
	rest := s.streams
	s.streams = nil
	b.mu.Unlock()
	for _, st := range rest {
		st.conn.Close()
	}
}

// data gives a stream to its session, or keeps it until that is known.
func (b *Broker) data(conn *net.UnixConn, h wire.Hello) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{})
	st := stream{h.Number, conn}
	if s := b.sessions[h.Session]; s != nil {
		s.streams = append(s.streams, st)
		select {
		case s.attached <- struct{}{}:
		default:
		}
		return
	}
	if len(b.early) >= maxSessions || len(b.early[h.Session]) > wire.MaxDescriptors {
		conn.Close()
		return
	}
	b.early[h.Session] = append(b.early[h.Session], st)
	if len(b.early[h.Session]) > 1 {
		return
	}
	time.AfterFunc(b.config.HelloLimit, func() {
		b.mu.Lock()
		late := b.early[h.Session]
		delete(b.early, h.Session)
		b.mu.Unlock()
		for _, st := range late {
			st.conn.Close()
		}
	})
}

// take hands a session the streams that have come for it.
func (b *Broker) take(s *session) []stream {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := s.streams
	s.streams = nil
	return list
}

// checkRun refuses what no honest guest sends, besides what Parse refuses.
func checkRun(r *wire.Run) error {
	if len(r.Argv) == 0 || r.Argv[0] == "" {
		return wire.ErrField
	}
	seen := make(map[uint32]bool)
	for _, d := range r.Table {
		if d.Number > wire.MaxHostDescriptor || seen[d.Number] || d.Access > wire.AccessRead|wire.AccessWrite {
			return wire.ErrField
		}
		if d.Attached() && d.Access == 0 {
			return wire.ErrField
		}
		seen[d.Number] = true
	}
	return nil
}
