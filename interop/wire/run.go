package wire

// Kind says what a descriptor of the calling process is, and so what stands
// under its number in the guest.
type Kind uint8

const (
	KindClosed   Kind = 1 // nothing: closed in the guest too
	KindPipe     Kind = 2 // a pipe or FIFO: a pipe in the guest
	KindFile     Kind = 3 // a regular file or a block device: a pipe in the guest
	KindSocket   Kind = 4 // a stream socket: one of a pair in the guest
	KindTerminal Kind = 5 // the caller's controlling terminal: the session's pty
	KindNull     Kind = 6 // /dev/null: the guest's own
	KindOther    Kind = 7 // anything else, another terminal for one: a pipe in the guest
)

// Access is how a descriptor is open.
type Access uint8

const (
	AccessRead  Access = 1
	AccessWrite Access = 2
)

// A Descriptor is one entry of the descriptor table of a Run.
type Descriptor struct {
	Number uint32 // in the calling process and in the guest
	Kind   Kind
	Access Access // one or both
	// SameAs is one more than the index of an earlier entry with the same open
	// file description (kcmp), 0 if there is none: both numbers are one in the
	// guest too. Such an entry has no stream and no attached descriptor.
	SameAs uint32
	// File, set by the vmm process for an Exact entry of KindFile, is how the guest
	// may find the file itself in a share.
	File *File
}

// A File tells a file that is shared with the guest from any other of that path.
type File struct {
	Path   string // on the host, and so in the guest
	Inode  uint64 // of which a share shows the lower 48 bits
	Size   uint64
	Mtime  int64  // in nanoseconds
	Offset uint64 // where to read
}

// Append appends the payload of f to dst.
func (f *File) Append(dst []byte) []byte {
	dst = AppendString(dst, 1, f.Path)
	dst = AppendUint(dst, 2, f.Inode)
	dst = AppendUint(dst, 3, f.Size)
	dst = AppendUint(dst, 4, uint64(f.Mtime))
	return AppendUint(dst, 5, f.Offset)
}

// Parse reads the payload of a File.
func (f *File) Parse(payload []byte) error {
	*f = File{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			f.Path = string(v)
		case 2:
			return set(&f.Inode, v)
		case 3:
			return set(&f.Size, v)
		case 4:
			t, err := Uint(v)
			f.Mtime = int64(t) // before 1970 it is negative
			return err
		case 5:
			return set(&f.Offset, v)
		}
		return nil
	})
}

// Attached reports whether the entry has a descriptor attached to Run, and so a
// data stream of its own. Terminals have neither: the shim reads and writes its
// terminal, and all of a session's share one stream, TerminalStream.
func (d Descriptor) Attached() bool {
	return d.SameAs == 0 && d.Kind != KindClosed && d.Kind != KindNull && d.Kind != KindTerminal
}

// Exact reports whether what the guest does not read of the entry stays where it
// is. Sockets and devices are read ahead.
func (d Descriptor) Exact() bool {
	return d.Attached() && d.Access == AccessRead && (d.Kind == KindPipe || d.Kind == KindFile)
}

// SmallOutput is how many bytes of a Small entry the control stream carries.
const SmallOutput = 16 << 10

// Small reports whether the entry's output comes on the control stream until there
// is more of it than that.
func (d Descriptor) Small() bool {
	return d.Attached() && d.Access == AccessWrite && d.Kind != KindSocket
}

// TerminalStream is the number of the data stream of a session's pty, in Hello
// and in Count.
const TerminalStream = 1 << 31

// A Limit is one resource limit, as in prlimit(2).
type Limit struct {
	Resource  uint32
	Soft, Max uint64
}

// Terminal is the state of the calling process's terminal.
type Terminal struct {
	Termios    []byte // struct termios2 of the kernel (TCGETS2), as it is in memory
	Size       WinSize
	Foreground bool // the shim's process group is the terminal's foreground group
}

// A Run asks for one guest command. Strings are bytes: no encoding is assumed.
//
// The descriptors that come with it (SCM_RIGHTS) are those of the table's
// entries that are Attached, in order, and then, if Terminal is set, one of the
// terminal itself: for output of what outlives the command, and to restore the
// modes of a terminal whose shim was killed.
type Run struct {
	Version     uint32
	Distro      string // what the caller believes it talks to
	Argv        []string
	Path        string // what to execute, "" is Argv[0]; looked up in the guest's PATH if it has no slash
	Env         []string
	Cwd         string // absolute, as the calling shell sees it ($PWD where that is the same folder)
	CwdFallback bool   // an unshared Cwd is no error: start in the user's home
	User        string // "" is the host's user
	Umask       uint32
	Limits      []Limit
	Ignored     uint64 // signals ignored by the caller: bit n-1 is signal n
	Table       []Descriptor
	Terminal    *Terminal // nil where the caller has no controlling terminal
	Login       bool      // an interactive login shell of the user; Argv is empty then
	Time        int64     // host's CLOCK_REALTIME in nanoseconds, set by the vmm process
	Session     uint64    // chosen by the vmm process
	Blocked     uint64    // signals blocked by the caller, which execve keeps: bit n-1 is signal n
	CwdNamed    bool      // the user named Cwd: it need not be shared, and is the guest's own folder then
	Aside       bool      // the machine may end as if the command did not run
	CwdGone     bool      // the folder was deleted: Cwd is "/", and the guest's folder is a deleted one too
	Terminfo    []byte    // the compiled entry of $TERM, for a guest that lacks it; nil if the shim has none
	Priority    uint8     // 20 less the nice value, as getpriority(2) returns it: 1 to 40; 0 is not known
}

