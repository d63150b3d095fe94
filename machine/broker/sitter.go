package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SitterCommand is the subcommand of stile that calls SitterMain.
const SitterCommand = "sitter"

// killDelay is how long a command has between SIGHUP and SIGKILL when the guest's
// process has gone.
const killDelay = 500 * time.Millisecond

// An order is what a sitter is told first: what to run. The descriptors follow the
// control connection's, in the order of Files.
type order struct {
	Path       string   `json:"path"`
	Argv       [][]byte `json:"argv"` // any bytes, as JSON takes them
	Env        [][]byte `json:"env"`
	Umask      int      `json:"umask"`
	Ignored    uint64   `json:"ignored"` // bit n-1: signal n is ignored
	Files      []int    `json:"files"`   // the command's number of each
	Terminal   bool     `json:"terminal"`
	Foreground bool     `json:"foreground"`
}

// The descriptors of a sitter: of the control connection, the working folder, the
// terminal, which is /dev/null without one, and the first of the command's.
const (
	sitterControl = 3
	sitterDir     = 4
	sitterTTY     = 5
	sitterFiles   = 6
)

// What a sitter says, and what it is told: a byte each, and its argument.
const (
	saysStarted = 's' // 0
	saysFailed  = 'f' // errno
	saysStopped = 't' // signal
	saysExited  = 'e' // status
	saysKilled  = 'k' // signal

	toldSignal     = 'S' // signal, for the command
	toldGroup      = 'G' // signal, for its group
	toldForeground = 'F' // 1: the command's group has the terminal; 0: the sitter's
)

// SitterMain is the sitter: it runs one command and returns when that has ended, or
// when the broker has gone. The exit status says nothing.
func SitterMain() int {
	if err := sit(); err != nil {
		fmt.Fprintf(os.Stderr, "stile: sitter: %v\n", err)
		return 1
	}
	return 0
}

// A sitter is the state of one.
type sitter struct {
	control *os.File
	pid     int
	told    chan [2]byte // closed when the broker has gone
	tty     bool
}

func sit() error {
	for fd := sitterControl; fd < sitterFiles+256; fd++ {
		syscall.CloseOnExec(fd)
	}
	s := &sitter{control: os.NewFile(sitterControl, "control"), told: make(chan [2]byte)}
	// Signals of the terminal's hang-up, and of other sessions, are not its end.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	var o order
	// The broker says nothing after it before it is answered.
	if err := json.NewDecoder(s.control).Decode(&o); err != nil {
		return fmt.Errorf("it is a part of stile's, and of no use alone: %w", err)
	}
	s.tty = o.Terminal
	err := s.start(&o)
	for fd := sitterDir; fd < sitterFiles+len(o.Files); fd++ {
		if fd != sitterTTY {
			syscall.Close(fd) // a pipe ends with its last holder
		}
	}
	if err != nil {
		errno := syscall.EIO
		errors.As(err, &errno)
		return s.say(saysFailed, byte(errno))
	}
	if err := s.say(saysStarted, 0); err != nil {
		s.end()
		return nil
	}
	go s.listen()
	s.serve()
	return nil
}

func (s *sitter) start(o *order) error {
	if err := syscall.Fchdir(sitterDir); err != nil {
		return err
	}
	for n := 1; n <= 64; n++ {
		if o.Ignored>>(n-1)&1 != 0 && n != int(syscall.SIGKILL) && n != int(syscall.SIGSTOP) && n != int(syscall.SIGCHLD) {
			signal.Ignore(syscall.Signal(n))
		}
	}
	syscall.Umask(o.Umask & 0o777)
	attr := &syscall.ProcAttr{Env: texts(o.Env), Sys: &syscall.SysProcAttr{Setpgid: true}}
	if o.Terminal && o.Foreground {
		attr.Sys.Foreground, attr.Sys.Ctty = true, sitterTTY
	}
	for i, n := range o.Files {
		for len(attr.Files) <= n {
			attr.Files = append(attr.Files, ^uintptr(0)) // closed
		}
		attr.Files[n] = uintptr(sitterFiles + i)
	}
	pid, err := syscall.ForkExec(o.Path, texts(o.Argv), attr)
	s.pid = pid
	return err
}

func texts(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

func (s *sitter) say(what, arg byte) error {
	_, err := s.control.Write([]byte{what, arg})
	return err
}

// listen reads what the broker tells.
func (s *sitter) listen() {
	defer close(s.told)
	var b [2]byte
	for {
		if _, err := io.ReadFull(s.control, b[:]); err != nil {
			return
		}
		s.told <- b
	}
}

// serve tells what becomes of the command, and does what it is told, until the
// command has ended.
func (s *sitter) serve() {
	states := make(chan syscall.WaitStatus)
	go func() {
		for {
			var st syscall.WaitStatus
			_, err := syscall.Wait4(s.pid, &st, syscall.WUNTRACED|syscall.WCONTINUED, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				close(states)
				return
			}
			states <- st
			if st.Exited() || st.Signaled() {
				return
			}
		}
	}()
	for {
		select {
		case st, ok := <-states:
			switch {
			case !ok:
				return
			case st.Stopped():
				s.say(saysStopped, byte(st.StopSignal()))
			case st.Exited() || st.Signaled():
				// What the command has left must not be hung up with the terminal, as
				// it would be where the terminal's foreground group is its.
				s.foreground(false)
				if st.Exited() {
					s.say(saysExited, byte(st.ExitStatus()))
				} else {
					s.say(saysKilled, byte(st.Signal()))
				}
				return
			}
		case m, ok := <-s.told:
			if !ok {
				s.told = nil
				go func() {
					for range states {
					}
				}()
				s.end()
				return
			}
			s.do(m[0], m[1])
		}
	}
}

func (s *sitter) do(what, arg byte) {
	switch what {
	case toldSignal:
		syscall.Kill(s.pid, syscall.Signal(arg))
	case toldGroup:
		syscall.Kill(-s.pid, syscall.Signal(arg))
	case toldForeground:
		s.foreground(arg == 1)
	}
}

// end ends the command's group: the guest's process has gone.
func (s *sitter) end() {
	syscall.Kill(-s.pid, syscall.SIGHUP)
	syscall.Kill(-s.pid, syscall.SIGCONT) // a stopped process takes the signal too
	for end := time.Now().Add(killDelay); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if syscall.Kill(-s.pid, 0) != nil {
			return
		}
	}
	syscall.Kill(-s.pid, syscall.SIGKILL)
}

// foreground gives the terminal to the command's group, or takes it: whoever reads
// it then is stopped.
func (s *sitter) foreground(command bool) {
	if !s.tty {
		return
	}
	group := os.Getpid()
	if command {
		group = s.pid
	}
	// From the background this is a write to the terminal: SIGTTOU must not come.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old)
	unix.IoctlSetPointerInt(sitterTTY, unix.TIOCSPGRP, group)
	unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
}
