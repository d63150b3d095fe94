package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/descriptor"
	"github.com/stilehq/stile/interop/wire"
)

// How long guestinit may take: to accept a stream with its Hello, and to say that
// it has started a command, or why not.
const (
	dialLimit   = 10 * time.Second
	answerLimit = 60 * time.Second

	answerPatience = 10 // times as long, while it starts others
)

// killLimit is how long guestinit may take to end the command of a shim that has
// gone.
const killLimit = 5 * time.Second

// A relay is one session.
type relay struct {
	server *Server
	q      *Request
	run    *wire.Run
	since  time.Time

	ctx    context.Context // of everything: canceled when the server closes, or the session broke
	cancel context.CancelFunc

	shim     shim
	entries  []*entry // of the attached entries, in the table's order
	byNumber map[uint32]*entry
	terminal *terminal // nil without one
	work     sync.WaitGroup
	begun    chan struct{} // closed when guestinit has started the command
	ended    chan struct{} // closed when the command has ended, or never will have begun
	endOnce  sync.Once
	in, out  atomic.Uint64 // bytes to and from the guest

	mu       sync.Mutex
	control  Conn    // nil until it is open
	toGuest  *outbox // control messages; nil until then
	answer   *time.Timer
	runs     bool // guestinit has started the command
	pid      uint32
	noticed  bool
	haveExit bool
}

func newRelay(s *Server, q *Request) *relay {
	r := &relay{server: s, q: q, run: &q.Run, since: time.Now(), byNumber: make(map[uint32]*entry),
		begun: make(chan struct{}), ended: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(s.ctx)
	r.shim = shim{conn: q.Conn, gone: make(chan struct{})}
	return r
}

// serve runs the session. When it returns, everything is closed.
func (r *relay) serve() {
	defer r.cancel()
	defer r.q.Close()
	r.count(+1)
	defer r.end()
	if err := r.adopt(); err != nil {
		r.shim.send(wire.TypeError, err.Append(nil))
		r.closeAll()
		return
	}
	stop := context.AfterFunc(r.ctx, r.closeAll)
	defer stop()
	if err := r.begin(); err != nil {
		if r.ctx.Err() == nil { // else the machine ends: the shim will find another
			r.shim.send(wire.TypeError, err.Append(nil))
		}
		r.closeAll()
		r.work.Wait()
		return
	}
	r.work.Wait()
	r.closeAll()
}

// adopt wraps the request's descriptors.
func (r *relay) adopt() *wire.Error {
	files := r.q.Files
	next := func() (*descriptor.Descriptor, error) {
		d, err := r.server.poller.New(files[0])
		files = files[1:]
		r.q.Files = files
		return d, err
	}
	for i, d := range r.run.Table {
		if !d.Attached() {
			continue
		}
		fd, err := next()
		if err != nil {
			return r.error("descriptor "+name(d.Number), err)
		}
		e := &entry{relay: r, table: d, number: uint32(i), fd: fd}
		e.inputs, e.stopInput = context.WithCancel(r.ctx)
		e.inputDone, e.lastTaken = make(chan struct{}), make(chan struct{})
		e.small.wake = make(chan struct{}, 1)
		r.entries = append(r.entries, e)
		r.byNumber[e.number] = e
	}
	if r.run.Terminal != nil {
		fd, err := next()
		if err != nil {
			return r.error("terminal", err)
		}
		r.terminal = newTerminal(r, fd)
	}
	return nil
}

// begin asks guestinit for the command and opens the streams, at the same time.
func (r *relay) begin() *wire.Error {
	control, err := r.dial(wire.StreamControl, 0)
	if err != nil {
		return r.error("guest", err)
	}
	toGuest := r.setControl(control)
	// From here on the request may have an effect.
	if err := r.shim.send(wire.TypeStarted, nil); err != nil {
		return r.error("shim", err)
	}
	if r.server.config.Prepare != nil {
		r.server.config.Prepare(r.run)
	}
	for _, e := range r.entries {
		e.offer()
	}
	r.run.Time = time.Now().UnixNano()
	message := wire.AppendMessage(nil, wire.TypeRun, r.run.Append(nil))
	// Written while the shim is listened to: a guest that does not take the request
	// must not keep a session whose user has left. A failure is readControl's to
	// find, after what guestinit may have said of its reason.
	r.goWork(func() {
		if _, err := control.Write(message); err == nil {
			toGuest.run()
		}
	})
	r.expectAnswer()
	for _, e := range r.entries {
		r.goWork(e.serve)
	}
	if r.terminal != nil {
		r.goWork(r.terminal.serve)
	}
	r.goWork(r.readShim)
	r.goWork(r.readControl)
	return nil
}

func (r *relay) goWork(f func()) {
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		f()
	}()
}

