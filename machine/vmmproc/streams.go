package vmmproc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/virtio/vsock"
)

// maxStreams bounds the streams of host commands that a guest has open at once.
const maxStreams = 4096

// serveStreams hands the guest's connections to wire.HostCommandPort on to the
// supervisor, as they are: this process may not execute what they ask for, and need
// not understand it. For each one it asks for a connection, and gets it in answer.
func (p *process) serveStreams(l *vsock.Listener, supervisor *net.UnixConn) {
	slots := make(chan struct{}, maxStreams)
	for {
		guest, err := l.AcceptConn()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			guest.Abort()
			continue
		}
		host, err := getStream(supervisor)
		if err != nil {
			guest.Abort()
			<-slots
			if !errors.Is(err, errNoStream) {
				return // the supervisor has ended
			}
			continue
		}
		go func() {
			join(guest, host)
			<-slots
		}()
	}
}

// errNoStream says that the supervisor could not make a connection.
var errNoStream = errors.New("no stream")

// getStream asks the supervisor for a connection: a byte each way, and with the
// answer the descriptor.
func getStream(supervisor *net.UnixConn) (*net.UnixConn, error) {
	if _, err := supervisor.Write([]byte{0}); err != nil {
		return nil, err
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := supervisor.ReadMsgUnix(b, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, errNoStream
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errNoStream
	}
	f := os.NewFile(uintptr(fds[0]), "stream")
	defer f.Close() // net.FileConn has a duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoStream, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errNoStream
	}
	return u, nil
}

// SendStream answers a request for a connection with f, or with none if f is nil.
func SendStream(vmm *net.UnixConn, f *os.File) error {
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	_, _, err := vmm.WriteMsgUnix([]byte{0}, oob, nil)
	return err
}

// AwaitStream waits until the vmm process asks for a connection.
func AwaitStream(vmm *net.UnixConn) error {
	_, err := io.ReadFull(vmm, make([]byte, 1))
	return err
}

// join moves bytes between a connection of the guest's and one to the supervisor,
// each direction to its own end, and closes both.
func join(guest *vsock.Conn, host *net.UnixConn) {
	defer guest.Close()
	defer host.Close()
	done := make(chan struct{})
	go func() {
		select {
		case <-guest.PeerReadClosed():
			host.CloseRead() // the supervisor's next write fails, as one to the guest would
		case <-done:
		}
	}()
	back := make(chan struct{})
	go func() {
		defer close(back)
		if _, err := io.Copy(writeOnly{guest}, host); err != nil {
			host.CloseRead()
		}
		guest.CloseWrite()
	}()
	if _, err := guest.WriteTo(host); err != nil {
		guest.CloseRead()
	}
	host.CloseWrite()
	<-back
	close(done)
}

// writeOnly hides a connection's other methods from io.Copy.
type writeOnly struct{ io.Writer }
