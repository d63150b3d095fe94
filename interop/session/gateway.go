package session

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// A First is the first message of a connection, with the descriptors that came
// with it.
type First struct {
	Type    wire.Type
	Payload []byte
	Files   []int
	lost    bool // of descriptors, some did not fit
}

// ErrLost says that descriptors of a message were lost: the process has as many
// open as it may. The message was read to its end.
var ErrLost = errors.New("descriptors were lost: too many are open")

// Close closes the descriptors.
func (f *First) Close() {
	for _, fd := range f.Files {
		unix.Close(fd)
	}
	f.Files = nil
}

// maxRights is how many descriptors one message carries (SCM_MAX_FD).
const maxRights = 253

// Receive reads the first message of a connection. The descriptors come with its
// first byte; nothing beyond its last is read. The caller sets a deadline, closes
// the First, and the connection.
func Receive(conn *net.UnixConn) (*First, error) {
	f, err := receive(conn)
	if err == nil && f.lost {
		f.Close()
		err = ErrLost
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func receive(conn *net.UnixConn) (*First, error) {
	f := &First{}
	var err error
	if f.Type, f.Payload, err = f.read(conn); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// read reads one message and collects what descriptors come with it.
func (f *First) read(conn *net.UnixConn) (wire.Type, []byte, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	head := make([]byte, wire.HeaderSize)
	for n := 0; n < len(head); {
		k, oobn, flags, _, err := conn.ReadMsgUnix(head[n:], oob) // sets MSG_CMSG_CLOEXEC
		if err := f.collect(oob[:oobn]); err != nil {
			return 0, nil, err
		}
		switch {
		case err != nil:
			return 0, nil, err
		case k == 0 && n > 0:
			return 0, nil, wire.ErrTruncated
		case k == 0:
			return 0, nil, io.EOF
		}
		f.lost = f.lost || flags&unix.MSG_CTRUNC != 0
		n += k
	}
	h, err := wire.ParseHeader(head)
	if err != nil {
		return 0, nil, err
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(conn, payload); err != nil {
		return 0, nil, wire.ErrTruncated
	}
	return h.Type, payload, nil
}

func (f *First) collect(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("control message: %w", err)
		}
		f.Files = append(f.Files, fds...)
	}
	return nil
}

// A Gateway hands the sessions that a supervisor accepted on to the vmm process,
// over one connection between the two.
type Gateway struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// NewGateway makes a Gateway of the supervisor's end.
func NewGateway(conn *net.UnixConn) *Gateway { return &Gateway{conn: conn} }

// Forward sends a Run on with the connection that it came on. Both stay the
// caller's, to close: the vmm process has its own then.
func (g *Gateway) Forward(conn *net.UnixConn, f *First) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Forward(g.conn, conn, f)
}

// Forward is Gateway.Forward for callers that do the locking: no two messages may
// be written to the connection at a time.
func Forward(to, conn *net.UnixConn, f *First) error {
	if f.Type != wire.TypeRun {
		return fmt.Errorf("message of type %d cannot be forwarded", f.Type)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	message := wire.AppendMessage(nil, wire.TypeServe, f.Payload)
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		oob := unix.UnixRights(append([]int{int(fd)}, f.Files...)...)
		var n int
		for {
			n, _, sendErr = to.WriteMsgUnix(message[:wire.HeaderSize], oob, nil)
			if n > 0 || !errors.Is(sendErr, unix.ETOOMANYREFS) {
				break
			}
			time.Sleep(time.Millisecond) // too many descriptors of this user are on their way
		}
		message = message[n:]
	})
	if err = errors.Join(err, sendErr); err != nil {
		return err
	}
	_, err = to.Write(message)
	return err
}

// A Request is a Run that the vmm process is to serve.
type Request struct {
	Conn  *net.UnixConn // the shim's
	Run   wire.Run
	Files []int // of the attached entries of the table, in order, and of the terminal
}

// Close closes the connection and the descriptors.
func (q *Request) Close() {
	if q.Conn != nil {
		q.Conn.Close()
	}
	for _, fd := range q.Files {
		unix.Close(fd)
	}
	q.Files = nil
}

// ErrRequest says that a request made no sense; its shim has been told, and the
// next one can be accepted.
var ErrRequest = errors.New("malformed request")

// Accept reads the next request that the supervisor forwarded. After an error
// other than ErrRequest the connection to the supervisor is of no more use.
func Accept(from *net.UnixConn) (*Request, error) {
	first, err := receive(from)
	if err != nil {
		return nil, err
	}
	defer first.Close()
	if first.Type != wire.TypeServe {
		return nil, fmt.Errorf("%w: type %d", ErrRequest, first.Type)
	}
	if len(first.Files) == 0 {
		// A shim whose connection was lost on the way finds it closed.
		return nil, fmt.Errorf("%w: no connection", ErrRequest)
	}
	fd := first.Files[0]
	first.Files = first.Files[1:]
	if first.lost {
		first.Close() // telling the shim takes a descriptor
	}
	q, err := newRequest(fd, first)
	if err != nil {
		return nil, err
	}
	first.Files = nil
	return q, nil
}

// newRequest makes a Request of a shim's connection, which it takes over, and
// message. Unless it fails the descriptors are the request's.
func newRequest(fd int, first *First) (*Request, error) {
	conn, err := unixConn(fd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	q := &Request{Conn: conn}
	err = q.Run.Parse(first.Payload)
	if n := attached(&q.Run); err == nil && first.lost {
		err = ErrLost
	} else if err == nil && len(first.Files) != n {
		err = fmt.Errorf("%d descriptors came with a table for %d", len(first.Files), n)
	}
	if err != nil {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		e := wire.Error{Code: 125, What: "request", Why: err.Error()}
		conn.Write(wire.AppendMessage(nil, wire.TypeError, e.Append(nil)))
		conn.Close()
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	q.Files = first.Files
	return q, nil
}

// attached is how many descriptors come with r.
func attached(r *wire.Run) int {
	n := 0
	for _, d := range r.Table {
		if d.Attached() {
			n++
		}
	}
	if r.Terminal != nil {
		n++
	}
	return n
}

// unixConn makes a connection of fd, a socket of stile's own, which may be made
// non-blocking. It takes fd over.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close() // net.FileConn has a duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, os.ErrInvalid
	}
	return u, nil
}
