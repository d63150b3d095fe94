package wire

// A Record tells the shim what a link, or one call of `stile run`, means. It is a
// flat file of entries `key=value`, each ended by a NUL byte, so that any path
// and any argument fits and nothing needs quoting. Keys that are not known are
// skipped.
//
// `stile link` writes a record beside the folder of links: for .../bin/NAME it is
// .../links/NAME. `stile run` and `stile shell` write theirs into a memory file
// (memfd_create) and execute the shim with the arguments
//
//	stile-run /proc/self/fd/N ARG...
//
// of which the shim reads and closes N; the ARGs are the command's.
type Record struct {
	Distro  string   // distro: its name
	Home    string   // home: the distro's data folder; its entry "socket" is a symlink to the machine's socket
	Stile   string   // stile: the stile program, which starts machines
	Command string   // command: what to execute in the guest; "" is the link's name
	User    string   // user: whom to run as; "" is the host's user
	Cd      string   // cd: the working directory; "" is the caller's
	Args    []string // arg: put before the caller's arguments
	Env     []string // env: NAME=VALUE, each replacing the caller's
	Start   []string // start: NAME=VALUE, which lead the stile program to Home where the caller's environment does not: sudo clears it

	CwdFallback bool // cwdfallback=1: start in the user's home where the working directory is not shared
	Login       bool // login=1: an interactive login shell; there is no command
	Rusage      bool // rusage=1: say at the end what the command has used
	Aside       bool // aside=1: the command does not keep an idle machine from ending
}

// RecordArgv0 is the shim's argv[0] when `stile run` executes it.
const RecordArgv0 = "stile-run"

// SocketLink is the name of the symlink in Record.Home whose target is the path
// of the machine's socket.
const SocketLink = "socket"

// Append appends the record to dst. It returns ErrField if a value holds a NUL
// byte, which no record can.
func (r *Record) Append(dst []byte) ([]byte, error) {
	bad := false
	put := func(key, value string) {
		for i := range len(value) {
			bad = bad || value[i] == 0
		}
		dst = append(dst, key...)
		dst = append(dst, '=')
		dst = append(dst, value...)
		dst = append(dst, 0)
	}
	for _, e := range [][2]string{{"distro", r.Distro}, {"home", r.Home}, {"stile", r.Stile},
		{"command", r.Command}, {"user", r.User}, {"cd", r.Cd}} {
		if e[1] != "" {
			put(e[0], e[1])
		}
	}
	for _, a := range r.Args {
		put("arg", a)
	}
	for _, e := range r.Env {
		put("env", e)
	}
	for _, e := range r.Start {
		put("start", e)
	}
	if r.CwdFallback {
		put("cwdfallback", "1")
	}
	if r.Login {
		put("login", "1")
	}
	if r.Rusage {
		put("rusage", "1")
	}
	if r.Aside {
		put("aside", "1")
	}
	if bad {
		return nil, ErrField
	}
	return dst, nil
}

// Parse reads a record. It returns ErrField if an entry has no key, or lacks the
// NUL byte at its end, and if one of distro, home and stile is missing.
func (r *Record) Parse(b []byte) error {
	*r = Record{}
	for len(b) > 0 {
		equal, end := -1, -1
		for i, c := range b {
			if c == '=' && equal < 0 {
				equal = i
			}
			if c == 0 {
				end = i
				break
			}
		}
		if equal <= 0 || end < 0 {
			return ErrField
		}
		key, value := string(b[:equal]), string(b[equal+1:end])
		b = b[end+1:]
		switch key {
		case "distro":
			r.Distro = value
		case "home":
			r.Home = value
		case "stile":
			r.Stile = value
		case "command":
			r.Command = value
		case "user":
			r.User = value
		case "cd":
			r.Cd = value
		case "arg":
			r.Args = append(r.Args, value)
		case "env":
			r.Env = append(r.Env, value)
		case "start":
			r.Start = append(r.Start, value)
		case "cwdfallback":
			r.CwdFallback = value == "1"
		case "login":
			r.Login = value == "1"
		case "rusage":
			r.Rusage = value == "1"
		case "aside":
			r.Aside = value == "1"
		}
	}
	if r.Distro == "" || r.Home == "" || r.Stile == "" {
		return ErrField
	}
	return nil
}
