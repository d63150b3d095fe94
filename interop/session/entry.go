package session

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/descriptor"
	"github.com/stilehq/stile/interop/wire"
)

// An entry is an attached one of the descriptor table: a descriptor here and a
// stream to what stands under its number in the guest.
type entry struct {
	relay  *relay
	table  wire.Descriptor
	number uint32 // index in the table
	fd     *descriptor.Descriptor

	mu     sync.Mutex
	stream Conn
	closed bool
	unread bool // nobody reads its output any more

	small     small
	progress  progress        // of output
	inputs    context.Context // done when the guest reads no more
	stopInput context.CancelFunc
	inputDone chan struct{} // closed when input has let go of fd
	opened    atomic.Bool   // the guest has opened the file itself
	offset    uint64        // at which it began then
	taken     atomic.Uint64 // of an Exact one: bytes that the guest has read
	lastTaken chan struct{} // closed when it will say no more of that
	lastOnce  sync.Once
}

// past is a deadline that has passed: it ends reads and writes under way.
var past = time.Unix(1, 0)

// serve moves bytes until both directions have ended.
func (e *entry) serve() {
	defer e.close()
	if e.table.File != nil && e.awaitOpened() {
		e.progress.finish()
		close(e.inputDone)
		<-e.relay.ended // Exit says the offset
		return
	}
	if e.table.Access&wire.AccessWrite != 0 {
		done := make(chan struct{})
		defer close(done)
		go func() {
			select {
			case <-e.fd.Gone(): // without a write, as in `guest-tail -f log | head -1`
				e.refuse()
				e.progress.finish() // there is nothing to wait for
			case <-done:
			}
		}()
	}
	if e.table.Small() && !e.writeSmall() {
		e.progress.finish()
		close(e.inputDone)
		return
	}
	stream, err := e.relay.dial(wire.StreamData, e.number)
	if err != nil {
		e.progress.finish()
		close(e.inputDone)
		e.relay.noStream(err)
		return
	}
	e.setStream(stream)
	var both sync.WaitGroup
	if e.table.Access&wire.AccessWrite != 0 {
		both.Go(e.output)
	} else {
		e.progress.finish()
	}
	if e.table.Access&wire.AccessRead != 0 {
		both.Go(e.input)
	} else {
		close(e.inputDone)
	}
	both.Wait()
}

// offer tells the guest which file an input is, for it may have that file too.
func (e *entry) offer() {
	if !e.table.Exact() || e.table.Kind != wire.KindFile {
		return
	}
	id, ok := e.fd.Identity()
	if !ok {
		return
	}
	e.offset = uint64(id.Offset)
	e.table.File = &wire.File{Path: id.Path, Inode: id.Stat.Ino, Size: uint64(id.Stat.Size), Mtime: id.Stat.Mtim.Nano(), Offset: e.offset}
	e.relay.run.Table[e.number].File = e.table.File
}

// awaitOpened waits until the guest has said whether it has opened the file.
func (e *entry) awaitOpened() bool {
	select {
	case <-e.relay.begun:
		return e.opened.Load()
	case <-e.relay.ended:
	case <-e.relay.ctx.Done():
	}
	return true // there is nothing to serve
}

func (e *entry) setStream(c Conn) {
	e.mu.Lock()
	e.stream = c
	closed, unread := e.closed, e.unread
	e.mu.Unlock()
	switch {
	case closed:
		c.Close()
	case unread:
		e.refuse()
	}
}

// refuse ends the guest's pipe, so that its writer gets SIGPIPE: nobody reads what
// it writes.
func (e *entry) refuse() {
	e.mu.Lock()
	stream := e.stream
	e.unread = true
	e.mu.Unlock()
	if stream != nil {
		stream.CloseRead()
		stream.SetReadDeadline(past)
		return
	}
	m := wire.Count{Number: e.number, Bytes: e.progress.count()}
	e.tell(wire.TypeUnread, &m)
}

// tell sends guestinit a message about the entry.
func (e *entry) tell(t wire.Type, m *wire.Count) {
	if err := e.relay.toGuest.put(wire.AppendMessage(nil, t, m.Append(nil))); err != nil {
		e.relay.fail("guest", err)
	}
}

// close ends both directions.
func (e *entry) close() {
	e.mu.Lock()
	stream := e.stream
	e.closed = true
	e.mu.Unlock()
	e.stopInput()
	if stream != nil {
		stream.Close()
	}
	e.fd.Close()
}

// output writes what the guest writes to its stream.
func (e *entry) output() {
	defer e.progress.finish()
	var buf buffer
	for {
		n, err := e.stream.Read(buf.space())
		if n > 0 && !e.write(buf.used(n)) {
			return
		}
		if err != nil {
			if err == io.EOF && e.table.Kind == wire.KindSocket {
				e.halfClose()
			}
			return
		}
	}
}

