package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A File is one descriptor of a command: the descriptor FD of guestinit becomes
// Number of the command.
type File struct {
	FD     int
	Number int
}

// A Limit is one resource limit, as in prlimit(2).
type Limit struct {
	Resource  int
	Soft, Max uint64
}

// A User is whom a command runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// A Command is what to start. Strings are bytes without NUL.
type Command struct {
	Argv    []string
	Env     []string
	Paths   []string // tried in order, as execvp(3) does with the folders of PATH
	Dir     string   // working directory, entered as the user
	Home    string   // where to start when Dir can't be entered; "" makes that an error
	Files   []File   // everything else is closed in the command
	Umask   uint32
	Limits  []Limit
	Ignored uint64 // bit n-1: signal n is ignored
	Blocked uint64 // bit n-1: signal n is blocked
	Nice    int    // as setpriority(2) takes it
	User    User

	Terminal   int  // descriptor of the slave that becomes the controlling terminal, -1 for none
	Foreground bool // the command's group is to be the terminal's foreground group
}

// stackSize is the stack of a sitter, and as much again for its command until
// it is executed. The frames of raw_linux.go take less than the 800 bytes that
// the linker allows to nosplit functions.
const stackSize = 8 << 10

// lay writes the plan of c. Descriptors that it had to duplicate are returned
// for the caller to close once the sitter has been cloned.
func lay(c *Command, report int, stack []byte) (p *plan, temporary []int, err error) {
	p = &plan{
		commandEntry: commandEntry(),
		report:       int32(report),
		slave:        int32(c.Terminal),
		waitSet:      1<<(unix.SIGCHLD-1) | 1<<(sigOperate-1),
		foreground:   c.Foreground,
		umask:        c.Umask,
		setUser:      true,
		uid:          c.User.UID,
		gid:          c.User.GID,
		groups:       c.User.Groups,
		ignored:      c.Ignored,
		blocked:      c.Blocked,
		nice:         int32(c.Nice),
	}
	base := uint64(uintptr(unsafe.Pointer(&stack[0]))) // stack is mapped memory, which stays where it is
	p.sitterClone = cloneArgs{flags: unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND, stack: base, stackSize: stackSize}
	p.commandClone = cloneArgs{
		flags:      unix.CLONE_VM | unix.CLONE_VFORK,
		exitSignal: uint64(unix.SIGCHLD),
		stack:      base + stackSize,
		stackSize:  stackSize,
	}
	for _, l := range c.Limits {
		p.limits = append(p.limits, limit{uint64(l.Resource), l.Soft, l.Max})
	}
	strings := newArena(c)
	p.dir = strings.put(c.Dir)
	if c.Home != "" {
		p.home = strings.put(c.Home)
	}
	argv := strings.list(c.Argv)
	envv := strings.list(c.Env)
	p.paths = strings.list(c.Paths)[:len(c.Paths)]
	p.argv = uintptr(unsafe.Pointer(&argv[0]))
	p.envv = uintptr(unsafe.Pointer(&envv[0]))
	p.shArgv = append([]uintptr{uintptr(unsafe.Pointer(&binSh[0])), 0}, argv[1:]...)
	p.keep = [...]any{strings, argv, envv}

	targets := make(map[int]bool, len(c.Files))
	for _, f := range c.Files {
		targets[f.Number] = true
	}
	// clear is a descriptor equal to fd with a number that no target has.
	clear := func(fd int) (int, error) {
		for n := fd; ; n++ {
			if !targets[n] {
				if n == fd {
					return fd, nil
				}
				d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, n)
				if err != nil {
					return -1, err
				}
				temporary = append(temporary, d)
				if !targets[d] {
					return d, nil
				}
				n = d
			}
		}
	}
	used := []uint32{uint32(report)}
	if c.Terminal >= 0 {
		fd, err := clear(c.Terminal)
		if err != nil {
			return nil, temporary, err
		}
		p.slave = int32(fd)
		used = append(used, uint32(fd))
	}
	for _, f := range c.Files {
		fd, err := clear(f.FD)
		if err != nil {
			return nil, temporary, err
		}
		p.dups = append(p.dups, [2]int32{int32(fd), int32(f.Number)})
		used = append(used, uint32(fd))
	}
	p.gaps = gaps(used)
	return p, temporary, nil
}

// gaps returns the ranges of descriptors between those in use, for close_range.
func gaps(used []uint32) [][2]uint32 {
	sortUnique(&used)
	var out [][2]uint32
	next := uint32(0)
	for _, u := range used {
		if u > next {
			out = append(out, [2]uint32{next, u - 1})
		}
		next = u + 1
	}
	return append(out, [2]uint32{next, ^uint32(0)})
}

// sortUnique sorts a handful of numbers and drops doubles.
func sortUnique(list *[]uint32) {
	l := *list
	for i := 1; i < len(l); i++ {
		for k := i; k > 0 && l[k] < l[k-1]; k-- {
			l[k], l[k-1] = l[k-1], l[k]
		}
	}
	out := l[:0]
	for i, v := range l {
		if i == 0 || v != l[i-1] {
			out = append(out, v)
		}
	}
	*list = out
}

// An arena holds the strings of a plan, NUL-terminated, in one piece of memory.
type arena struct{ buf []byte }

func newArena(c *Command) *arena {
	n := len(c.Dir) + len(c.Home) + 2
	for _, l := range [][]string{c.Argv, c.Env, c.Paths} {
		for _, s := range l {
			n += len(s) + 1
		}
	}
	return &arena{make([]byte, 0, n)}
}

// put returns the address of a copy of s. The arena was made large enough, so
// it never moves.
func (a *arena) put(s string) uintptr {
	at := len(a.buf)
	a.buf = append(append(a.buf, s...), 0)
	return uintptr(unsafe.Pointer(&a.buf[at]))
}

// list returns the addresses of copies of list, and a nil at the end.
func (a *arena) list(list []string) []uintptr {
	out := make([]uintptr, len(list)+1)
	for i, s := range list {
		out[i] = a.put(s)
	}
	return out
}
