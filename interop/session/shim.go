package session

import (
	"errors"
	"net"
	"sync"

	"github.com/stilehq/stile/interop/wire"
)

// shim is the connection to a session's shim.
type shim struct {
	conn *net.UnixConn
	gone chan struct{} // closed when it has left

	mu   sync.Mutex
	last bool // it has been sent its last message
}

var errLeft = errors.New("shim needs no more")

// send sends a message, unless the last one has been sent. It waits for a shim
// that does not read: one that is stopped, or whose terminal is.
func (s *shim) send(t wire.Type, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last {
		return errLeft
	}
	_, err := s.conn.Write(wire.AppendMessage(nil, t, payload))
	return err
}

// end sends the last message.
func (s *shim) end(t wire.Type, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last {
		s.conn.Write(wire.AppendMessage(nil, t, payload))
		s.last = true
	}
}

// leave notes that the shim has closed its end.
func (s *shim) leave() { close(s.gone) }