// expectAnswer ends a session whose command guestinit neither starts nor refuses. A
// guest that does so with others meanwhile has much to do: it has the limit's time
// from then on, but no more than answerPatience times the limit in all.
func (r *relay) expectAnswer() {
	limit := cmp.Or(r.server.config.AnswerLimit, answerLimit)
	asked := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = time.AfterFunc(limit, func() {
		r.mu.Lock()
		if r.answer == nil { // it has answered just now
			r.mu.Unlock()
			return
		}
		longest := time.Until(asked.Add(answerPatience * limit))
		if rest := min(time.Until(r.server.lastAnswer().Add(limit)), longest); rest > 0 {
			r.answer.Reset(rest)
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		if longest <= 0 {
			limit *= answerPatience
		}
		r.fail("guest", fmt.Errorf("it has not started the command within %v", limit))
	})
}

// answered says that guestinit has.
func (r *relay) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answer != nil {
		r.answer.Stop()
		r.answer = nil
	}
}

// errHello says that a stream was accepted, and ended before guestinit knew what
// it is.
var errHello = errors.New("stream ended at once")

// dial opens a stream to guestinit and says what it is, within the limit: a guest
// may give no credit for the few bytes of a Hello.
func (r *relay) dial(kind wire.StreamKind, number uint32) (Conn, error) {
	limit := cmp.Or(r.server.config.DialLimit, dialLimit)
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	c, err := r.server.config.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(past) })
	h := wire.Hello{Version: wire.Version, Generation: r.server.config.Generation, Kind: kind, Session: r.run.Session, Number: number}
	_, err = c.Write(wire.AppendMessage(nil, wire.TypeHello, h.Append(nil)))
	if !stop() && err == nil {
		err = ctx.Err() // the deadline is set, or will be
	}
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		err = fmt.Errorf("it takes nothing within %v", limit)
	default:
		err = fmt.Errorf("%w: %w", errHello, err)
	}
	c.Close()
	return nil, err
}

// setControl notes the control stream and makes the outbox for it.
func (r *relay) setControl(c Conn) *outbox {
	r.mu.Lock()
	r.control, r.toGuest = c, newOutbox(c)
	r.mu.Unlock()
	if r.ctx.Err() != nil {
		c.Close()
	}
	return r.toGuest
}

// error is an error of this session for its shim.
func (r *relay) error(what string, err error) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	return &wire.Error{Code: 125, What: "distro " + r.run.Distro, Why: what + ": " + err.Error(),
		Hint: "see: stile logs " + r.run.Distro}
}

// fail ends a session that cannot go on, with words for the shim.
func (r *relay) fail(what string, err error) {
	r.shim.end(wire.TypeError, r.error(what, err).Append(nil))
	r.cancel()
}

// noStream ends a session that gets no data stream. One that guestinit accepts and
// drops belongs to a session that it has ended: it says why on the control stream.
func (r *relay) noStream(err error) {
	if r.ctx.Err() == nil && !errors.Is(err, errHello) {
		r.fail("guest", err)
	}
}

// end notes that the command runs no more.
func (r *relay) end() {
	r.endOnce.Do(func() {
		close(r.ended)
		r.count(-1)
	})
}

