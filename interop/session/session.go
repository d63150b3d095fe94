// Package session is the vmm process's half of a guest command's session: between
// the shim's connection and descriptors on one side and guestinit's streams on the
// other. Package wire has the protocol.
//
// The supervisor uses Receive and Forward, the vmm process Accept and a Server.
package session

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stilehq/stile/interop/descriptor"
	"github.com/stilehq/stile/interop/wire"
)

// A Conn is a stream to guestinit. Unless said otherwise it behaves as a TCP
// connection of package net does.
type Conn interface {
	net.Conn
	// CloseRead says that nothing will be read any more: what the peer still
	// writes fails there.
	CloseRead() error
	// CloseWrite says that nothing will be written any more: the peer reads the
	// end of file.
	CloseWrite() error
	// PeerReadClosed is closed when the peer will read no more: it said so, closed
	// the stream, reset it, or is gone.
	PeerReadClosed() <-chan struct{}
}

// A Config says how a Server does its work.
type Config struct {
	// Dial opens a stream to guestinit (wire.AgentPort).
	Dial func(ctx context.Context) (Conn, error)
	// Generation is what each Hello repeats.
	Generation uint64
	// Prepare, if set, changes a request before guestinit sees it: what of the
	// environment crosses, for one.
	Prepare func(*wire.Run)
	// Changed, if set, is called with the number of commands that run whenever
	// that has changed, one call at a time.
	Changed func(running int)
	// DialLimit and AnswerLimit bound how long guestinit may take to accept a
	// stream and to start a command; zero is 10 s and 60 s.
	DialLimit, AnswerLimit time.Duration
}

// A Server runs sessions.
type Server struct {
	config Config
	poller *descriptor.Poller

	mu       sync.Mutex
	last     uint64
	sessions map[*relay]struct{}
	running  int
	closed   bool
	ctx      context.Context
	cancel   context.CancelFunc
	all      sync.WaitGroup

	answered atomic.Pointer[time.Time] // when guestinit last started a command

	report   sync.Mutex // held while Changed is called
	reported int
}

// NewServer makes a Server. Close ends it.
func NewServer(c Config) (*Server, error) {
	poller, err := descriptor.NewPoller()
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, poller: poller, sessions: make(map[*relay]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close ends all sessions and waits for that. The shims find that the machine has
// ended.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.all.Wait()
	return s.poller.Close()
}

// Serve runs one session to its end, which may be long after its command's: what
// outlives the command keeps its descriptors. It takes over the request.
func (s *Server) Serve(q *Request) {
	r := s.begin(q)
	if r == nil {
		q.Close()
		return
	}
	r.serve()
	s.mu.Lock()
	delete(s.sessions, r)
	s.mu.Unlock()
	s.all.Done()
}

// begin enters a session, nil if the server is closed.
func (s *Server) begin(q *Request) *relay {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.all.Add(1)
	s.last++
	q.Run.Session = s.last
	r := newRelay(s, q)
	s.sessions[r] = struct{}{}
	return r
}

// lastAnswer is when guestinit last started a command.
func (s *Server) lastAnswer() time.Time {
	if t := s.answered.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// change counts commands that run.
func (s *Server) change(by int) {
	s.mu.Lock()
	s.running += by
	s.mu.Unlock()
	if s.config.Changed == nil {
		return
	}
	s.report.Lock()
	defer s.report.Unlock()
	s.mu.Lock()
	n := s.running
	s.mu.Unlock()
	if n != s.reported {
		s.reported = n
		s.config.Changed(n)
	}
}

// Notice has the shims of all commands that run print a line.
func (s *Server) Notice(e *wire.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.sessions {
		if !r.exited() {
			go r.shim.send(wire.TypeNotice, e.Append(nil)) // which waits for a shim that is stopped
		}
	}
}

// A Status describes one session.
type Status struct {
	Session uint64    `json:"session"`
	Argv    []string  `json:"argv"`
	PID     uint32    `json:"pid"` // in the distro; 0 if the command does not run yet
	Since   time.Time `json:"since"`
	Ended   bool      `json:"ended"` // the command has ended; something that it left has its descriptors
	In      uint64    `json:"in"`    // bytes to the guest
	Out     uint64    `json:"out"`   // bytes from the guest
}

// Sessions describes the sessions that are open, oldest first.
func (s *Server) Sessions() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Status
	for r := range s.sessions {
		list = append(list, r.status())
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.Session, b.Session) })
	return list
}
