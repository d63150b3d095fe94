// Command lane runs a command on a host that has a KVM, on any host: in a Linux
// under QEMU's TCG, which emulates AMD's SVM with nested paging. What runs in
// there is the truth about vmm/kvm, only slower: the guests that it starts (L2)
// run under the KVM of that Linux (L1).
//
//	lane [-cpus N] [-memory SIZE] [-icount] [-copy PATH]... [-kernel FILE] [-timeout T] COMMAND [ARG]...
//
// The command sees the host's files, its own Go module and environment, pipes as
// stdin, stdout and stderr, and root's rights of the calling user; lane ends
// with its status. /tmp, /run and /dev/shm are its own. The command's file, and
// each PATH, is a copy in memory at the same path, for 9P is slow to run
// programs from.
//
// The kernel is the set "l1" of package kernel: go run ./kernel/build -set l1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// What lane itself ends with, like a shell: the command's own statuses are
// below.
const (
	statusNotFound = 127
	statusLane     = 125 // the lane could not be had, or broke
	statusSignal   = 128 // plus the signal's number
)

func main() {
	if os.Getpid() == 1 {
		runInit()
	}
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "lane: %v\n", err)
	}
	os.Exit(status)
}

type paths []string

func (p *paths) String() string     { return strings.Join(*p, " ") }
func (p *paths) Set(s string) error { *p = append(*p, s); return nil }

func run(args []string) (status int, err error) {
	var l launch
	var copies paths
	flags := flag.NewFlagSet("lane", flag.ContinueOnError)
	flags.StringVar(&l.kernel, "kernel", "", "`file` of another kernel, with KVM and 9P built in")
	flags.IntVar(&l.cpus, "cpus", 2, "`number` of CPUs")
	flags.StringVar(&l.memory, "memory", "3G", "`size` of its memory")
	flags.BoolVar(&l.icount, "icount", false, "make its clock an instruction count, a nanosecond each, but for waits (for the host's files, too), which it jumps over")
	flags.DurationVar(&l.timeout, "timeout", 20*time.Minute, "the lane is ended after this `time`")
	flags.Var(&copies, "copy", "`path` of a file or folder to have in memory, at the same path")
	if err := flags.Parse(args); err != nil {
		return statusLane, nil // flags has said why
	}
	if flags.NArg() == 0 {
		return statusLane, errors.New("no command")
	}
	r := request{Args: flags.Args(), Env: os.Environ()}
	if r.Dir, err = resolve("."); err != nil {
		return statusLane, err
	}
	if r.Path, err = exec.LookPath(r.Args[0]); err != nil {
		return statusNotFound, err
	}
	// Symbolic links are followed here: in L1 the host's root is elsewhere.
	if r.Path, err = resolve(r.Path); err != nil {
		return statusLane, err
	}
	for _, p := range append(copies, r.Path) {
		if p, err = resolve(p); err != nil {
			return statusLane, err
		}
		if strings.HasPrefix(p, "/usr/") {
			continue // a distribution's program starts with its libraries, which are there
		}
		r.Copies = append(r.Copies, p)
	}
	old := syscall.Umask(0o22)
	syscall.Umask(old)
	r.Umask = old
	a, err := l.run(&r)
	switch {
	case err != nil:
		return statusLane, err
	case a.Err != "":
		return statusLane, errors.New(a.Err)
	case a.Signal != 0:
		return statusSignal + a.Signal, fmt.Errorf("%s: %v", r.Args[0], syscall.Signal(a.Signal))
	}
	return a.Status, nil
}

func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// A request is what L1's init is told, in the initramfs beside it.
type request struct {
	Path   string   // of the program
	Args   []string // with the name it is called by
	Env    []string
	Dir    string
	Umask  int
	Copies []string // absolute paths of files and folders to have in memory
}

// requestPath is where the request lies in the initramfs.
const requestPath = "/request.json"

// An answer is what L1's init reports at the end.
type answer struct {
	Status int    // exit status
	Signal int    // or the signal that ended the command
	Err    string // or why it did not run
}

// The virtio-serial ports of L1, by number. Pipes, not consoles: no byte
// changes on the way.
const (
	portStdin = 1 + iota
	portStdout
	portStderr
	portControl // signals for the command, a byte each, to L1; the answer back
	ports
)