// count counts the command among those that run, unless nobody is to wait for it.
func (r *relay) count(by int) {
	if !r.run.Aside {
		r.server.change(by)
	}
}

// closeAll ends whatever waits for anything of this session.
func (r *relay) closeAll() {
	r.cancel()
	r.answered()
	r.mu.Lock()
	control, toGuest := r.control, r.toGuest
	r.mu.Unlock()
	if control != nil {
		control.Close()
		toGuest.finish(nil)
	}
	r.shim.conn.Close()
	for _, e := range r.entries {
		e.small.finish()
		e.close()
	}
	if r.terminal != nil {
		r.terminal.close()
	}
}

// readShim passes on what the shim says, until it is gone. A shim that goes
// before its command has ended takes the command along: guestinit ends it when the
// control stream ends.
func (r *relay) readShim() {
	reader := wire.NewReader(r.shim.conn.Read)
	for {
		typ, payload, err := reader.Next()
		if err == nil {
			err = r.fromShim(typ, payload)
		}
		if errors.Is(err, errOutbox) {
			r.fail("guest", err)
		}
		if err != nil {
			break
		}
	}
	r.shim.leave()
	select {
	case <-r.ended:
	default:
		// guestinit ends the command, and says what there is to say of its output.
		r.control.CloseWrite()
		time.AfterFunc(killLimit, func() { r.control.Close() })
		if r.terminal != nil {
			r.terminal.restore()
		}
		if !r.started() {
			r.cancel() // there is nothing that could outlive the shim
		}
	}
}

func (r *relay) fromShim(typ wire.Type, payload []byte) error {
	switch typ {
	case wire.TypeSignal, wire.TypeResume, wire.TypeWinSize:
		if typ == wire.TypeResume && r.terminal != nil {
			r.terminal.resumed(payload)
		}
		return r.toGuest.put(wire.AppendMessage(nil, typ, payload))
	case wire.TypeBarrier:
		return r.toGuest.put(wire.AppendMessage(nil, wire.TypeEnd, payload))
	case wire.TypeInput:
		if r.terminal != nil {
			return r.terminal.input.put(payload)
		}
	case wire.TypeInputEnd:
		if r.terminal != nil {
			r.terminal.endInput()
		}
	}
	return nil
}

// readControl passes on what guestinit says, until the stream ends. If that is
// before the command's end, guestinit or the machine is lost, which the shim puts
// into words when it finds its connection closed.
func (r *relay) readControl() {
	reader := wire.NewReader(r.control.Read)
	var err error
	for err == nil {
		var typ wire.Type
		var payload []byte
		if typ, payload, err = reader.Next(); err == nil {
			err = r.fromGuest(typ, payload)
		}
	}
	r.answered()
	if errors.Is(err, wire.ErrField) || errors.Is(err, wire.ErrTooLong) {
		r.fail("guest", err)
	}
	r.toGuest.finish(nil)
	r.control.Close()
	for _, e := range r.entries {
		e.small.finish()
	}
	if !r.exited() {
		r.shim.conn.Close()
	} // else it leaves by itself, once it has shown what came before the Exit
	r.end()
}

var errEnd = errors.New("end of session")

