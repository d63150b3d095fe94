// Package child runs the processes that a machine consists of besides its
// supervisor: each dies with the supervisor, however that ends, and none gets
// the terminal's signals.
package child

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// A Process is a running child.
type Process struct {
	cmd  *exec.Cmd
	last tail
	done chan struct{}
	err  error
}

// Start runs cmd in a session of its own. Its stderr is kept in part, for Err,
// unless cmd has one.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.last
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// PR_SET_PDEATHSIG is about the thread that forked, so that thread
		// stays until the child has gone.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// PID is the child's process number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says, after Done, why the child ended: nil for status 0, else its last
// line on stderr, or its status where there is none.
func (p *Process) Err() error {
	<-p.done
	if p.err == nil {
		return nil
	}
	if line := p.last.line(); line != "" {
		return fmt.Errorf("%s", line)
	}
	return fmt.Errorf("%s: %w", p.cmd.Args[0], p.err)
}

// Kill ends the child at once and waits until it has gone. It may be called at
// any time, and again.
func (p *Process) Kill() {
	p.cmd.Process.Kill() // fails only where there is nothing left to kill
	<-p.done
}

// A tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - tailSize; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

func (t *tail) line() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return lines[len(lines)-1]
}
