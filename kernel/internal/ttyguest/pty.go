package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// What the patch adds to the kernel's interface.
const (
	modeWant = 2          // TIOCPKT's third value
	pktWant  = 0x80       // TIOCPKT_WANT
	getWant  = 0x8004547A // TIOCGWANT

	pktIoctl = 0x40       // TIOCPKT_IOCTL
	getPkt   = 0x80045438 // TIOCGPKT
)

const (
	soon  = 5 * time.Second        // what must come, comes by then; slow emulation
	never = 200 * time.Millisecond // what has not come by then, does not come
)

var errTimeout = errors.New("nothing came")

// pty is a master, and the programs on its slave.
type pty struct {
	master int
	slave  string
	out    []byte // output so far
	status byte   // bits of packets that no case has asked for yet
	progs  []*program
}

func openPty(mode int) (*pty, error) {
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	var unlocked, number int32
	if err := ioctl(fd, syscall.TIOCSPTLCK, &unlocked); err != nil {
		return nil, fmt.Errorf("unlock pty: %w", err)
	}
	if err := ioctl(fd, syscall.TIOCGPTN, &number); err != nil {
		return nil, fmt.Errorf("number of pty: %w", err)
	}
	value := int32(mode)
	if err := ioctl(fd, syscall.TIOCPKT, &value); err != nil {
		return nil, fmt.Errorf("packet mode %d: %w", mode, err)
	}
	return &pty{master: fd, slave: "/dev/pts/" + strconv.Itoa(int(number))}, nil
}

func (p *pty) close() {
	for _, prog := range p.progs {
		syscall.Kill(-prog.cmd.Process.Pid, syscall.SIGKILL)
		prog.cmd.Wait()
		prog.says.Close()
	}
	syscall.Close(p.master)
}

// packet waits for a packet with the status bit, and keeps what output and what
// other bits come with it.
func (p *pty) packet(bit byte, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	buf := make([]byte, 4096)
	for {
		if p.status&bit != 0 {
			p.status &^= bit
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 || !readable(p.master, left) {
			return errTimeout
		}
		n, err := syscall.Read(p.master, buf)
		if err != nil {
			return fmt.Errorf("read master: %w", err)
		}
		if n > 0 && buf[0] == 0 {
			p.out = append(p.out, buf[1:n]...)
		} else if n > 0 {
			p.status |= buf[0]
		}
	}
}

// want waits until a reader of so many bytes is reported.
func (p *pty) want(count int) error {
	if err := p.packet(pktWant, soon); err != nil {
		return fmt.Errorf("no word of a reader: %w", err)
	}
	return p.wanted(count)
}

func (p *pty) wanted(count int) error {
	var got int32
	if err := ioctl(p.master, getWant, &got); err != nil {
		return fmt.Errorf("TIOCGWANT: %w", err)
	}
	if int(got) != count {
		return fmt.Errorf("TIOCGWANT says %d, not %d", got, count)
	}
	return nil
}

// quiet makes sure that no reader is reported.
func (p *pty) quiet() error {
	switch err := p.packet(pktWant, never); {
	case err == nil:
		return errors.New("a reader is reported")
	case err == errTimeout:
		return nil
	default:
		return err
	}
}

func (p *pty) write(s string) error {
	if _, err := syscall.Write(p.master, []byte(s)); err != nil {
		return fmt.Errorf("write master: %w", err)
	}
	return nil
}

// program is this binary in a role, leading a session on the slave.
type program struct {
	cmd  *exec.Cmd
	says *os.File
	text *bufio.Reader
}

func (p *pty) start(role ...string) (*program, error) {
	// Not os.OpenFile, which has the runtime's epoll wait for input on what it
	// opens: this process is outside of the slave's session, so that counts.
	fd, err := syscall.Open(p.slave, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.slave, err)
	}
	slave := os.NewFile(uintptr(fd), p.slave)
	defer slave.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd := exec.Command("/proc/self/exe", role...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.ExtraFiles = []*os.File{w} // descriptor 3: what the case wants to know
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	prog := &program{cmd: cmd, says: r, text: bufio.NewReader(r)}
	p.progs = append(p.progs, prog)
	return prog, nil
}

// expect reads the program's next word.
func (g *program) expect(word string) error {
	g.says.SetReadDeadline(time.Now().Add(soon))
	got, err := g.text.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the program does not say %q: %w", word, err)
	}
	if got = strings.TrimSuffix(got, "\n"); got != word {
		return fmt.Errorf("the program says %q, not %q", got, word)
	}
	return nil
}

func readable(fd int, limit time.Duration) bool {
	return poll(fd, pollIn, limit)
}

const (
	pollIn  = 1
	pollOut = 4
)

// poll waits for events; a negative limit is none.
func poll(fd int, events int16, limit time.Duration) bool {
	pfd := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: events}
	ms := -1
	if limit >= 0 {
		ms = int(limit.Milliseconds())
	}
	for {
		// unsafe: the kernel fills pfd, which lives until the call is over.
		n, _, errno := syscall.Syscall(syscall.SYS_POLL, uintptr(unsafe.Pointer(&pfd)), 1, uintptr(ms))
		if errno == syscall.EINTR {
			continue
		}
		return errno == 0 && n == 1
	}
}

func ioctl[T any](fd int, req uint, arg *T) error {
	// unsafe: the kernel reads or fills arg, which lives until the call is over.
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
