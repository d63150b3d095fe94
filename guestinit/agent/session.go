package agent

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/guestinit/spawn"
	"github.com/stilehq/stile/interop/wire"
)

// killDelay is how long a command whose shim is gone has between SIGHUP and
// SIGKILL.
const killDelay = 500 * time.Millisecond

// A session is one command. Everything that happens to it is put into its mail
// and handled by one goroutine, in order.
type session struct {
	agent   *Agent
	id      uint64
	run     wire.Run
	control *sock.Conn
	out     outbox        // to control
	hostEnd chan struct{} // closed when control has ended
	mail    mailbox

	entries  []*entry // by index of the descriptor table; nil where there is no stream
	files    []ownFile
	gonePath string    // see goneFolder
	terminal *terminal // nil without one
	process  *spawn.Process
	started  bool       // by the sitter's word
	early    []fromHost // what the host said before that
	pid      int        // in the distro
	gone     bool       // the sitter has ended

	mu    sync.Mutex
	ended bool // the command has
}

// What a session's mail holds, besides spawn.Event.
type (
	fromHost struct {
		typ     wire.Type
		payload []byte
	}
	hostGone  struct{} // the control stream has ended
	lookAgain struct{} // a process of the distro has ended
	killNow   struct{}
)

func newSession(a *Agent, id uint64, c *sock.Conn) *session {
	s := &session{agent: a, id: id, control: c, hostEnd: make(chan struct{})}
	s.mail.wake = make(chan struct{}, 1)
	s.out.init(c)
	return s
}

// refuse ends a session that never began.
func (s *session) refuse(e *wire.Error) {
	s.control.Write(wire.AppendMessage(nil, wire.TypeError, e.Append(nil)))
	s.control.Close()
}

// start makes what stands under the command's descriptors and starts it.
func (s *session) start() (werr *wire.Error) {
	defer func() {
		if werr != nil {
			s.closeAll()
		}
	}()
	c, e := s.command()
	if e != nil {
		return e
	}
	if s.run.Terminal != nil {
		var err error
		if s.terminal, err = newTerminal(s, c.User); err != nil {
			return &wire.Error{Code: 125, What: "terminal", Why: err.Error()}
		}
		c.Terminal = s.terminal.slave
		c.Foreground = s.run.Terminal.Foreground
	}
	if err := s.makeEntries(c); err != nil {
		return &wire.Error{Code: 125, What: "descriptors", Why: err.Error()}
	}
	p, err := s.agent.opts.Spawner.Start(c, func(e spawn.Event) { s.mail.put(e) })
	s.closeTheirs()
	if err != nil {
		return startError(&s.run, s.agent.opts.Config.Distro, err)
	}
	s.process = p
	return nil
}

// serve handles the session's mail until nothing of it is left.
func (s *session) serve(reader *wire.Reader) {
	go s.out.run()
	go s.read(reader)
	var work sync.WaitGroup
	for _, e := range s.entries {
		if e != nil {
			work.Go(e.serve)
		}
	}
	if s.terminal != nil {
		go s.terminal.pump()
	}
	for !s.gone {
		s.handle(s.mail.take())
	}
	s.out.finish()
	// Streams may come after the command's end, and find its output; processes
	// that it left may go on using them.
	work.Wait()
	if s.terminal != nil {
		s.terminal.awaitStream()
	}
	s.agent.forget(s)
}

func (s *session) read(reader *wire.Reader) {
	for {
		typ, payload, err := reader.Next()
		if err != nil {
			s.mail.put(hostGone{})
			close(s.hostEnd)
			s.endInputs() // nobody will say it any more
			return
		}
		s.mail.put(fromHost{typ, append([]byte(nil), payload...)})
	}
}

func (s *session) handle(m any) {
	switch m := m.(type) {
	case spawn.Event:
		s.event(m)
	case fromHost:
		if s.started || s.hasEnded() {
			s.message(m.typ, m.payload)
		} else {
			// A signal of the terminal's is for the foreground group, which the
			// command has yet to make of itself.
			s.early = append(s.early, m)
		}
	case hostGone:
		if !s.hasEnded() {
			s.process.Signal(unix.SIGHUP)
			s.process.Signal(unix.SIGCONT) // a stopped command takes the signal too
			time.AfterFunc(killDelay, func() { s.mail.put(killNow{}) })
		}
	case killNow:
		s.process.Signal(unix.SIGKILL)
	case lookAgain:
		s.releaseIfEmpty()
	}
}

