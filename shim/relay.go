package main

import (
	"syscall"

	"github.com/stilehq/stile/interop/wire"
)

// pollerRead is how much of the terminal's input a guest process gets that polls
// and has not said how much it will read.
const pollerRead = 4096

// session is the one command that the shim has run.
type session struct {
	call     *call
	signals  signals
	terminal terminal
	table    []wire.Descriptor

	socket  int
	out     []byte // for the machine
	rights  []int  // descriptors that go with the first byte of out
	in      []byte // from the machine, not yet a whole message
	started bool   // the machine has taken the request
	display []byte // for the terminal
	want    int64  // how much terminal input the guest waits for; -1: none
}

// relay serves the session until it ends, which ends the shim. It returns if the
// machine went away before it had taken the request.
func (s *session) relay() {
	const (
		onSocket = iota
		onSignal
		onPipe
		onTerminal
	)
	fds := [4]pollFD{
		onSignal: {fd: int32(s.signals.fd), events: pollIn},
		onPipe:   {fd: int32(s.signals.pipe), events: pollIn},
	}
	open := true
	for {
		if open {
			s.send()
		}
		if !s.messages() || !open && len(s.display) == 0 {
			if s.lost() {
				return
			}
		}
		fds[onSocket] = pollFD{fd: int32(s.socket)}
		if len(s.display) == 0 {
			fds[onSocket].events |= pollIn
		}
		if len(s.out) > 0 {
			fds[onSocket].events |= pollOut
		}
		if fds[onSocket].events == 0 || !open {
			fds[onSocket].fd = -1 // its end would wake the loop for nothing
		}
		fds[onTerminal] = pollFD{fd: -1}
		if len(s.display) > 0 {
			fds[onTerminal] = pollFD{fd: int32(s.terminal.fd), events: pollOut}
		} else if s.want >= 0 && !s.terminal.hungUp {
			fds[onTerminal] = pollFD{fd: int32(s.terminal.fd), events: pollIn}
		}
		poll(fds[:], true)
		if fds[onSignal].revents|fds[onPipe].revents != 0 {
			s.takeSignals()
		}
		if fds[onTerminal].revents != 0 {
			if len(s.display) > 0 {
				s.show()
			} else {
				s.readTerminal()
			}
		}
		if fds[onSocket].events&pollIn != 0 && fds[onSocket].revents != 0 {
			open = s.receive()
		}
	}
}

// send writes what the socket takes at once.
func (s *session) send() {
	for len(s.out) > 0 {
		var oob []byte
		if len(s.rights) > 0 {
			oob = syscall.UnixRights(s.rights...)
		}
		n, err := syscall.SendmsgN(s.socket, s.out, oob, nil, syscall.MSG_NOSIGNAL)
		switch err {
		case nil:
			s.out, s.rights = s.out[n:], nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return
		case syscall.ETOOMANYREFS: // the user has too many descriptors on their way
			pause := syscall.Timespec{Nsec: 1e6}
			syscall.Nanosleep(&pause, nil)
		default:
			s.out = nil // it is gone; what it wrote before is still to be read
		}
	}
	s.out = nil
}

// receive reads what has arrived, and reports whether there may be more.
func (s *session) receive() bool {
	if cap(s.in)-len(s.in) < 32<<10 {
		s.in = append(make([]byte, 0, len(s.in)+64<<10), s.in...)
	}
	n, err := syscall.Read(s.socket, s.in[len(s.in):cap(s.in)])
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	s.in = s.in[:len(s.in)+n]
	return true
}

// messages handles the whole messages that have arrived, in order: none before
// what the terminal has to show first. It reports whether they were well formed.
func (s *session) messages() bool {
	for len(s.display) == 0 && len(s.in) >= wire.HeaderSize {
		h, err := wire.ParseHeader(s.in)
		if err != nil {
			return false
		}
		end := wire.HeaderSize + int(h.Length)
		if len(s.in) < end {
			break
		}
		body := s.in[wire.HeaderSize:end]
		s.in = s.in[end:]
		if s.message(h.Type, body) != nil {
			return false
		}
	}
	return true
}

func (s *session) message(t wire.Type, body []byte) error {
	switch t {
	case wire.TypeStarted:
		if !s.started {
			s.started = true
			release(s.table)
			if s.signals.changed {
				s.resume()
			}
		}
	case wire.TypeOutput:
		if s.terminal.fd >= 0 {
			s.display = append(s.display, s.terminal.output(body)...)
			s.show()
		}
	case wire.TypeWant:
		var m wire.Want
		if err := m.Parse(body); err != nil {
			return err
		}
		if s.terminal.fd < 0 || s.terminal.hungUp {
			break
		}
		s.want = int64(m.Bytes)
		if s.want > 0 && !s.terminal.foreground() {
			s.stop(int(syscall.SIGTTIN)) // as a read does at once
		}
	case wire.TypeSetTermios:
		var m wire.Termios
		if err := m.Parse(body); err != nil {
			return err
		}
		if s.terminal.fd >= 0 {
			s.terminal.set(m.Termios)
		}
	case wire.TypeStopped:
		var m wire.Stopped
		if err := m.Parse(body); err != nil {
			return err
		}
		s.stop(int(m.Signal))
	case wire.TypeBarrier:
		s.signals.read(s.forward)
		s.post(wire.TypeBarrier, body)
	case wire.TypeNotice, wire.TypeError:
		var m wire.Error
		if err := m.Parse(body); err != nil {
			return err
		}
		if t == wire.TypeError {
			s.terminal.restore()
			if m.Code == 127 && m.Hint == "" {
				m.Hint = "install it there, or name another distro: stile run -d NAME"
				if link := s.call.link; link != "" {
					m.Hint = "install it there, or take the link away: stile unlink " + link
				}
			}
			fail(&m)
		}
		printError(&m)
	case wire.TypeExit:
		var m wire.Exit
		if err := m.Parse(body); err != nil {
			return err
		}
		if s.call.Rusage {
			say(usage(m.Usage))
		}
		if m.Signal > 0 && m.Signal <= 64 {
			die(int(m.Signal))
		}
		exit(int(m.Code))
	}
	return nil
}

