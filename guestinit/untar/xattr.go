package untar

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An xattr is an extended attribute.
type xattr struct {
	name  string
	value []byte
}

// Keys of PAX records that hold attributes.
const (
	schilyXattr     = "SCHILY.xattr."            // star, GNU tar, Go: the bytes themselves
	libarchiveXattr = "LIBARCHIVE.xattr."        // bsdtar: name as in a URL, value in base64
	schilyAccess    = "SCHILY.acl.access"        // star, GNU tar, bsdtar: as text
	schilyDefault   = "SCHILY.acl.default"       //
	redhatSELinux   = "RHT.security.selinux"     // GNU tar --selinux
	aclAccess       = "system.posix_acl_access"  // posix_acl_xattr.h
	aclDefault      = "system.posix_acl_default" //
)

// linuxXattr reports whether Linux knows the namespace of an attribute (xattr(7)).
// Others, such as macOS's com.apple, mean nothing in a distro and no file system
// takes them: they are left out.
func linuxXattr(name string) bool {
	if name == aclAccess || name == aclDefault {
		return true
	}
	for _, space := range []string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, space) && name != space {
			return true
		}
	}
	return false
}

// readRecords takes attributes and ACLs out of an entry's PAX records.
func (m *meta) readRecords(records map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(records)) {
		value := records[key]
		switch {
		case strings.HasPrefix(key, schilyXattr):
			m.addXattr(key[len(schilyXattr):], []byte(value))
		case strings.HasPrefix(key, libarchiveXattr):
			name, err := unescape(key[len(libarchiveXattr):])
			if err != nil {
				return fmt.Errorf("read attribute %s: %w", quote(key), err)
			}
			// Some writers pad.
			b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return fmt.Errorf("read attribute %s: %w", quote(key), err)
			}
			m.addXattr(name, b)
		case key == redhatSELinux:
			m.addXattr("security.selinux", []byte(value))
		case key == schilyAccess || key == schilyDefault:
			acl := textACL{aclAccess, value}
			if key == schilyDefault {
				acl.attr = aclDefault
			}
			if err := m.addACL(acl); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *meta) addXattr(name string, value []byte) {
	if !linuxXattr(name) {
		return
	}
	i := slices.IndexFunc(m.xattrs, func(x xattr) bool { return x.name == name })
	if i >= 0 {
		m.xattrs[i].value = value
		return
	}
	m.xattrs = append(m.xattrs, xattr{name, value})
}

// unescape undoes the %XX of a URL. (Package net/url would bring in package net.)
func unescape(s string) (string, error) {
	head, rest, ok := strings.Cut(s, "%")
	for ok {
		if len(rest) < 2 {
			return "", fmt.Errorf("%q ends within %%XX", s)
		}
		b, err := hex.DecodeString(rest[:2])
		if err != nil {
			return "", err
		}
		var next string
		next, rest, ok = strings.Cut(rest[2:], "%")
		head += string(b) + next
	}
	return head, nil
}

// xattrArgs is struct xattr_args of linux/xattr.h.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

// setXattrAt sets an attribute of a name that can't be opened, as a symbolic
// link or a device. It needs Linux 6.13; the guest's is newer.
func setXattrAt(dir int, base string, x xattr) error {
	path, err := unix.BytePtrFromString(base)
	if err != nil {
		return err
	}
	name, err := unix.BytePtrFromString(x.name)
	if err != nil {
		return err
	}
	value := append(slices.Clip(x.value), 0) // so that there is a first byte
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&value[0])
	args := xattrArgs{
		value: uint64(uintptr(unsafe.Pointer(&value[0]))), // the kernel wants a number; it is pinned
		size:  uint32(len(x.value)),
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETXATTRAT, uintptr(dir),
		uintptr(unsafe.Pointer(path)), unix.AT_SYMLINK_NOFOLLOW,
		uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args)) // pointers that the system call reads
	if errno != 0 {
		return errno
	}
	return nil
}