func (s *session) message(typ wire.Type, payload []byte) {
	switch typ {
	case wire.TypeSignal:
		var m wire.Signal
		if m.Parse(payload) != nil || m.Number == 0 || m.Number > 64 {
			return
		}
		if m.Terminal && s.terminal != nil {
			s.terminal.signal(unix.Signal(m.Number), m.Foreground)
		} else {
			s.deliver(unix.Signal(m.Number))
		}
	case wire.TypeResume:
		var m wire.Resume
		if m.Parse(payload) != nil {
			return
		}
		if m.Terminal != nil && s.terminal != nil {
			s.terminal.resume(m.Terminal)
		}
		s.process.Signal(unix.SIGCONT)
	case wire.TypeAsk:
		var m wire.Count
		if m.Parse(payload) == nil {
			if e := s.entry(m.Number); e != nil {
				e.ask(m.Bytes)
			}
		}
	case wire.TypeEnd:
		var m wire.Count
		if m.Parse(payload) == nil {
			if e := s.entry(m.Number); e != nil {
				e.end()
			}
		}
	case wire.TypeUnread:
		var m wire.Count
		if m.Parse(payload) == nil {
			if e := s.entry(m.Number); e != nil && e.table.Small() {
				e.close()
			}
		}
	case wire.TypeWinSize:
		var m wire.WinSize
		if m.Parse(payload) == nil && s.terminal != nil {
			s.terminal.resize(m)
		}
	}
}

// deliver is for a signal that somebody sent to the shim. Those that end or stop a
// job are the whole group's: timeout(1), a shell's kill %1 and its hang-up send
// them to the group that the command would be in, of which the shim is all that
// there is on the host.
func (s *session) deliver(sig unix.Signal) {
	switch sig {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGTSTP:
		s.process.SignalGroup(sig)
	default:
		s.process.Signal(sig)
	}
}

func (s *session) event(e spawn.Event) {
	if s.gonePath != "" {
		unix.Rmdir(s.inDistro(s.gonePath))
		s.gonePath = ""
	}
	switch e.Kind {
	case spawn.Started:
		s.started, s.pid = true, e.PID
		if s.terminal != nil {
			s.terminal.group = e.PID
		}
		m := wire.Started{PID: uint32(e.PID)}
		for _, f := range s.files {
			m.Opened = append(m.Opened, f.index)
		}
		s.send(wire.TypeStarted, m.Append(nil))
		for _, m := range s.early {
			s.message(m.typ, m.payload)
		}
		s.early = nil
	case spawn.Failed:
		s.setEnded()
		s.send(wire.TypeError, startError(&s.run, s.agent.opts.Config.Distro, e.Err).Append(nil))
	case spawn.Stopped:
		m := wire.Stopped{Signal: uint8(e.Status.StopSignal())}
		if s.terminal != nil {
			m.After = s.terminal.drained()
		}
		s.send(wire.TypeStopped, m.Append(nil))
	case spawn.Ended:
		s.setEnded()
		m := s.exit(e.Status)
		m.Usage = usage(&e.Usage)
		s.send(wire.TypeExit, m.Append(nil))
		s.out.finish()
		s.releaseIfEmpty()
	case spawn.Gone:
		s.gone = true
		s.closeFiles()
		for i := range s.entries {
			if e := s.entry(uint32(i)); e != nil && e.isExact() {
				e.lastTaken()
			}
		}
		if s.terminal != nil {
			s.terminal.close()
		}
	}
}

