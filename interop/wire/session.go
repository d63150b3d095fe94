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

// StreamKind says what a vsock stream to guestinit is.
type StreamKind uint8

const (
	StreamControl StreamKind = 1 // of a session; Run follows
	StreamData    StreamKind = 2 // bytes of one descriptor of a session
	StreamCall    StreamKind = 3 // Call and Answer, any number of them
	StreamImport  StreamKind = 4 // a bare tar archive up to the half-close, answered by Answer
)

// A Hello opens each vsock stream to guestinit.
type Hello struct {
	Version    uint32
	Generation uint64 // of the machine's run: a stream left over from before a pause is refused
	Kind       StreamKind
	Session    uint64 // for StreamData
	Number     uint32 // for StreamData: the index in the descriptor table
}

// Append appends the payload of h to dst.
func (h *Hello) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(h.Version))
	dst = AppendUint(dst, 2, h.Generation)
	dst = AppendUint(dst, 3, uint64(h.Kind))
	dst = AppendUint(dst, 4, h.Session)
	return AppendUint(dst, 5, uint64(h.Number))
}

// Parse reads the payload of a Hello.
func (h *Hello) Parse(payload []byte) error {
	*h = Hello{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&h.Version, v)
		case 2:
			return set(&h.Generation, v)
		case 3:
			return set(&h.Kind, v)
		case 4:
			return set(&h.Session, v)
		case 5:
			return set(&h.Number, v)
		}
		return nil
	})
}

// Started says, from guestinit, that the command runs. To the shim the vmm
// process says it before it asks guestinit: from then on the request is taken,
// and is not sent again to another machine if this one dies.
type Started struct {
	PID uint32 // in the distro's pid namespace; 0 to the shim
	// Opened lists the indices of the entries whose File the guest has opened: they
	// have no stream. Exit says where the command has left them.
	Opened []uint32
}

// Append appends the payload of s to dst.
func (s *Started) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(s.PID))
	for _, n := range s.Opened {
		dst = AppendField(dst, 2, append32(nil, n))
	}
	return dst
}

// Parse reads the payload of a Started.
func (s *Started) Parse(payload []byte) error {
	*s = Started{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&s.PID, v)
		case 2:
			var n uint32
			err := set(&n, v)
			s.Opened = append(s.Opened, n)
			return err
		}
		return nil
	})
}

// An Error is a failure of stile's own, in words: "stile: What: Why", then the
// hint on a line of its own. Code is the exit status: 125, 126 or 127.
type Error struct {
	Code      uint8
	What, Why string
	Hint      string
}

// Error is the one line of an Error, without the hint.
func (e *Error) Error() string { return e.What + ": " + e.Why }

// Append appends the payload of e to dst.
func (e *Error) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(e.Code))
	dst = AppendString(dst, 2, e.What)
	dst = AppendString(dst, 3, e.Why)
	return AppendString(dst, 4, e.Hint)
}

// Parse reads the payload of an Error.
func (e *Error) Parse(payload []byte) error {
	*e = Error{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&e.Code, v)
		case 2:
			e.What = string(v)
		case 3:
			e.Why = string(v)
		case 4:
			e.Hint = string(v)
		}
		return nil
	})
}

// A Count is how far one stream has come.
type Count struct {
	Number uint32 // index in the descriptor table
	Bytes  uint64
}

// Append appends the payload of c to dst.
func (c *Count) Append(dst []byte) []byte {
	return AppendUint(AppendUint(dst, 1, uint64(c.Number)), 2, c.Bytes)
}

// Parse reads the payload of a Count.
func (c *Count) Parse(payload []byte) error {
	*c = Count{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&c.Number, v)
		case 2:
			return set(&c.Bytes, v)
		}
		return nil
	})
}

// A Wrote is a piece of a Small entry's output.
type Wrote struct {
	Number uint32 // index in the descriptor table
	Bytes  []byte
}

// Append appends the payload of w to dst.
func (w *Wrote) Append(dst []byte) []byte {
	return AppendField(AppendUint(dst, 1, uint64(w.Number)), 2, w.Bytes)
}

// Parse reads the payload of a Wrote.
func (w *Wrote) Parse(payload []byte) error {
	*w = Wrote{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&w.Number, v)
		case 2:
			w.Bytes = append([]byte(nil), v...)
		}
		return nil
	})
}

// Exit says how the command ended.
type Exit struct {
	Code   uint8 // its exit status, if Signal is 0
	Signal uint8 // what killed it
	Core   bool  // it dumped core in the guest
	// Counts are of each output stream, at the leader's wait.
	Counts []Count
	// Unread lists the indices of the input entries that no guest process can
	// read any more, and of the output entries that none can write to: the machine
	// closes its ends before it reports the exit.
	Unread []uint32
	// Taken are what has been read of each Exact entry, at the same moment.
	Taken []Count
	// Offsets are where the command has left the files that the guest has opened.
	Offsets []Count
	// Usage is what the command has used, nil from a guestinit that does not say.
	Usage *Usage
}

