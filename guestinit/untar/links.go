package untar

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// makeLink makes a hard link, or notes it for the end if its target is not there
// yet. Metadata belong to the target's own entry.
func (u *unpacker) makeLink(name, target string) error {
	err := u.link(name, target)
	if err != unix.ENOENT {
		return err
	}
	u.links[name] = target
	u.linked = append(u.linked, name)
	return nil
}

// link returns unix.ENOENT, bare, if there is no target.
func (u *unpacker) link(name, target string) error {
	if target == "." {
		return fmt.Errorf("link to the root folder: %w", unix.EPERM)
	}
	up, last := split(target)
	from, err := u.tree.open(up, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.ENOENT {
		return err
	}
	if err != nil {
		return fmt.Errorf("link to %s: %w", quote(target), folderError(up, err))
	}
	defer unix.Close(from)
	var old, now unix.Stat_t
	if err := unix.Fstatat(from, last, &old, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
		return err
	} else if err != nil {
		return fmt.Errorf("link to %s: %w", quote(target), err)
	}
	dir, base, err := u.tree.enter(name)
	if err != nil {
		return err
	}
	// An archive may hold a file twice: it is then a link to itself, and must
	// not be removed for being in its own way.
	if err := unix.Fstatat(dir, base, &now, unix.AT_SYMLINK_NOFOLLOW); err == nil && now.Ino == old.Ino && now.Dev == old.Dev {
		return nil
	}
	if err := u.place(dir, base, func() error { return unix.Linkat(from, last, dir, base, 0) }); err != nil {
		return fmt.Errorf("link to %s: %w", quote(target), err)
	}
	return nil
}

// finishLinks makes the links that wait. One may lead to another of them.
func (u *unpacker) finishLinks() error {
	for _, name := range u.linked {
		var chain []string
		for {
			target, waits := u.links[name]
			if !waits {
				break
			}
			chain = append(chain, name)
			if len(chain) > len(u.links) {
				return fmt.Errorf("unpack %s: it is a hard link to itself", quote(name))
			}
			name = target
		}
		for _, name := range slices.Backward(chain) {
			target := u.links[name]
			err := u.link(name, target)
			if err == unix.ENOENT {
				return fmt.Errorf("unpack %s: the target of the hard link, %s, is not in the archive", quote(name), quote(target))
			}
			if err != nil {
				return fmt.Errorf("unpack %s: %w", quote(name), err)
			}
			delete(u.links, name)
		}
	}
	return nil
}

// split cuts a path that is not the root's into folder and last component.
func split(name string) (folder, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ".", name
	}
	return name[:i], name[i+1:]
}
