package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Place is a folder of the host's with its symlinks resolved.
type Place struct {
	Path string
	// Own are stile's folders and programs, which no guest may run: they could
	// change the policy. The others are what guests can write.
	Own bool
}

// A CheckError says why a program must not be run though a rule allows it.
type CheckError struct {
	Path    string
	Why     string
	Cure    string
	Missing bool // it is not there any more
}

func (e *CheckError) Error() string { return e.Path + ": " + e.Why }

// Hint is the cure.
func (e *CheckError) Hint() string { return e.Cure }

// Check makes sure that a rule's program is still what the rule was made for, and
// that no guest could have changed that, itself or a link on the way to it.
func (r *Rule) Check(places []Place) error {
	real, writable, err := resolve(r.Path, places)
	again := "if it is what you want: stile host allow " + r.Path
	var bad *CheckError
	switch {
	case errors.As(err, &bad):
		return bad
	case errors.Is(err, fs.ErrNotExist):
		return &CheckError{Path: r.Path, Why: "it is not on the host any more", Missing: true}
	case err != nil:
		return &CheckError{Path: r.Path, Why: err.Error()}
	case real != r.Real:
		return &CheckError{Path: r.Path, Why: "it leads to " + real + " now, not to " + r.Real, Cure: again}
	case writable != "" && !r.Shared:
		return &CheckError{Path: r.Path, Why: "guests can write " + writable,
			Cure: "if you trust them with that: stile host allow --shared " + r.Path}
	}
	info, err := os.Stat(real)
	if err != nil {
		return &CheckError{Path: r.Path, Why: err.Error()}
	}
	if !info.Mode().IsRegular() || unix.Access(real, unix.X_OK) != nil {
		return &CheckError{Path: r.Path, Why: "it is not executable"}
	}
	return nil
}

// NewRule makes a rule for a command: a path, or a name that is looked for in path,
// a PATH. The error is a *CheckError where there is no such program, and where it is
// in a place that needs the rule's Shared.
func NewRule(action Action, command, path string, shared bool, places []Place) (Rule, error) {
	r := Rule{Action: action, AnyArgs: true, Shared: shared}
	if strings.Contains(command, "/") {
		abs, err := filepath.Abs(command)
		if err != nil {
			return r, fmt.Errorf("find %s: %w", command, err)
		}
		r.Path = abs
	} else {
		for _, dir := range filepath.SplitList(path) {
			p := filepath.Join(dir, command)
			if info, err := os.Stat(p); filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() && unix.Access(p, unix.X_OK) == nil {
				r.Path = p
				break
			}
		}
		if r.Path == "" {
			return r, &CheckError{Path: command, Why: "there is no such command on this host", Missing: true}
		}
	}
	real, err := filepath.EvalSymlinks(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, &CheckError{Path: r.Path, Why: "there is no such file", Missing: true}
	}
	if err != nil {
		return r, &CheckError{Path: r.Path, Why: err.Error()}
	}
	r.Real = real
	if action == Deny {
		return r, nil
	}
	return r, r.Check(places)
}

// maxLinks is how many symlinks are followed, as many as the kernel does.
const maxLinks = 40

// resolve follows a path one name after the other, as the kernel does, and tells
// the first folder on the way that guests can write, "" if there is none.
func resolve(path string, places []Place) (real, writable string, err error) {
	cur, rest, links := "/", strings.Split(path, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			cur = filepath.Dir(cur)
			continue
		}
		next := filepath.Join(cur, name)
		if p := placeOf(cur, places); p != nil && !p.Own && writable == "" {
			writable = cur
		}
		if p := placeOf(next, places); p != nil && p.Own {
			return "", "", &CheckError{Path: path, Why: "it is stile's own, which no guest may run"}
		}
		info, err := os.Lstat(next)
		if err != nil {
			return "", "", err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return "", "", unix.ELOOP
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", "", err
		}
		if strings.HasPrefix(target, "/") {
			cur = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return cur, writable, nil
}

// placeOf is the place that a path lies in; stile's own before others.
func placeOf(path string, places []Place) (found *Place) {
	for i, p := range places {
		if path == p.Path || strings.HasPrefix(path, strings.TrimSuffix(p.Path, "/")+"/") {
			if p.Own {
				return &places[i]
			}
			if found == nil {
				found = &places[i]
			}
		}
	}
	return found
}

// Writable reports whether guests can write a folder of the host's.
func Writable(dir string, places []Place) bool {
	real, writable, err := resolve(dir, places)
	return err != nil || writable != "" || placeOf(real, places) != nil
}