func (r *relay) fromGuest(typ wire.Type, payload []byte) error {
	switch typ {
	case wire.TypeStarted:
		var m wire.Started
		if err := m.Parse(payload); err != nil {
			return err
		}
		r.answered()
		now := time.Now()
		r.server.answered.Store(&now)
		for _, n := range m.Opened {
			if e := r.byNumber[n]; e != nil && e.table.File != nil {
				e.opened.Store(true)
			}
		}
		r.mu.Lock()
		again := r.runs
		r.runs, r.pid = true, m.PID
		r.mu.Unlock()
		if !again {
			close(r.begun)
		}
	case wire.TypeError:
		var m wire.Error
		if err := m.Parse(payload); err != nil {
			return err
		}
		r.answered()
		r.end()
		r.shim.end(typ, payload)
		r.cancel()
		return errEnd
	case wire.TypeWrote:
		var m wire.Wrote
		if err := m.Parse(payload); err != nil {
			return err
		}
		if e := r.byNumber[m.Number]; e != nil && e.table.Small() {
			return e.small.put(m.Bytes)
		}
	case wire.TypeOpen:
		var m wire.Count
		if err := m.Parse(payload); err != nil {
			return err
		}
		if e := r.byNumber[m.Number]; e != nil && e.table.Small() {
			return e.small.open()
		}
	case wire.TypeWant:
		r.shim.send(typ, payload) // one that has left needs no more
	case wire.TypeStopped:
		var m wire.Stopped
		if err := m.Parse(payload); err != nil {
			return err
		}
		r.shown(m.After)
		r.shim.send(typ, payload)
	case wire.TypeSetTermios:
		var m wire.Termios
		if err := m.Parse(payload); err != nil {
			return err
		}
		r.shown(m.After)
		if r.terminal != nil {
			r.terminal.set(m.Termios)
		}
		r.shim.send(typ, payload)
	case wire.TypeExit:
		var m wire.Exit
		if err := m.Parse(payload); err != nil {
			return err
		}
		r.exit(&m, payload)
		return errEnd
	}
	return nil
}

// shown waits until n bytes of the terminal's stream are with the shim.
func (r *relay) shown(n uint64) {
	if r.terminal != nil && n > 0 {
		ctx, cancel := r.whileShim()
		defer cancel()
		r.terminal.progress.reach(ctx, n)
	}
}

// whileShim is done when the shim is gone.
func (r *relay) whileShim() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.ctx)
	go func() {
		select {
		case <-r.shim.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// exit reports the command's end, when the shim may leave: what the command wrote
// is written, and what it can read no more is closed, so that whoever writes into
// it finds out.
func (r *relay) exit(m *wire.Exit, payload []byte) {
	r.mu.Lock()
	r.haveExit = true
	r.mu.Unlock()
	r.answered()
	ctx, cancel := r.whileShim()
	defer cancel()
	for _, c := range m.Counts {
		if e := r.byNumber[c.Number]; e != nil {
			e.progress.reach(ctx, c.Bytes)
		} else if c.Number == wire.TerminalStream && r.terminal != nil {
			r.terminal.progress.reach(ctx, c.Bytes)
		}
	}
	for _, c := range m.Taken {
		if e := r.byNumber[c.Number]; e != nil && e.table.Exact() {
			e.take(c.Bytes)
		}
	}
	for _, c := range m.Offsets {
		e := r.byNumber[c.Number]
		if e != nil && e.opened.Load() && c.Bytes != e.offset && c.Bytes <= math.MaxInt64 {
			e.fd.SetOffset(int64(c.Bytes))
		}
	}
	for _, n := range m.Unread {
		if e := r.byNumber[n]; e != nil && e.table.Access == wire.AccessWrite {
			if ctx.Err() == nil { // all is written; else it ends by itself
				e.close()
			}
		} else if e != nil {
			e.endInput(ctx)
		}
	}
	r.end()
	r.shim.end(wire.TypeExit, payload)
}

// started reports whether guestinit has started the command.
func (r *relay) started() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs
}

// exited reports whether guestinit has said how the command ended.
func (r *relay) exited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.haveExit
}

// notice tells the user once what the guest command cannot see.
func (r *relay) notice(what string, err error) {
	r.mu.Lock()
	again := r.noticed
	r.noticed = true
	r.mu.Unlock()
	if again {
		return
	}
	var errno unix.Errno
	why := err.Error()
	if errors.As(err, &errno) {
		why = errno.Error()
	}
	m := wire.Error{What: what, Why: why}
	r.shim.send(wire.TypeNotice, m.Append(nil))
}

func (r *relay) status() Status {
	st := Status{Session: r.run.Session, Argv: r.run.Argv, Since: r.since, In: r.in.Load(), Out: r.out.Load()}
	select {
	case <-r.ended:
		st.Ended = true
	default:
	}
	r.mu.Lock()
	st.PID = r.pid
	r.mu.Unlock()
	return st
}