// A Usage is what wait4(2) told of a command and of the processes that it has
// waited for: getrusage(2) has the meanings.
type Usage struct {
	User, System             uint64 // CPU time in µs
	MaxRSS                   uint64 // KiB
	MinorFaults, MajorFaults uint64
	BlocksIn, BlocksOut      uint64 // of 512 bytes
	Voluntary, Involuntary   uint64 // context switches
	// AtMost says that MaxRSS is an upper bound. The kernel counts in what the
	// process had before execve(2), which was guestinit's memory.
	AtMost bool
}

// Append appends the payload of u to dst.
func (u *Usage) Append(dst []byte) []byte {
	for i, n := range [...]uint64{u.User, u.System, u.MaxRSS, u.MinorFaults, u.MajorFaults, u.BlocksIn, u.BlocksOut, u.Voluntary, u.Involuntary} {
		dst = AppendUint(dst, uint16(i+1), n)
	}
	return AppendBool(dst, 10, u.AtMost)
}

// Parse reads the payload of a Usage.
func (u *Usage) Parse(payload []byte) error {
	*u = Usage{}
	fields := [...]*uint64{&u.User, &u.System, &u.MaxRSS, &u.MinorFaults, &u.MajorFaults, &u.BlocksIn, &u.BlocksOut, &u.Voluntary, &u.Involuntary}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch {
		case tag >= 1 && int(tag) <= len(fields):
			return set(fields[tag-1], v)
		case tag == 10:
			u.AtMost = true
		}
		return nil
	})
}

// Append appends the payload of e to dst.
func (e *Exit) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(e.Code))
	dst = AppendUint(dst, 2, uint64(e.Signal))
	dst = AppendBool(dst, 3, e.Core)
	for _, c := range e.Counts {
		dst = AppendField(dst, 4, c.Append(nil))
	}
	for _, n := range e.Unread {
		dst = AppendField(dst, 5, append32(nil, n))
	}
	for _, c := range e.Taken {
		dst = AppendField(dst, 6, c.Append(nil))
	}
	for _, c := range e.Offsets {
		dst = AppendField(dst, 7, c.Append(nil))
	}
	if e.Usage != nil {
		dst = AppendField(dst, 8, e.Usage.Append(nil))
	}
	return dst
}

// Parse reads the payload of an Exit.
func (e *Exit) Parse(payload []byte) error {
	*e = Exit{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&e.Code, v)
		case 2:
			return set(&e.Signal, v)
		case 3:
			e.Core = true
		case 4:
			var c Count
			err := c.Parse(v)
			e.Counts = append(e.Counts, c)
			return err
		case 6:
			var c Count
			err := c.Parse(v)
			e.Taken = append(e.Taken, c)
			return err
		case 7:
			var c Count
			err := c.Parse(v)
			e.Offsets = append(e.Offsets, c)
			return err
		case 8:
			e.Usage = new(Usage)
			return e.Usage.Parse(v)
		case 5:
			var n uint32
			if err := set(&n, v); err != nil {
				return err
			}
			e.Unread = append(e.Unread, n)
		}
		return nil
	})
}

// Stopped says that the command has stopped (job control).
type Stopped struct {
	Signal uint8
	After  uint64 // how many bytes of the terminal's stream come before it
}

// Append appends the payload of s to dst.
func (s *Stopped) Append(dst []byte) []byte {
	return AppendUint(AppendUint(dst, 1, uint64(s.Signal)), 2, s.After)
}

// Parse reads the payload of a Stopped.
func (s *Stopped) Parse(payload []byte) error {
	*s = Stopped{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&s.Signal, v)
		case 2:
			return set(&s.After, v)
		}
		return nil
	})
}

// A Signal is one that reached the shim.
type Signal struct {
	Number uint8
	// Terminal: the kernel's terminal made it (si_code SI_KERNEL), so it is for
	// the guest pty's whole foreground group; else for the command alone.
	Terminal bool
	// Foreground: whether the shim's group is the terminal's foreground group.
	Foreground bool
}

// Append appends the payload of s to dst.
func (s *Signal) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(s.Number))
	dst = AppendBool(dst, 2, s.Terminal)
	return AppendBool(dst, 3, s.Foreground)
}

// Parse reads the payload of a Signal.
func (s *Signal) Parse(payload []byte) error {
	*s = Signal{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&s.Number, v)
		case 2:
			s.Terminal = true
		case 3:
			s.Foreground = true
		}
		return nil
	})
}

// Resume says that the shim was continued (SIGCONT): the terminal's present
// state, then the command is to go on.
type Resume struct {
	Terminal *Terminal // nil without a terminal
}

// Append appends the payload of r to dst.
func (r *Resume) Append(dst []byte) []byte {
	if t := r.Terminal; t != nil {
		b := AppendField(nil, 1, t.Termios)
		b = AppendField(b, 2, t.Size.Append(nil))
		b = AppendBool(b, 3, t.Foreground)
		dst = AppendField(dst, 1, b)
	}
	return dst
}

