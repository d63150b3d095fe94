package wire

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
