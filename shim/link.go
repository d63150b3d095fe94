package main

import (
	"syscall"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// maxLinks is how many symlinks are followed, as many as the kernel does.
const maxLinks = 40

// A call is what the shim was asked to do.
type call struct {
	wire.Record
	link string   // the link's name; "" for stile run
	lent bool     // the distro is another user's, who is not root as the caller is
	path string   // what to execute in the guest; "" is argv[0]
	argv []string // of the guest command
}

// newCall finds out what the shim was asked to do. Root is root in the distro of
// another user too, which sudo leads to.
func newCall() (*call, *wire.Error) {
	c, err := findCall()
	if err != nil {
		return nil, err
	}
	var home syscall.Stat_t
	if syscall.Geteuid() == 0 && syscall.Stat(c.Home, &home) == nil && home.Uid != 0 {
		c.lent = true
		if c.User == "" {
			c.User = "root"
		}
	}
	return c, nil
}

// findCall finds out which link the shim was started by, or that `stile run`
// started it.
func findCall() (*call, *wire.Error) {
	args := early.Args()
	const memory = "/proc/self/fd/"
	if len(args) >= 2 && args[0] == wire.RecordArgv0 && cut(&args[1], memory) {
		return runCall(args)
	}
	c := &call{}
	name, err := findRecord(&c.Record, early.Execfn())
	if err == syscall.ENOENT && len(args) > 0 {
		// A script's interpreter: AT_EXECFN is the script, argv[0] is the link.
		if n, err2 := findRecord(&c.Record, args[0]); err2 != syscall.ENOENT {
			name, err = n, err2
		}
	}
	if err != nil {
		why := err.Error()
		if err == syscall.ENOENT {
			why = "no distro is known for this link"
		}
		return nil, &wire.Error{Code: 125, What: early.Execfn(), Why: why, Hint: "make links with: stile link"}
	}
	c.link, c.path = name, c.Command
	if c.path == "" {
		c.path = name
	}
	if len(args) == 0 {
		args = []string{name}
	}
	c.argv = append(c.argv, args[0])
	c.argv = append(c.argv, c.Args...)
	c.argv = append(c.argv, args[1:]...)
	return c, nil
}

// runCall reads the record that `stile run` passed as an open file.
func runCall(args []string) (*call, *wire.Error) {
	bad := &wire.Error{Code: 125, What: wire.RecordArgv0, Why: "the record is not readable"}
	fd, ok := number(args[1])
	if !ok {
		return nil, bad
	}
	b, err := readAll(fd)
	syscall.Close(fd)
	c := &call{argv: args[2:]}
	if err != nil || c.Parse(b) != nil {
		return nil, bad
	}
	c.path = c.Command
	c.argv = append(append([]string(nil), c.Args...), c.argv...)
	if len(c.argv) == 0 && !c.Login {
		return nil, &wire.Error{Code: 125, What: wire.RecordArgv0, Why: "there is no command"}
	}
	return c, nil
}

// findRecord reads the record of the link at path: ../links/NAME seen from the
// link's folder. Where there is none, the link may be a symlink to a link.
func findRecord(r *wire.Record, path string) (name string, err error) {
	for range maxLinks {
		dir, base := split(path)
		if base == "" {
			return "", syscall.ENOENT
		}
		b, err := readFile(dir + "../links/" + base)
		if err == nil {
			if r.Parse(b) != nil {
				return "", syscall.EINVAL
			}
			return base, nil
		}
		if err != syscall.ENOENT && err != syscall.ENOTDIR {
			return "", err
		}
		target, err := readLink(path)
		if err != nil {
			return "", syscall.ENOENT
		}
		if target[0] != '/' {
			target = dir + target
		}
		path = target
	}
	return "", syscall.ELOOP
}

// split cuts a path into its folder, with the slash at its end, and its last
// element.
func split(path string) (dir, base string) {
	i := len(path)
	for i > 0 && path[i-1] != '/' {
		i--
	}
	return path[:i], path[i:]
}

// cut removes prefix from *s if it is there.
func cut(s *string, prefix string) bool {
	if len(*s) < len(prefix) || (*s)[:len(prefix)] != prefix {
		return false
	}
	*s = (*s)[len(prefix):]
	return true
}

// number reads a short decimal number.
func number(s string) (int, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, len(s) > 0 && len(s) < 9
}

// decimal is n, which is not negative, in digits.
func decimal[N int | uint64](n N) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = '0' + byte(n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}
