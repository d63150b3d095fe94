package broker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// A session is one command.
type session struct {
	broker   *Broker
	id       uint64
	run      wire.Run
	control  *net.UnixConn
	attached chan struct{} // a stream may have come
	streams  []stream      // guarded by broker.mu

	entries  []*entry // by index of the table; nil where there is no stream
	terminal *terminal
	sitter   *net.UnixConn
}

// message is one of the guest's.
type message struct {
	typ     wire.Type
	payload []byte
}

// serve asks whether the request is granted, and runs the command to its end.
func (s *session) serve(reader *wire.Reader) {
	defer s.control.Close()
	ctx, cancel := context.WithCancel(s.broker.ctx)
	defer cancel()
	messages := make(chan message)
	go func() {
		defer cancel() // the guest's process has gone
		defer close(messages)
		for {
			typ, payload, err := reader.Next()
			if err != nil {
				return
			}
			select {
			case messages <- message{typ, append([]byte(nil), payload...)}:
			case <-s.broker.ctx.Done():
				return
			}
		}
	}()
	// So that the goroutine above ends with the session, whatever the guest does.
	defer func() {
		s.control.Close()
		for range messages {
		}
	}()
	// What the guest says meanwhile waits: the answer may take a user's time.
	early := make(chan []message, 1)
	decided := make(chan struct{})
	go func() {
		var list []message
		defer func() { early <- list }()
		for {
			select {
			case m, ok := <-messages:
				if !ok {
					return
				}
				if len(list) < maxEarly {
					list = append(list, m)
				}
			case <-decided:
				return
			}
		}
	}()
	command, e := s.broker.config.Authorize(ctx, &s.run)
	if e == nil {
		e = s.start(command)
	}
	close(decided)
	waiting := <-early
	if e != nil {
		refuse(s.control, e)
		return
	}
	s.drive(waiting, messages)
}

// maxEarly bounds what is kept of what a guest says before its command runs.
const maxEarly = 64

// start makes what stands under the command's descriptors and starts it.
func (s *session) start(c *Command) (e *wire.Error) {
	defer c.Dir.Close()
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if e != nil {
			s.close()
		}
	}()
	fail := func(what string, err error) *wire.Error {
		return &wire.Error{Code: 125, What: "host command: " + what, Why: err.Error()}
	}
	o := order{Path: c.Path, Argv: bytesOf(c.Argv), Env: bytesOf(c.Env), Umask: int(s.run.Umask), Ignored: s.run.Ignored}
	tty, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil && s.run.Terminal != nil {
		tty.Close()
		if s.terminal, tty, err = newTerminal(s.run.Terminal); err == nil {
			s.terminal.out = newOutput(s.broker, s.terminal.master)
		}
		o.Terminal, o.Foreground = true, s.run.Terminal.Foreground
	}
	if err != nil {
		return fail("terminal", err)
	}
	theirs = append(theirs, tty)
	files, made, err := s.makeEntries(tty, &o)
	theirs = append(theirs, made...)
	if err != nil {
		return fail("descriptors", err)
	}
	conn, sitter, err := socketPair()
	if err != nil {
		return fail("sitter", err)
	}
	s.sitter = conn
	theirs = append(theirs, sitter)
	argv := s.broker.config.Sitter
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = append([]*os.File{sitter, c.Dir, tty}, files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o.Terminal {
		cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, sitterTTY
	}
	if err := cmd.Start(); err != nil {
		return fail("sitter", err)
	}
	s.broker.all.Go(func() { cmd.Wait() })
	for _, f := range theirs {
		f.Close() // or our pipes would never end
	}
	theirs = nil
	body, err := json.Marshal(o)
	if err == nil {
		_, err = conn.Write(append(body, '\n'))
	}
	var answer [2]byte
	if err == nil {
		_, err = io.ReadFull(conn, answer[:])
	}
	switch {
	case err != nil:
		return fail("sitter", err)
	case answer[0] == saysFailed:
		return execError(c.Path, syscall.Errno(answer[1]))
	}
	return nil
}

func execError(path string, errno syscall.Errno) *wire.Error {
	code := uint8(126)
	if errno == unix.ENOENT || errno == unix.ENOTDIR {
		code = 127
	}
	return &wire.Error{Code: code, What: path + " on the host", Why: errno.Error()}
}

