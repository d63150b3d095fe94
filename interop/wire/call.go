package wire

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
