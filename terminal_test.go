package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// terminalLimit is how long a terminal test waits for what must come.
var terminalLimit = 20 * slow * time.Second

// terminal FILE CMD ARG...: runs a command on a pty of its own, as a user at a
// terminal would, and does what the lines of FILE say:
//
//	send TEXT       types TEXT, a Go string without its quotes ("\r", "\x03")
//	expect REGEXP   waits until what was printed since the last match has it
//	absent REGEXP   it was not printed since the last match
//	resize R C      changes the window's size
//	end STATUS      waits for the command's end with that status
//
// The screen starts with 24 rows and 80 columns.
func cmdTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: terminal FILE CMD ARG...")
	}
	path, err := lookPath(ts.Getenv("PATH"), args[1])
	ts.Check(err)
	t, err := startTerminal(path, args[1:], ts.MkAbs("."), environ(ts))
	ts.Check(err)
	defer t.close()
	for i, line := range strings.Split(strings.TrimRight(ts.ReadFile(args[0]), "\n"), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if err := t.step(line); err != nil {
			ts.Fatalf("%s:%d: %s: %v\nprinted since the last match: %q\nbefore: %q", args[0], i+1, line, err, t.rest(), t.before())
		}
	}
}

// A terminal is a command on a pty.
type terminal struct {
	master *os.File
	cmd    *exec.Cmd
	ended  chan struct{}

	mu   sync.Mutex
	out  []byte
	seen int // of out, by expect
}

func startTerminal(path string, argv []string, dir string, env []string) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "pty"), ended: make(chan struct{})}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := t.resize(24, 80); err != nil {
		return nil, err
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	t.cmd = &exec.Cmd{Path: path, Args: argv, Dir: dir, Env: append(env, "TERM=xterm"),
		Stdin: slave, Stdout: slave, Stderr: slave,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true}}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := t.master.Read(buf)
			t.mu.Lock()
			t.out = append(t.out, buf[:n]...)
			t.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		t.cmd.Wait()
		close(t.ended)
	}()
	return t, nil
}

// close hangs up and makes sure that the command has gone.
func (t *terminal) close() {
	t.master.Close()
	select {
	case <-t.ended:
	case <-time.After(5 * time.Second):
		t.cmd.Process.Kill()
		<-t.ended
	}
}

func (t *terminal) rest() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.out[t.seen:])
}

func (t *terminal) before() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.out[:t.seen])
}

func (t *terminal) resize(rows, cols uint16) error {
	var err error
	raw, _ := t.master.SyscallConn()
	raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return err
}

func (t *terminal) step(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "send":
		text, err := strconv.Unquote(`"` + strings.ReplaceAll(rest, `"`, `\"`) + `"`)
		if err != nil {
			return err
		}
		_, err = t.master.WriteString(text)
		return err
	case "expect", "absent":
		re, err := regexp.Compile("(?s)" + rest)
		if err != nil {
			return err
		}
		if verb == "absent" {
			if re.Match(t.rest()) {
				return fmt.Errorf("it was printed")
			}
			return nil
		}
		return t.expect(re)
	case "resize":
		var rows, cols uint16
		if _, err := fmt.Sscan(rest, &rows, &cols); err != nil {
			return err
		}
		return t.resize(rows, cols)
	case "end":
		select {
		case <-t.ended:
		case <-time.After(terminalLimit):
			return fmt.Errorf("it does not end")
		}
		if got := strconv.Itoa(t.cmd.ProcessState.ExitCode()); got != rest {
			return fmt.Errorf("it ended with %s", got)
		}
		return nil
	}
	return fmt.Errorf("unknown verb")
}

func (t *terminal) expect(re *regexp.Regexp) error {
	for end := time.Now().Add(terminalLimit); ; time.Sleep(5 * time.Millisecond) {
		if m := re.FindIndex(t.rest()); m != nil {
			t.mu.Lock()
			t.seen += m[1]
			t.mu.Unlock()
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("it was not printed")
		}
	}
}
