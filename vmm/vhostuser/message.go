package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// ErrProtocol says that the front-end broke the rules of vhost-user.
var ErrProtocol = errors.New("vhost-user protocol violated")

// Requests of a front-end ("Front-end message types").
type request uint32

const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	resetOwner          request = 4
	setMemTable         request = 5
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	setVringErr         request = 14
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
	getConfig           request = 24
	setConfig           request = 25
)

// Header flags.
const (
	versionMask = 3
	version     = 1
	flagReply   = 4 // this is an answer
	flagAck     = 8 // the sender waits for an answer (REPLY_ACK)
)

const (
	headerSize = 12

	// maxPayload bounds a message: the largest that is served is GET_CONFIG
	// with 256 bytes, or a memory table of 8 regions.
	maxPayload = 1024

	// maxFds is VHOST_MEMORY_BASELINE_NREGIONS: the descriptors of a memory
	// table. No other message that is served has more than one.
	maxFds = 8
)

// A message is one request with the descriptors that came with it. Those that
// nobody takes are closed by closeFds.
type message struct {
	req     request
	flags   uint32
	payload []byte
	fds     []int
}

func (m *message) closeFds() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// takeFd takes the message's only descriptor.
func (m *message) takeFd() (int, error) {
	if len(m.fds) != 1 {
		return -1, fmt.Errorf("message %d with %d descriptors: %w", m.req, len(m.fds), ErrProtocol)
	}
	fd := m.fds[0]
	m.fds = nil
	return fd, nil
}

func (m *message) size(n int) error {
	if len(m.payload) != n {
		return fmt.Errorf("message %d of %d bytes, not %d: %w", m.req, len(m.payload), n, ErrProtocol)
	}
	return nil
}

// u64 is the payload of a message that is a number.
func (m *message) u64() (uint64, error) {
	if err := m.size(8); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(m.payload), nil
}

// vringState is the payload of a message about a ring: its index and a number.
func (m *message) vringState() (index, num uint32, err error) {
	if err := m.size(8); err != nil {
		return 0, 0, err
	}
	return binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:]), nil
}

// A wire reads and writes messages on a front-end's connection. Numbers are in
// the host's byte order, which is little-endian wherever stile runs.
type wire struct {
	conn *net.UnixConn
	oob  [256]byte // more than CMSG_SPACE of maxFds descriptors
	buf  [headerSize + maxPayload]byte
}

// read reads the next message. io.EOF is the end between two messages. The
// payload is valid until the next read.
func (w *wire) read() (m message, err error) {
	defer func() {
		if err != nil {
			m.closeFds()
		}
	}()
	head := w.buf[:headerSize]
	if err := w.fill(head, &m.fds); err != nil {
		return m, err
	}
	le := binary.LittleEndian
	m.req, m.flags = request(le.Uint32(head)), le.Uint32(head[4:])
	n := le.Uint32(head[8:])
	if m.flags&versionMask != version || m.flags&flagReply != 0 {
		return m, fmt.Errorf("message %d with flags %#x: %w", m.req, m.flags, ErrProtocol)
	}
	if n > maxPayload {
		return m, fmt.Errorf("message %d of %d bytes: %w", m.req, n, ErrProtocol)
	}
	m.payload = w.buf[headerSize : headerSize+n]
	if err := w.fill(m.payload, &m.fds); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return m, err
	}
	return m, nil
}

// fill reads len(b) bytes, and appends descriptors that come with them to fds.
// They are close-on-exec: package net asks for that (MSG_CMSG_CLOEXEC).
func (w *wire) fill(b []byte, fds *[]int) error {
	for done := 0; done < len(b); {
		n, oobn, flags, _, err := w.conn.ReadMsgUnix(b[done:], w.oob[:])
		got, ferr := descriptors(w.oob[:oobn])
		*fds = append(*fds, got...)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case ferr != nil:
			return ferr
		case flags&unix.MSG_CTRUNC != 0 || len(*fds) > maxFds:
			return fmt.Errorf("message with too many descriptors: %w", ErrProtocol)
		case n == 0 && done == 0:
			return io.EOF
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		done += n
	}
	return nil
}

// descriptors are those in a control message.
func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var all []int
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return all, fmt.Errorf("parse descriptors: %w", err)
		}
		all = append(all, fds...)
	}
	return all, nil
}

// reply answers a request.
func (w *wire) reply(req request, payload []byte) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	le := binary.LittleEndian
	le.PutUint32(b, uint32(req))
	le.PutUint32(b[4:], version|flagReply)
	le.PutUint32(b[8:], uint32(len(payload)))
	_, err := w.conn.Write(append(b, payload...))
	return err
}

func (w *wire) replyU64(req request, v uint64) error {
	return w.reply(req, binary.LittleEndian.AppendUint64(nil, v))
}