// Parse reads the payload of a Resume.
func (r *Resume) Parse(payload []byte) error {
	*r = Resume{}
	return Fields(payload, func(tag uint16, v []byte) error {
		if tag == 1 {
			r.Terminal = new(Terminal)
			return r.Terminal.parse(v)
		}
		return nil
	})
}

// WinSize is a terminal's size, in cells and in pixels (struct winsize).
type WinSize struct {
	Rows, Cols, X, Y uint16
}

// Append appends the payload of w to dst.
func (w *WinSize) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(w.Rows))
	dst = AppendUint(dst, 2, uint64(w.Cols))
	dst = AppendUint(dst, 3, uint64(w.X))
	return AppendUint(dst, 4, uint64(w.Y))
}

// Parse reads the payload of a WinSize.
func (w *WinSize) Parse(payload []byte) error {
	*w = WinSize{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&w.Rows, v)
		case 2:
			return set(&w.Cols, v)
		case 3:
			return set(&w.X, v)
		case 4:
			return set(&w.Y, v)
		}
		return nil
	})
}

// Want says that a guest process waits for terminal input.
type Want struct {
	Bytes uint32 // how many it asked for; 0 = it polls; the shim reads no more than that
}

// Append appends the payload of w to dst.
func (w *Want) Append(dst []byte) []byte { return AppendUint(dst, 1, uint64(w.Bytes)) }

// Parse reads the payload of a Want.
func (w *Want) Parse(payload []byte) error {
	*w = Want{}
	return Fields(payload, func(tag uint16, v []byte) error {
		if tag == 1 {
			return set(&w.Bytes, v)
		}
		return nil
	})
}

// Termios asks for the terminal's modes to become these (SetTermios). The
// terminal's bytes travel on a stream of their own, so that After says where
// among them the change belongs: bytes before it were processed for the old
// modes, bytes after it for the new ones.
type Termios struct {
	Termios []byte // struct termios2
	After   uint64 // how many bytes of the terminal's stream come before it
}

// Append appends the payload of t to dst.
func (t *Termios) Append(dst []byte) []byte {
	return AppendUint(AppendField(dst, 1, t.Termios), 2, t.After)
}

// Parse reads the payload of a Termios.
func (t *Termios) Parse(payload []byte) error {
	*t = Termios{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			t.Termios = append([]byte(nil), v...)
		case 2:
			return set(&t.After, v)
		}
		return nil
	})
}

// Ready is guestinit's first word to the host.
type Ready struct {
	Version    uint32
	Generation uint64
	Err        *Error // the distro cannot be started: why
	Kernel     string // uname -r
}

// Append appends the payload of r to dst.
func (r *Ready) Append(dst []byte) []byte {
	dst = AppendUint(dst, 1, uint64(r.Version))
	dst = AppendUint(dst, 2, r.Generation)
	if r.Err != nil {
		dst = AppendField(dst, 3, r.Err.Append(nil))
	}
	return AppendString(dst, 4, r.Kernel)
}

// Parse reads the payload of a Ready.
func (r *Ready) Parse(payload []byte) error {
	*r = Ready{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			return set(&r.Version, v)
		case 2:
			return set(&r.Generation, v)
		case 3:
			r.Err = new(Error)
			return r.Err.Parse(v)
		case 4:
			r.Kernel = string(v)
		}
		return nil
	})
}

// A Call is a request with a name and a JSON body, for everything that is not
// on the way of a command: status, stop, shares. Calls to guestinit: "mount"
// and "umount" a share, "processes", "import", "shutdown", "time". See the
// packages that serve them.
type Call struct {
	Name string
	Body []byte
	ID   uint64 // repeated by its Answer
}

// Append appends the payload of c to dst.
func (c *Call) Append(dst []byte) []byte {
	return AppendUint(AppendField(AppendString(dst, 1, c.Name), 2, c.Body), 3, c.ID)
}

// Parse reads the payload of a Call.
func (c *Call) Parse(payload []byte) error {
	*c = Call{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			c.Name = string(v)
		case 2:
			c.Body = append([]byte(nil), v...)
		case 3:
			return set(&c.ID, v)
		}
		return nil
	})
}

// An Answer ends a Call.
type Answer struct {
	Err  *Error // nil: done
	Body []byte
	ID   uint64 // of the Call
}

// Append appends the payload of a to dst.
func (a *Answer) Append(dst []byte) []byte {
	if a.Err != nil {
		dst = AppendField(dst, 1, a.Err.Append(nil))
	}
	return AppendUint(AppendField(dst, 2, a.Body), 3, a.ID)
}

// Parse reads the payload of an Answer.
func (a *Answer) Parse(payload []byte) error {
	*a = Answer{}
	return Fields(payload, func(tag uint16, v []byte) error {
		switch tag {
		case 1:
			a.Err = new(Error)
			return a.Err.Parse(v)
		case 2:
			a.Body = append([]byte(nil), v...)
		case 3:
			return set(&a.ID, v)
		}
		return nil
	})
}
