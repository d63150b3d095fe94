package vhostuser_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/vhostuser"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// user is where the front-end pretends to have guest memory, of memSize bytes.
const (
	user    = 0x7000_0000_0000
	memSize = 64 << 10
)

// A peer is a front-end that sends what it likes.
type peer struct {
	testing.TB
	conn   *net.UnixConn
	dev    *virtiotest.Echo
	served chan error
	mem    int // memfd
}

// newPeer starts a server. mem is the memfd of guest memory, or -1.
func newPeer(tb testing.TB, mem int) *peer {
	tb.Helper()
	ours, theirs := virtiotest.SocketPair(tb)
	p := &peer{TB: tb, conn: ours, dev: new(virtiotest.Echo), served: make(chan error, 1), mem: mem}
	go func() { p.served <- vhostuser.Serve(context.Background(), theirs, p.dev) }()
	return p
}

func u64(all ...uint64) (b []byte) {
	for _, v := range all {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func u32(all ...uint32) (b []byte) {
	for _, v := range all {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func (p *peer) send(req, flags uint32, payload []byte, fds ...int) {
	p.raw(append(u32(req, flags, uint32(len(payload))), payload...), fds...)
}

// raw sends bytes with descriptors. A server that has gone has said why.
func (p *peer) raw(b []byte, fds ...int) {
	p.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := p.conn.WriteMsgUnix(b, oob, nil); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		p.Fatal(err)
	}
}

// end closes the connection and returns what Serve did.
func (p *peer) end() error {
	p.Helper()
	p.conn.CloseWrite()
	defer p.conn.Close()
	select {
	case err := <-p.served:
		return err
	case <-time.After(10 * time.Second):
		p.Fatal("Serve does not return")
		return nil
	}
}

func memfd(tb testing.TB, size int64) int {
	tb.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

func eventFD(tb testing.TB, flags int) int {
	tb.Helper()
	fd, err := unix.Eventfd(0, flags|unix.EFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

// table is a memory table of one region.
func table(gpa, size, at, offset uint64) []byte {
	return append(u32(1, 0), u64(gpa, size, at, offset)...)
}

// start is what starts ring 0, in order: request, payload, kind of descriptor.
type message struct {
	req     uint32
	payload []byte
	fd      byte
}

const (
	noFd = iota
	memFd
	kickFd
	twoFds
	blockingFd
	pipeFd
	fdKinds
)

func start(size uint32, desc, used, avail uint64) []message {
	return []message{
		{virtiotest.MsgSetFeatures, u64(virtio.FeatureVersion1 | 1<<30), noFd},
		{virtiotest.MsgSetProtocolFeatures, u64(1<<0 | 1<<3 | 1<<9), noFd},
		{virtiotest.MsgSetMemTable, table(0x1000, memSize, user, 0), memFd},
		{virtiotest.MsgSetVringNum, u32(0, size), noFd},
		{virtiotest.MsgSetVringBase, u32(0, 0), noFd},
		{virtiotest.MsgSetVringAddr, append(u32(0, 0), u64(desc, used, avail, 0)...), noFd},
		{virtiotest.MsgSetVringKick, u64(0), kickFd},
		{virtiotest.MsgSetVringCall, u64(0), kickFd},
		{virtiotest.MsgSetVringEnable, u32(0, 1), noFd},
	}
}

var goodStart = start(16, user, user+0x1000, user+0x2000)

// TestBrokenFrontEnds has front-ends that break the rules in one way each: the
// connection ends with an error, and nothing of it is left.
func TestBrokenFrontEnds(t *testing.T) {
	const v = 1
	plain, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := plain.Truncate(memSize); err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	kick := eventFD(t, unix.EFD_NONBLOCK)
	begin := func(p *peer, msgs []message) {
		for _, m := range msgs {
			fds := map[byte][]int{memFd: {p.mem}, kickFd: {kick}}[m.fd]
			p.send(m.req, v, m.payload, fds...)
		}
	}
	any := []error{vhostuser.ErrProtocol, memory.ErrRange, virtio.ErrRing}
	tests := map[string]struct {
		run  func(p *peer)
		want []error
	}{
		"unknown request":        {func(p *peer) { p.send(99, v, nil) }, any[:1]},
		"wrong version":          {func(p *peer) { p.send(1, 2, nil) }, any[:1]},
		"a reply":                {func(p *peer) { p.send(1, v|4, nil) }, any[:1]},
		"a huge message":         {func(p *peer) { p.raw(u32(1, v, 1<<31)) }, any[:1]},
		"a payload that ends":    {func(p *peer) { p.raw(append(u32(2, v, 8), 1, 2, 3)) }, nil},
		"a header that ends":     {func(p *peer) { p.raw([]byte{1, 2, 3}) }, nil},
		"features of 4 bytes":    {func(p *peer) { p.send(2, v, u32(0)) }, any[:1]},
		"features not offered":   {func(p *peer) { p.send(2, v, u64(1<<50)) }, any[:1]},
		"protocol not offered":   {func(p *peer) { p.send(16, v, u64(1<<60)) }, any[:1]},
		"memory without fds":     {func(p *peer) { p.send(5, v, table(0, memSize, user, 0)) }, any[:1]},
		"memory with two fds":    {func(p *peer) { p.send(5, v, table(0, memSize, user, 0), p.mem, p.mem) }, any[:1]},
		"memory of no regions":   {func(p *peer) { p.send(5, v, u32(0, 0)) }, any[:1]},
		"memory cut short":       {func(p *peer) { p.send(5, v, table(0, memSize, user, 0)[:30], p.mem) }, any[:1]},
		"memory of many regions": {func(p *peer) { p.send(5, v, append(u32(1<<28+1, 0), table(0, memSize, user, 0)...), p.mem) }, any[:1]},
		"memory of no bytes":     {func(p *peer) { p.send(5, v, table(0, 0, user, 0), p.mem) }, any[:1]},
		"memory beyond its file": {func(p *peer) { p.send(5, v, table(0, memSize+1, user, 0), p.mem) }, any[:1]},
		"an offset beyond it":    {func(p *peer) { p.send(5, v, table(0, memSize, user, 1), p.mem) }, any[:1]},
		"an offset that wraps":   {func(p *peer) { p.send(5, v, table(0, memSize, user, ^uint64(0)-100), p.mem) }, any[:1]},
		"a size that wraps":      {func(p *peer) { p.send(5, v, table(0, ^uint64(0), user, 0), p.mem) }, any[:1]},
		"addresses that wrap":    {func(p *peer) { p.send(5, v, table(0, memSize, ^uint64(0)-100, 0), p.mem) }, any[:1]},
		"a GPA that wraps":       {func(p *peer) { p.send(5, v, table(^uint64(0)-100, memSize, user, 0), p.mem) }, any[:1]},
		"memory that can shrink": {func(p *peer) { p.send(5, v, table(0, memSize, user, 0), int(plain.Fd())) }, nil},
		"memory that is a pipe":  {func(p *peer) { p.send(5, v, table(0, memSize, user, 0), pipe[0]) }, nil},
		"regions that overlap": {func(p *peer) {
			p.send(5, v, append(u32(2, 0), append(u64(0, memSize, user, 0), u64(memSize-1, memSize, 2*user, 0)...)...), p.mem, p.mem)
		}, any[:1]},
		"too many fds":            {func(p *peer) { p.send(5, v, u32(9, 0), slices.Repeat([]int{p.mem}, 9)...) }, any[:1]},
		"far too many fds":        {func(p *peer) { p.send(5, v, u32(9, 0), slices.Repeat([]int{p.mem}, 100)...) }, any[:1]},
		"a ring that is none":     {func(p *peer) { p.send(8, v, u32(2, 16)) }, any[:1]},
		"a ring too large":        {func(p *peer) { p.send(8, v, u32(0, 65536)) }, any[:1]},
		"a kick without fd":       {func(p *peer) { p.send(12, v, u64(0)) }, any[:1]},
		"a kick of nothing":       {func(p *peer) { p.send(12, v, u64(1<<8)) }, any[:1]},
		"a kick with two fds":     {func(p *peer) { p.send(12, v, u64(0), kick, kick) }, any[:1]},
		"a kick that blocks":      {func(p *peer) { p.send(12, v, u64(0), eventFD(p, 0)) }, any[:1]},
		"a ring with a log":       {func(p *peer) { p.send(9, v, append(u32(0, 1), u64(0, 0, 0, 0)...)) }, any[:1]},
		"config behind its end":   {func(p *peer) { p.send(25, v, append(u32(250, 10, 0), make([]byte, 10)...)) }, any[:1]},
		"config of other length":  {func(p *peer) { p.send(25, v, append(u32(0, 10, 0), 1)) }, any[:1]},
		"config whose sum wraps":  {func(p *peer) { p.send(25, v, append(u32(^uint32(0), 1, 0), 1)) }, any[:1]},
		"start without a size":    {func(p *peer) { begin(p, slices.Concat(goodStart[:3], goodStart[4:])) }, any[:1]},
		"start without addresses": {func(p *peer) { begin(p, slices.Concat(goodStart[:5], goodStart[6:])) }, any[:1]},
		"a size of 3":             {func(p *peer) { begin(p, start(3, user, user+0x1000, user+0x2000)) }, any[2:]},
		"a table outside":         {func(p *peer) { begin(p, start(16, user-1, user+0x1000, user+0x2000)) }, any[1:2]},
		"a table at the end":      {func(p *peer) { begin(p, start(16, user+memSize-16, user+0x1000, user+0x2000)) }, any[1:2]},
		"a used ring outside":     {func(p *peer) { begin(p, start(16, user, user+memSize, user+0x2000)) }, any[1:2]},
		"an odd available ring":   {func(p *peer) { begin(p, start(16, user, user+0x1000, user+0x2001)) }, any[2:]},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			mem := memfd(t, memSize)
			before := openFiles(t)
			p := newPeer(t, mem)
			tt.run(p)
			extra := 0
			if name == "a kick that blocks" {
				extra = 1 // the test's own, until it ends
			}
			err := p.end()
			ok := err != nil && tt.want == nil
			for _, want := range tt.want {
				ok = ok || errors.Is(err, want)
			}
			if !ok {
				t.Errorf("Serve: %v", err)
			}
			t.Log(err)
			if n := openFiles(t) - extra; n != before {
				t.Errorf("%d descriptors, not %d as before", n, before)
			}
			if p.dev.Resets == 0 {
				t.Error("the device was not reset")
			}
		})
	}
}

// What is odd, and all right.
func TestOddFrontEnds(t *testing.T) {
	const v = 1
	for name, run := range map[string]func(p *peer){
		"nothing at all": func(*peer) {},
		"a start with no table": func(p *peer) {
			p.send(virtiotest.MsgSetVringEnable, v, u32(0, 1))
			p.send(virtiotest.MsgSetVringEnable, v, u32(1, 0))
		},
		"a stop with no start":       func(p *peer) { p.send(virtiotest.MsgGetVringBase, v, u32(1, 0)) },
		"fds that nobody asked for":  func(p *peer) { p.send(1, v, nil, p.mem, p.mem) },
		"config that is not there":   func(p *peer) { p.send(24, v, append(u32(300, 1, 0), 0)) },
		"an error descriptor":        func(p *peer) { p.send(14, v, u64(1), p.mem) },
		"a table with an odd offset": func(p *peer) { p.send(5, v, table(0, 100, user, 4097), p.mem) },
		"one message in pieces": func(p *peer) {
			for _, b := range u32(1, v, 0) {
				p.raw([]byte{b})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := memfd(t, memSize)
			before := openFiles(t)
			p := newPeer(t, mem)
			run(p)
			if err := p.end(); err != nil {
				t.Errorf("Serve: %v", err)
			}
			if n := openFiles(t); n != before {
				t.Errorf("%d descriptors, not %d as before", n, before)
			}
		})
	}
}

// Serve ends when its context does, in the middle of things.
func TestContext(t *testing.T) {
	ours, theirs := virtiotest.SocketPair(t)
	defer ours.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- vhostuser.Serve(ctx, theirs, new(virtiotest.Echo)) }()
	why := errors.New("enough")
	cancel(why)
	select {
	case err := <-done:
		if !errors.Is(err, why) {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve goes on")
	}
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}

// FuzzMessages sends whatever messages the input says, with descriptors of
// several kinds, and changes guest memory in between.
func FuzzMessages(f *testing.F) {
	encode := func(msgs []message) (b []byte) {
		for _, m := range msgs {
			b = append(b, byte(m.req), 1, m.fd, byte(len(m.payload)))
			b = append(b, m.payload...)
		}
		return b
	}
	poke := func(off uint16, b ...byte) []byte {
		p := append(binary.LittleEndian.AppendUint16(nil, off), b...)
		return append([]byte{255, 0, 0, byte(len(p))}, p...)
	}
	// A chain of 8 bytes to echo, available.
	ring := slices.Concat(
		poke(0, slices.Concat(u64(0x1000+0x3000), u32(8, 1|1<<16), u64(0x1000+0x3100), u32(8, 2))...),
		poke(0x2000, 0, 0, 1, 0, 0, 0))
	f.Add(encode(goodStart))
	f.Add(slices.Concat(ring, encode(goodStart), encode([]message{
		{virtiotest.MsgSetVringEnable, u32(0, 0), noFd}, {virtiotest.MsgGetVringBase, u32(0, 0), noFd}})))
	f.Add(slices.Concat(encode(goodStart), ring, encode(goodStart[2:3]), encode(goodStart[6:8]), encode(goodStart)))
	f.Add(encode([]message{{1, nil, noFd}, {15, nil, noFd}, {17, nil, noFd}, {3, nil, noFd}, {4, nil, noFd}, {24, append(u32(0, 8, 0), make([]byte, 8)...), noFd},
		{25, append(u32(4, 4, 0), 1, 2, 3, 4), noFd}, {5, append(u32(2, 0), append(u64(0, 4096, user, 4096), u64(4096, 100, 2*user, 7)...)...), twoFds},
		{12, u64(1), blockingFd}}))
	f.Add(encode([]message{{5, table(0, 4096, user, 0), pipeFd}}))
	f.Add([]byte{5, 9, memFd, 40})

	mem := memfd(f, memSize)
	kick, blocking := eventFD(f, unix.EFD_NONBLOCK), eventFD(f, 0)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		f.Fatal(err)
	}
	fds := [fdKinds][]int{memFd: {mem}, kickFd: {kick}, twoFds: {mem, mem}, blockingFd: {blocking}, pipeFd: {pipe[0]}}
	zeros := make([]byte, memSize)
	f.Fuzz(func(t *testing.T, data []byte) {
		unix.Pwrite(mem, zeros, 0)
		before := openFiles(t)
		p := newPeer(t, mem)
		for n := 0; len(data) >= 4 && n < 64; n++ {
			req, flags, fd, size := data[0], data[1], data[2], min(int(data[3]), len(data)-4)
			payload := data[4 : 4+size]
			data = data[4+size:]
			if req == 255 && size > 2 {
				unix.Pwrite(mem, payload[2:], int64(binary.LittleEndian.Uint16(payload)))
				unix.Write(kick, u64(1))
				continue
			}
			p.send(uint32(req), uint32(flags), payload, fds[fd%fdKinds]...)
		}
		p.end()
		if n := openFiles(t); n != before {
			t.Errorf("%d descriptors, not %d as before", n, before)
		}
	})
}