// exit is how the command ended, and where its streams were at that moment.
func (s *session) exit(status unix.WaitStatus) *wire.Exit {
	m := &wire.Exit{Offsets: s.offsets()}
	if status.Signaled() {
		m.Signal, m.Core = uint8(status.Signal()), status.CoreDump()
	} else {
		m.Code = uint8(status.ExitStatus())
	}
	for i, e := range s.entries {
		if e == nil {
			continue
		}
		if e.table.Small() {
			e.flushSmall()
		}
		if e.table.Access&wire.AccessWrite != 0 {
			m.Counts = append(m.Counts, wire.Count{Number: uint32(i), Bytes: e.given()})
		}
		if e.table.Access != 0 && e.unread() {
			m.Unread = append(m.Unread, uint32(i))
		}
		if e.isExact() {
			m.Taken = append(m.Taken, wire.Count{Number: uint32(i), Bytes: e.lastTaken()})
		}
	}
	if s.terminal != nil {
		m.Counts = append(m.Counts, wire.Count{Number: wire.TerminalStream, Bytes: s.terminal.drained()})
	}
	return m
}

// entry is the one of a number that has a stream, or nil.
func (s *session) entry(number uint32) *entry {
	if int64(number) < int64(len(s.entries)) && s.entries[number] != nil && s.entries[number].ours != nil {
		return s.entries[number]
	}
	return nil
}

// endInputs lets the ends of all inputs count.
func (s *session) endInputs() {
	for i := range s.entries {
		if e := s.entry(uint32(i)); e != nil {
			e.end()
		}
	}
}

// releaseIfEmpty ends the sitter of a session whose last process has ended, and
// with it the terminal. Without a terminal the sitter ends by itself.
func (s *session) releaseIfEmpty() {
	if s.terminal == nil || !s.hasEnded() || s.gone {
		return
	}
	sitter := s.process.Sitter()
	if sitter == 0 || sessionHasOthers(sitter) {
		return
	}
	s.process.Release()
}

func (s *session) send(t wire.Type, payload []byte) {
	s.out.put(wire.AppendMessage(nil, t, payload))
}

func (s *session) setEnded() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
}

func (s *session) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// attach gives a data stream to what it belongs to.
func (s *session) attach(st stream) {
	switch {
	case st.number == wire.TerminalStream && s.terminal != nil:
		s.terminal.attach(st.conn)
	case int64(st.number) < int64(len(s.entries)) && s.entries[st.number] != nil:
		s.entries[st.number].attach(st.conn)
	default:
		st.conn.Close()
	}
}

// closeAll closes what a session that did not start has made.
func (s *session) closeAll() {
	s.closeTheirs()
	s.closeFiles()
	if s.gonePath != "" {
		unix.Rmdir(s.inDistro(s.gonePath))
	}
	for _, e := range s.entries {
		if e != nil {
			e.close()
		}
	}
	if s.terminal != nil {
		s.terminal.close()
	}
}

func (s *session) closeTheirs() {
	for _, e := range s.entries {
		if e != nil {
			e.closeTheirs()
		}
	}
	if s.terminal != nil {
		s.terminal.closeSlave()
	}
}

// startError is why a command did not start, for the user.
func startError(r *wire.Run, distro string, err error) *wire.Error {
	var se *spawn.StartError
	if !errors.As(err, &se) {
		return &wire.Error{Code: 125, What: "distro " + distro, Why: err.Error()}
	}
	name := commandName(r)
	switch se.Step {
	case spawn.StepDir:
		return &wire.Error{Code: 125, What: r.Cwd, Why: se.Errno.Error(), Hint: "choose a folder that the command's user may enter: stile run --cd FOLDER"}
	case spawn.StepExec:
		switch se.Errno {
		case unix.ENOENT, unix.ENOTDIR:
			return &wire.Error{Code: 127, What: name, Why: "command not found in distro " + distro}
		case unix.ENOEXEC:
			return &wire.Error{Code: 126, What: name, Why: "not a program for this machine"}
		case unix.E2BIG:
			return &wire.Error{Code: 126, What: name, Why: se.Errno.Error(), Hint: "pass fewer arguments at a time: xargs does"}
		case unix.EACCES:
			return &wire.Error{Code: 126, What: name, Why: se.Errno.Error(), Hint: "it has to be a file that you may execute: ls -ld " + name}
		}
		return &wire.Error{Code: 126, What: name, Why: se.Errno.Error()}
	}
	return &wire.Error{Code: 125, What: name, Why: se.Error()}
}
