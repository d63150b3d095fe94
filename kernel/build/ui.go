package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// tailLines is how much of the log a failure shows.
const tailLines = 20

// ui tells the user about steps, and keeps what the tools say in a log.
type ui struct {
	out     io.Writer
	live    bool // a line that changes while a step runs
	logPath string
	log     *os.File

	mu    sync.Mutex
	lines int    // that the tools of this step have printed
	last  string // of them
	tail  []string
}

func newUI(out *os.File, logPath string) *ui {
	return &ui{out: out, live: isTerminal(out), logPath: logPath}
}

// isTerminal asks for terminal settings; what has none is no terminal.
func isTerminal(f *os.File) bool {
	var termios syscall.Termios
	// unsafe: the kernel fills the struct, which lives until the call is over.
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TCGETS, uintptr(unsafe.Pointer(&termios)))
	return errno == 0
}

func (u *ui) say(format string, args ...any) {
	fmt.Fprintf(u.out, format+"\n", args...)
}

// openLog starts the log of this build.
func (u *ui) openLog() error {
	f, err := os.Create(u.logPath)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	u.log = f
	return nil
}

// closeLog removes the log when nobody needs it.
func (u *ui) closeLog(ok bool) {
	u.log.Close()
	if ok {
		os.Remove(u.logPath)
	}
}

// step runs a part of the build. It leaves one line with the time taken; on a
// terminal that line is there from the beginning and tells how it goes.
func (u *ui) step(name string, do func() error) error {
	fmt.Fprintf(u.log, "== %s\n", name)
	u.mu.Lock()
	u.lines, u.last, u.tail = 0, "", nil
	u.mu.Unlock()

	start := time.Now()
	done := make(chan struct{})
	var ticking sync.WaitGroup
	if u.live {
		ticking.Go(func() { u.tick(name, start, done) })
	}
	err := do()
	close(done)
	ticking.Wait()
	if u.live {
		fmt.Fprint(u.out, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	u.say("%-10s %8s", name, elapsed(start))
	return nil
}

// tick shows a running step until it is done.
func (u *ui) tick(name string, start time.Time, done <-chan struct{}) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		u.mu.Lock()
		lines, last := u.lines, u.last
		u.mu.Unlock()
		progress := ""
		if lines > 0 {
			progress = fmt.Sprintf("  %5d  %.40s", lines, last)
		}
		fmt.Fprintf(u.out, "\r\x1b[K%-10s %8s%s", name, elapsed(start), progress)
		select {
		case <-done:
			return
		case <-t.C:
		}
	}
}

func elapsed(since time.Time) string {
	return time.Since(since).Round(time.Second / 10).String()
}

// run runs a tool, its output going to the log, and on failure returns an
// error with the end of it.
func (u *ui) run(cmd *exec.Cmd) error {
	fmt.Fprintf(u.log, "$ %s\n", strings.Join(cmd.Args, " "))
	w := &lineWriter{line: u.line}
	out := io.MultiWriter(u.log, w)
	cmd.Stdout, cmd.Stderr = out, out // one writer: exec then uses one pipe
	err := cmd.Run()
	w.flush()
	if err == nil {
		return nil
	}
	fmt.Fprintf(u.log, "%v\n", err)
	return &toolError{name: cmd.Args[0], err: err, tail: u.lastLines(), log: u.logPath}
}

// line takes one line of a tool's output.
func (u *ui) line(l string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lines++
	u.last = strings.Join(strings.Fields(l), " ")
	u.tail = append(u.tail, l)
	if len(u.tail) > tailLines {
		u.tail = u.tail[1:]
	}
}

func (u *ui) lastLines() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.tail...)
}

// toolError is a tool that failed, and what it last said.
type toolError struct {
	name string
	err  error
	tail []string
	log  string
}

func (e *toolError) Unwrap() error { return e.err }

func (e *toolError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v", e.name, e.err)
	if errors.Is(e.err, exec.ErrNotFound) {
		return b.String()
	}
	for _, l := range e.tail {
		fmt.Fprintf(&b, "\n  %s", l)
	}
	fmt.Fprintf(&b, "\nfull log: %s", e.log)
	return b.String()
}

// lineWriter cuts a stream into lines.
type lineWriter struct {
	buf  []byte
	line func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for {
		i := bytes.IndexByte(w.buf, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(strings.TrimRight(string(w.buf[:i]), "\r"))
		w.buf = w.buf[i+1:]
	}
}

// flush hands over a last line that has no end.
func (w *lineWriter) flush() {
	if len(w.buf) > 0 {
		w.line(string(w.buf))
		w.buf = nil
	}
}
