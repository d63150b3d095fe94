// Package hostcmd is the guest's half of a command of the host's: a process in the
// distro that stands for it. It asks the host for the command (package wire, host
// commands), moves the bytes of its descriptors, and ends as the command does. It is
// guestinit's own program, executed by another name or by binfmt_misc for a stub, and
// needs nothing but a vsock: no socket's path and no variable that could be stale.
package hostcmd

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// Main runs the command that this process was started for. It does not return.
func Main() {
	execFD := auxiliary(atExecFD)
	c, e := newCall(os.Args, execFD)
	if e != nil {
		fail(e)
	}
	if execFD >= 0 {
		unix.Close(execFD)
	}
	s := &session{call: c, id: lot()}
	s.run()
}

// A call is what this process was asked to do.
type call struct {
	command string   // name, or path on the host
	argv    []string // of the host command
}

// newCall finds out which command this process stands for. For a stub the kernel has
// put the interpreter and the stub's path in front of the arguments, argv[0]
// included (binfmt_misc's flag P), and left the stub open (O).
func newCall(args []string, execFD int) (*call, *wire.Error) {
	if execFD >= 0 && len(args) >= 2 {
		name, err := readStub(execFD)
		if err != nil {
			return nil, &wire.Error{Code: 126, What: args[1], Why: err.Error(), Hint: "make it again on the host: stile host link"}
		}
		return &call{name, append([]string{name}, args[min(3, len(args)):]...)}, nil
	}
	if len(args) < 2 {
		return nil, &wire.Error{Code: 125, What: "host", Why: "no command", Hint: "usage: host COMMAND [ARGUMENT...]"}
	}
	switch args[1] {
	case "-h", "--help":
		os.Stdout.WriteString(usage)
		os.Exit(0)
	case "--":
		if args = args[1:]; len(args) < 2 {
			return nil, &wire.Error{Code: 125, What: "host", Why: "no command", Hint: "usage: host COMMAND [ARGUMENT...]"}
		}
	default:
		if strings.HasPrefix(args[1], "-") {
			return nil, &wire.Error{Code: 125, What: "host", Why: "there is no flag " + args[1], Hint: "usage: host COMMAND [ARGUMENT...]"}
		}
	}
	return &call{args[1], args[1:]}, nil
}

const usage = `usage: host COMMAND [ARGUMENT...]

Runs a command of the host that this distro's guest runs on. What may be run says
the host's user, there: stile host allow COMMAND.
`

// readStub is the command's name in a stub.
func readStub(fd int) (string, error) {
	b := make([]byte, len(wire.StubMagic)+257)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		return "", err
	}
	rest, ok := strings.CutPrefix(string(b[:n]), wire.StubMagic)
	name, _, end := strings.Cut(rest, "\n")
	if !ok || !end || name == "" || strings.ContainsAny(name, "/\x00") {
		return "", errors.New("the stub of a host command is damaged")
	}
	return name, nil
}

// Entries of the auxiliary vector that the kernel gives a program.
const atExecFD = 2

// auxiliary is an entry of this process's, -1 if there is none. No /proc is needed
// for it, which a chroot may lack.
func auxiliary(kind uintptr) int {
	list, err := unix.Auxv()
	if err != nil {
		return -1
	}
	for _, e := range list {
		if e[0] == kind {
			return int(e[1])
		}
	}
	return -1
}

// lot is a number that nobody guesses.
func lot() uint64 {
	var b [8]byte
	for {
		if n, err := unix.Getrandom(b[:], 0); err == nil && n == len(b) {
			break
		}
	}
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// fail ends the process with an error of stile's.
func fail(e *wire.Error) {
	fmt.Fprintf(os.Stderr, "stile: %s: %s\n", e.What, e.Why)
	if e.Hint != "" {
		fmt.Fprintf(os.Stderr, "stile: %s\n", e.Hint)
	}
	os.Exit(int(e.Code))
}

// Called reports whether this process is a host command's, not the guest's init: that
// one has been executed by the kernel, as what it is, and may not be a container's.
func Called() bool {
	return os.Getpid() != 1 || os.Args[0] != "/init" || auxiliary(atExecFD) >= 0
}