// write writes what the guest wrote. A write that fails here ends the guest's pipe;
// that is all that can be told it, so that the user is told the rest.
func (e *entry) write(b []byte) bool {
	m, err := e.fd.Write(e.relay.ctx, b)
	e.progress.add(m)
	e.relay.out.Add(uint64(m))
	if err == nil {
		return true
	}
	e.refuse()
	if !errors.Is(err, unix.EPIPE) && !ended(err) {
		e.relay.notice("write to "+name(e.table.Number), err)
	}
	return false
}

// halfClose passes on that the guest shut down its half of a socket. If its end
// was closed, as it is when guestinit shut down both halves, there is nothing to
// pass on: other holders of the socket go on using it.
func (e *entry) halfClose() {
	select {
	case <-e.stream.PeerReadClosed():
	default:
		e.fd.CloseWrite()
	}
}

// input reads for the guest, until it reads no more.
func (e *entry) input() {
	defer close(e.inputDone)
	defer e.stopInput()
	stop := context.AfterFunc(e.inputs, func() { e.stream.SetWriteDeadline(past) })
	defer stop()
	go func() {
		select {
		case <-e.stream.PeerReadClosed():
			e.stopInput()
		case <-e.inputs.Done():
		}
	}()
	read := e.fd.Read
	if e.table.Exact() {
		told := make(chan struct{})
		go func() {
			defer close(told)
			e.takings()
		}()
		defer e.awaitTakings(told)
		if e.fd.Peeks() {
			read = e.peek
		}
	} else if e.table.Access&wire.AccessWrite == 0 {
		defer e.fd.Close()
	}
	var buf buffer
	for {
		n, err := read(e.inputs, buf.space())
		if n > 0 {
			m, werr := e.stream.Write(buf.used(n))
			e.relay.in.Add(uint64(max(m, 0)))
			if werr != nil {
				break
			}
		}
		if err == nil {
			continue
		}
		if !ended(err) {
			if err != io.EOF {
				e.relay.notice("read from "+name(e.table.Number), err)
			}
			e.stream.CloseWrite()
			e.endOfInput()
			e.hold()
		}
		break
	}
}

// peek reads ahead of the guest, who then says what it has read.
func (e *entry) peek(ctx context.Context, b []byte) (int, error) {
	return e.fd.Peek(ctx, b, func() {
		e.tell(wire.TypeAsk, &wire.Count{Number: e.number, Bytes: e.taken.Load()})
	})
}

// takings takes from the descriptor what the guest has read, as it says on the
// stream's way back, until it reads no more.
func (e *entry) takings() {
	defer e.stopInput()
	var b [8]byte
	for {
		if _, err := io.ReadFull(e.stream, b[:]); err != nil {
			return
		}
		e.take(binary.LittleEndian.Uint64(b[:]))
	}
}

// take takes as many bytes as make total. They are gone when it returns, whoever was
// told of them first: the next reader may be about to start.
func (e *entry) take(total uint64) {
	for {
		before := e.taken.Load()
		if total <= before || e.taken.CompareAndSwap(before, total) {
			break
		}
	}
	e.fd.Take(total)
}

// awaitTakings waits for the guest's last word of what it has read; that may be its
// Exit. Then the descriptor is let go of.
func (e *entry) awaitTakings(told chan struct{}) {
	select {
	case <-told:
	case <-e.lastTaken:
	case <-e.relay.ended:
	case <-e.relay.ctx.Done():
	}
	e.fd.Close()
}

// endOfInput says that the input has ended, once the shim has said which signals
// came before that.
func (e *entry) endOfInput() {
	if e.table.Kind != wire.KindPipe || !e.table.Exact() {
		return
	}
	m := wire.Count{Number: e.number}
	e.relay.shim.send(wire.TypeBarrier, m.Append(nil)) // a shim that has gone takes the control stream along
}

// hold keeps a descriptor that has been read to its end as long as the guest has
// it open: a FIFO's next writer must find a reader.
func (e *entry) hold() {
	select {
	case <-e.inputs.Done():
	case <-e.relay.ended:
	}
}

// endInput closes a descriptor that no guest process can read any more, and of
// which the guest has said the last.
func (e *entry) endInput(ctx context.Context) {
	e.lastOnce.Do(func() { close(e.lastTaken) })
	e.stopInput()
	select {
	case <-e.inputDone:
	case <-ctx.Done():
	}
}

// ended reports whether an operation was ended from here.
func ended(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, descriptor.ErrClosed)
}

// name is what a user calls a descriptor.
func name(number uint32) string {
	switch number {
	case 0:
		return "standard input"
	case 1:
		return "standard output"
	case 2:
		return "standard error"
	}
	return "descriptor " + strconv.Itoa(int(number))
}

// A buffer starts small, since most streams carry little and a thousand may be
// open, and grows when it is filled.
type buffer struct{ b []byte }

const (
	bufferMin = 4 << 10
	bufferMax = 128 << 10
)

func (b *buffer) space() []byte {
	if b.b == nil {
		b.b = make([]byte, bufferMin)
	}
	return b.b
}

func (b *buffer) used(n int) []byte {
	used := b.b[:n]
	if n == len(b.b) && n < bufferMax {
		b.b = make([]byte, 2*n)
	}
	return used
}