// lost ends the shim whose machine has gone. Before the machine had taken the
// request it cleans up and reports true: another one can have it.
func (s *session) lost() bool {
	if s.started {
		s.terminal.restore()
		fail(&wire.Error{Code: 125, What: "distro " + s.call.Distro, Why: "the machine ended while the command ran",
			Hint: "see: stile logs " + s.call.Distro})
	}
	syscall.Close(s.socket)
	s.in, s.out = nil, nil
	return true
}

// show writes to the terminal what it takes. What a terminal that is gone does
// not take is lost, as it would be for a local command.
func (s *session) show() {
	for len(s.display) > 0 {
		n, err := syscall.Write(s.terminal.fd, s.display)
		switch {
		case err == syscall.EAGAIN:
			return
		case err == syscall.EINTR:
		case err != nil:
			s.display = s.display[:0]
		default:
			s.display = s.display[n:]
		}
	}
	s.display = nil
}

func (s *session) post(t wire.Type, payload []byte) {
	s.out = wire.AppendMessage(s.out, t, payload)
}

// readTerminal reads what the guest asked for, now that there is something.
func (s *session) readTerminal() {
	size := s.want
	if size == 0 || size > pollerRead {
		size = pollerRead
	}
	var b [pollerRead]byte
	n, result := s.terminal.read(b[:size])
	switch result {
	case readBytes:
		s.want = -1
		s.post(wire.TypeInput, b[:n])
	case readHangup:
		s.terminal.hungUp = true
		s.want = -1
		s.post(wire.TypeInputEnd, nil)
	case readBackground:
		s.stop(int(syscall.SIGTTIN))
	}
}

// takeSignals passes signals on to the command. Whoever sends one because of
// something that the command did is right that it runs: the machine's word of
// that has arrived, though it may not have been read.
func (s *session) takeSignals() {
	if !s.started {
		s.receive()
		s.messages()
	}
	if s.started {
		s.signals.read(s.forward)
	} else {
		s.signals.local()
	}
}

func (s *session) forward(sig signal) {
	t := &s.terminal
	byTerminal := sig.code == siKernel && t.fd >= 0
	switch syscall.Signal(sig.number) {
	case syscall.SIGCONT:
		s.resume()
		return
	case syscall.SIGWINCH:
		if byTerminal {
			size := t.size()
			s.post(wire.TypeWinSize, size.Append(nil))
			return
		}
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP:
	default:
		byTerminal = false
	}
	m := wire.Signal{Number: uint8(sig.number), Terminal: byTerminal, Foreground: t.foreground()}
	s.post(wire.TypeSignal, m.Append(nil))
}

// stop stops the shim as the command has stopped, and has the command go on when
// the shim does. A signal of the terminal's for its readers and writers goes to
// the whole group, as the kernel sends it; if the group is in the foreground by
// now, the command just goes on.
func (s *session) stop(number int) {
	group := false
	switch syscall.Signal(number) {
	case syscall.SIGTTIN, syscall.SIGTTOU:
		if s.terminal.foreground() {
			s.resume()
			return
		}
		group = true
	case syscall.SIGTSTP, syscall.SIGSTOP:
	default:
		return
	}
	raise(number, group)
	var arrived []signal
	s.signals.read(func(sig signal) { arrived = append(arrived, sig) })
	continued := false
	for _, sig := range arrived {
		continued = continued || sig.number == int(syscall.SIGCONT)
		s.forward(sig) // SIGCONT: Resume
	}
	if !continued {
		s.orphaned(group)
	}
}

// orphaned has a command go on that has stopped though the kernel did not stop
// the shim: nobody could continue an orphaned process group. A read of the
// terminal from there fails, so that its input ends.
func (s *session) orphaned(input bool) {
	state := s.terminal.state()
	if state != nil {
		state.Foreground = true
	}
	if input && !s.terminal.hungUp {
		s.terminal.hungUp = true
		s.want = -1
		s.post(wire.TypeInputEnd, nil)
	}
	s.post(wire.TypeResume, (&wire.Resume{Terminal: state}).Append(nil))
}

func (s *session) resume() {
	s.post(wire.TypeResume, (&wire.Resume{Terminal: s.terminal.state()}).Append(nil))
}
