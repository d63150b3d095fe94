package virtiotest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/vhostuser"
)

// Messages of a vhost-user front-end.
const (
	MsgGetFeatures         = 1
	MsgSetFeatures         = 2
	MsgSetOwner            = 3
	MsgSetMemTable         = 5
	MsgSetVringNum         = 8
	MsgSetVringAddr        = 9
	MsgSetVringBase        = 10
	MsgGetVringBase        = 11
	MsgSetVringKick        = 12
	MsgSetVringCall        = 13
	MsgGetProtocolFeatures = 15
	MsgSetProtocolFeatures = 16
	MsgGetQueueNum         = 17
	MsgSetVringEnable      = 18
	MsgGetConfig           = 24
	MsgSetConfig           = 25
)

const (
	msgVersion  = 1
	msgReply    = 4
	msgNeedAck  = 8
	protocolBit = 1 << 30

	// frontEnd is where this front-end pretends to have guest memory.
	frontEnd = 0x7f00_0000_0000
)

// A FrontEnd is what QEMU is to a vhost-user device.
type FrontEnd struct {
	d     *Driver
	conn  *net.UnixConn
	done  chan struct{} // Serve has returned
	rings []*Ring
	base  []uint32
}

func newVhostUser(d *Driver) Bus {
	ours, theirs := SocketPair(d)
	f := &FrontEnd{d: d, conn: ours, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		if err := vhostuser.Serve(context.Background(), theirs, d.Device); err != nil {
			d.Report(err)
		}
	}()
	f.Ask(MsgGetFeatures, nil)
	f.Ask(MsgGetProtocolFeatures, nil)
	f.Tell(MsgSetProtocolFeatures, u64(1<<0|1<<3|1<<9))
	if n := binary.LittleEndian.Uint64(f.Ask(MsgGetQueueNum, nil)); n != uint64(len(d.Device.QueueSizes())) {
		d.Errorf("the device has %d queues, not %d", n, len(d.Device.QueueSizes()))
	}
	f.Tell(MsgSetOwner, nil)
	table := u32(1, 0)
	table = append(table, u64(Base)...)
	table = append(table, u64(uint64(len(d.Mem.bytes)))...)
	table = append(table, u64(frontEnd+Base)...)
	table = append(table, u64(0)...)
	f.Tell(MsgSetMemTable, table, d.Mem.Fd)
	return f
}

// SocketPair makes two connected sockets. The caller closes them.
func SocketPair(d interface {
	Helper()
	Fatal(...any)
}) (a, b *net.UnixConn) {
	d.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		d.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		file := os.NewFile(uintptr(fd), "socket pair")
		defer file.Close()
		c, err := net.FileConn(file)
		if err != nil {
			d.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func u32(all ...uint32) (b []byte) {
	for _, v := range all {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// send sends a message. A back-end that is gone has failed, and said so.
func (f *FrontEnd) send(req, flags uint32, payload []byte, fds ...int) bool {
	b := append(u32(req, msgVersion|flags, uint32(len(payload))), payload...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := f.conn.WriteMsgUnix(b, oob, nil)
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		f.d.Errorf("send message %d: %v", req, err)
	}
	return err == nil
}

// receive receives the answer to req; nil from a back-end that is gone.
func (f *FrontEnd) receive(req uint32) []byte {
	f.d.Helper()
	f.conn.SetReadDeadline(time.Now().Add(patience))
	var head [12]byte
	_, err := io.ReadFull(f.conn, head[:])
	if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
		<-f.done
		return nil
	}
	payload := make([]byte, binary.LittleEndian.Uint32(head[8:]))
	if err == nil {
		_, err = io.ReadFull(f.conn, payload)
	}
	if err != nil {
		f.d.Fatalf("answer to message %d: %v", req, err)
	}
	if got, flags := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:]); got != req || flags&msgReply == 0 {
		f.d.Fatalf("answer %d with flags %#x to message %d", got, flags, req)
	}
	return payload
}

// Ask sends a message that has an answer of its own.
func (f *FrontEnd) Ask(req uint32, payload []byte) []byte {
	f.d.Helper()
	if !f.send(req, 0, payload) {
		return nil
	}
	return f.receive(req)
}

// Tell sends a message and waits until it is acknowledged. One that is refused
// ends the connection, and is the driver's failure.
func (f *FrontEnd) Tell(req uint32, payload []byte, fds ...int) {
	f.d.Helper()
	if !f.send(req, msgNeedAck, payload, fds...) {
		return
	}
	f.receive(req)
}

// Features implements Bus.
func (f *FrontEnd) Features() uint64 {
	b := f.Ask(MsgGetFeatures, nil)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b) &^ protocolBit
}

// ReadConfig implements Bus.
func (f *FrontEnd) ReadConfig(off uint32, p []byte) {
	b := f.Ask(MsgGetConfig, append(u32(off, uint32(len(p)), 0), p...))
	if len(b) != 12+len(p) {
		f.d.Errorf("config space of %d bytes at %d: an answer of %d bytes", len(p), off, len(b))
		return
	}
	copy(p, b[12:])
}

// WriteConfig implements Bus.
func (f *FrontEnd) WriteConfig(off uint32, p []byte) {
	f.Tell(MsgSetConfig, append(u32(off, uint32(len(p)), 0), p...))
}

// Start implements Bus.
func (f *FrontEnd) Start(features uint64, rings []*Ring) {
	f.d.Helper()
	f.Tell(MsgSetFeatures, u64(features|protocolBit))
	f.rings, f.base = rings, make([]uint32, len(rings))
	f.Wake()
}

// Wake implements Bus: the rings start, and the device goes on with the last.
func (f *FrontEnd) Wake() {
	for i, r := range f.rings {
		i := uint32(i)
		f.Tell(MsgSetVringNum, u32(i, uint32(r.Size)))
		f.Tell(MsgSetVringBase, u32(i, f.base[i]))
		addr := u32(i, 0)
		for _, gpa := range []uint64{r.Desc, r.Used, r.Avail, 0} {
			addr = append(addr, u64(gpa+frontEnd)...)
		}
		f.Tell(MsgSetVringAddr, addr)
		withFd(r.Kicks, func(fd int) { f.Tell(MsgSetVringKick, u64(uint64(i)), fd) })
		withFd(r.Calls, func(fd int) { f.Tell(MsgSetVringCall, u64(uint64(i)), fd) })
	}
	for i := range f.rings {
		f.Tell(MsgSetVringEnable, u32(uint32(i), 1))
	}
}

// Sleep implements Bus.
func (f *FrontEnd) Sleep() {
	for i := range f.rings {
		f.Tell(MsgSetVringEnable, u32(uint32(i), 0))
		if b := f.Ask(MsgGetVringBase, u32(uint32(i), 0)); b != nil {
			f.base[i] = binary.LittleEndian.Uint32(b[4:])
		}
	}
}

// Reset implements Bus. The device itself is reset when it is started on new
// rings (package vhostuser).
func (f *FrontEnd) Reset() { f.Sleep() }

// Close implements Bus.
func (f *FrontEnd) Close() {
	f.conn.Close()
	<-f.done
}

func withFd(e *eventfd.EventFD, fn func(fd int)) {
	conn, err := e.File().SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { fn(int(fd)) })
	}
	if err != nil {
		panic(err)
	}
}