// Append appends the payload of r to dst.
func (r *Run) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(r.Version))
	dst = AppendString(dst, 2, r.Distro)
	for _, a := range r.Argv {
		dst = AppendString(dst, 3, a)
	}
	dst = AppendString(dst, 4, r.Path)
	for _, e := range r.Env {
		dst = AppendString(dst, 5, e)
	}
	dst = AppendString(dst, 6, r.Cwd)
	dst = AppendBool(dst, 7, r.CwdFallback)
	dst = AppendString(dst, 8, r.User)
	dst = AppendUint(dst, 9, uint64(r.Umask))
	for _, l := range r.Limits {
		var b []byte
		b = AppendUint(b, 1, uint64(l.Resource))
		b = AppendUint(b, 2, l.Soft)
		b = AppendUint(b, 3, l.Max)
		dst = AppendField(dst, 10, b)
	}
	dst = AppendUint(dst, 11, r.Ignored)
	for _, d := range r.Table {
		var b []byte
		b = AppendUint(b, 1, uint64(d.Number))
		b = AppendUint(b, 2, uint64(d.Kind))
		b = AppendUint(b, 3, uint64(d.Access))
		b = AppendUint(b, 4, uint64(d.SameAs))
		if d.File != nil {
			b = AppendField(b, 5, d.File.Append(nil))
		}
		dst = AppendField(dst, 12, b)
	}
	if t := r.Terminal; t != nil {
		var b []byte
		b = AppendField(b, 1, t.Termios)
		b = AppendField(b, 2, t.Size.Append(nil))
		b = AppendBool(b, 3, t.Foreground)
		dst = AppendField(dst, 13, b)
	}
	dst = AppendBool(dst, 14, r.Login)
	dst = AppendUint(dst, 15, uint64(r.Time))
	dst = AppendUint(dst, 16, r.Session)
	dst = AppendUint(dst, 17, r.Blocked)
	dst = AppendUint(dst, 18, uint64(r.Priority))
	dst = AppendBool(dst, 19, r.CwdGone)
	dst = AppendBool(dst, 21, r.CwdNamed)
	dst = AppendBool(dst, 22, r.Aside)
	if len(r.Terminfo) > 0 {
		dst = AppendField(dst, 20, r.Terminfo)
	}
	return dst
}

// Parse reads the payload of a Run. Strings are copied.
func (r *Run) Parse(payload []byte) error {
	*r = Run{}
	err := Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&r.Version, v)
		case 2:
			r.Distro = string(v)
		case 3:
			r.Argv = append(r.Argv, string(v))
		case 4:
			r.Path = string(v)
		case 5:
			r.Env = append(r.Env, string(v))
		case 6:
			r.Cwd = string(v)
		case 7:
			r.CwdFallback = true
		case 8:
			r.User = string(v)
		case 9:
			return set(&r.Umask, v)
		case 10:
			var l Limit
			err := Fields(v, func(tag uint16, v []byte) error {
				switch tag {
				case 1:
					return set(&l.Resource, v)
				case 2:
					return set(&l.Soft, v)
				case 3:
					return set(&l.Max, v)
				}
				return nil
			})
			r.Limits = append(r.Limits, l)
			return err
		case 11:
			return set(&r.Ignored, v)
		case 12:
			var d Descriptor
			err := Fields(v, func(tag uint16, v []byte) error {
				switch tag {
				case 1:
					return set(&d.Number, v)
				case 2:
					return set(&d.Kind, v)
				case 3:
					return set(&d.Access, v)
				case 4:
					return set(&d.SameAs, v)
				case 5:
					d.File = new(File)
					return d.File.Parse(v)
				}
				return nil
			})
			r.Table = append(r.Table, d)
			return err
		case 13:
			r.Terminal = new(Terminal)
			return r.Terminal.parse(v)
		case 14:
			r.Login = true
		case 15:
			return set(&r.Time, v)
		case 16:
			return set(&r.Session, v)
		case 17:
			return set(&r.Blocked, v)
		case 18:
			return set(&r.Priority, v)
		case 19:
			r.CwdGone = true
		case 21:
			r.CwdNamed = true
		case 22:
			r.Aside = true
		case 20:
			r.Terminfo = append([]byte(nil), v...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.check()
}

func (t *Terminal) parse(payload []byte) error {
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			t.Termios = append([]byte(nil), v...)
		case 2:
			return t.Size.Parse(v)
		case 3:
			t.Foreground = true
		}
		return nil
	})
}

// MaxDescriptors bounds a descriptor table: SCM_RIGHTS carries no more in one
// message (SCM_MAX_FD), less the connection itself.
const MaxDescriptors = 250

// MaxNumber is the largest descriptor number that a table may name.
const MaxNumber = 1<<20 - 1

// check refuses what no honest caller sends.
func (r *Run) check() error {
	if len(r.Table) > MaxDescriptors {
		return ErrField
	}
	for i, d := range r.Table {
		if d.Number > MaxNumber || int64(d.SameAs) > int64(i) || d.Kind == 0 || d.Kind > KindOther {
			return ErrField
		}
		if d.SameAs > 0 && r.Table[d.SameAs-1].SameAs > 0 {
			return ErrField
		}
		if d.Kind == KindTerminal && r.Terminal == nil {
			return ErrField
		}
		if d.File != nil && hasNUL(d.File.Path) {
			return ErrField
		}
	}
	for _, list := range [][]string{r.Argv, r.Env, {r.Path, r.Cwd, r.User}} {
		for _, s := range list {
			if hasNUL(s) {
				return ErrField
			}
		}
	}
	return nil
}

func hasNUL(s string) bool {
	for i := range len(s) {
		if s[i] == 0 {
			return true
		}
	}
	return false
}