func bytesOf(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// drive relays until the guest's process has gone: after the command's end it leaves
// when it has all that the command wrote.
func (s *session) drive(early []message, messages <-chan message) {
	defer s.close()
	said := make(chan [2]byte)
	go func() {
		defer close(said)
		for {
			var b [2]byte
			if _, err := io.ReadFull(s.sitter, b[:]); err != nil {
				return
			}
			said <- b
		}
	}()
	defer func() {
		s.sitter.Close() // ends the command, if it has not ended
		for range said {
		}
	}()
	says := said
	s.send(wire.TypeStarted, (&wire.Started{}).Append(nil))
	for _, m := range early {
		s.message(m)
	}
	s.attach()
	ended := false
	for {
		select {
		case <-s.attached: // also after the end: for what the command has written
			s.attach()
		case m, ok := <-messages:
			if !ok {
				return
			}
			if !ended {
				s.message(m)
			}
		case b, ok := <-says:
			switch {
			case ended:
				says = nil
			case !ok:
				return // the control stream ends without an Exit, and says it all
			default:
				ended = s.said(b[0], b[1])
			}
		}
	}
}

// said handles what the sitter says, and reports whether it was the end.
func (s *session) said(what, arg byte) bool {
	switch what {
	case saysStopped:
		m := wire.Stopped{Signal: arg}
		if s.terminal != nil {
			m.After = s.terminal.out.given()
		}
		s.send(wire.TypeStopped, m.Append(nil))
	case saysExited, saysKilled:
		m := s.exit()
		if what == saysExited {
			m.Code = arg
		} else {
			m.Signal = arg
		}
		s.send(wire.TypeExit, m.Append(nil))
		return true
	}
	return false
}

// exit is where the command's streams were when it ended.
func (s *session) exit() *wire.Exit {
	m := &wire.Exit{}
	for i, e := range s.entries {
		if e == nil {
			continue
		}
		if e.out != nil {
			m.Counts = append(m.Counts, wire.Count{Number: uint32(i), Bytes: e.out.last()})
		}
		if e.table.Exact() {
			m.Taken = append(m.Taken, wire.Count{Number: uint32(i), Bytes: e.in.lastTaken()})
		}
	}
	if s.terminal != nil {
		m.Counts = append(m.Counts, wire.Count{Number: wire.TerminalStream, Bytes: s.terminal.out.last()})
	}
	return m
}

func (s *session) message(m message) {
	switch m.typ {
	case wire.TypeSignal:
		var sig wire.Signal
		if sig.Parse(m.payload) != nil || sig.Number == 0 || sig.Number > 64 {
			return
		}
		s.deliver(sig.Number)
	case wire.TypeResume:
		var r wire.Resume
		if r.Parse(m.payload) != nil {
			return
		}
		if r.Terminal != nil && s.terminal != nil {
			s.terminal.setModes(r.Terminal.Termios)
			s.terminal.resize(r.Terminal.Size)
			fore := byte(0)
			if r.Terminal.Foreground {
				fore = 1
			}
			s.tell(toldForeground, fore)
		}
		s.tell(toldGroup, byte(unix.SIGCONT))
	case wire.TypeWinSize:
		var w wire.WinSize
		if w.Parse(m.payload) == nil && s.terminal != nil {
			s.terminal.resize(w)
		}
	case wire.TypeAsk:
		var c wire.Count
		if c.Parse(m.payload) != nil || uint64(c.Number) >= uint64(len(s.entries)) {
			return
		}
		if e := s.entries[c.Number]; e != nil && e.table.Exact() {
			e.in.ask(c.Bytes)
		}
	}
}

// deliver passes a signal on: those that end or stop a job to the whole group, as
// their senders mean it.
func (s *session) deliver(number uint8) {
	switch syscall.Signal(number) {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGTSTP, unix.SIGCONT:
		s.tell(toldGroup, number)
	default:
		s.tell(toldSignal, number)
	}
}

func (s *session) tell(what, arg byte) { s.sitter.Write([]byte{what, arg}) }

func (s *session) send(t wire.Type, payload []byte) {
	s.control.Write(wire.AppendMessage(nil, t, payload))
}

// attach gives the streams that have come to what they belong to.
func (s *session) attach() {
	for _, st := range s.broker.take(s) {
		switch {
		case st.number == wire.TerminalStream && s.terminal != nil && !s.terminal.served:
			s.terminal.served = true
			s.broker.all.Go(func() { s.terminal.serve(st.conn) })
		case uint64(st.number) < uint64(len(s.entries)) && s.entries[st.number] != nil && !s.entries[st.number].served:
			e := s.entries[st.number]
			e.served = true
			s.broker.all.Go(func() { e.serve(st.conn) })
		default:
			st.conn.Close()
		}
	}
}

// close lets go of what was made for the command.
func (s *session) close() {
	if s.sitter != nil {
		s.sitter.Close()
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

// socketPair returns a connection and the file of its other end.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		theirs.Close()
		return nil, nil, errors.New("not a unix socket")
	}
	return u, theirs, nil
}
