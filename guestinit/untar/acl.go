package untar

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A textACL is a POSIX ACL as archives hold it: "user::rwx,user:jo:r-x:1000,...",
// the last number not always (acl(5); star(5), SCHILY.acl.access).
type textACL struct {
	attr string // the attribute that it is to the kernel
	text string
}

// errNamedACL says that an ACL has names without numbers.
var errNamedACL = errors.New("ACL has names")

// addACL adds an ACL as the attribute that it is, or, when it has names without
// numbers, keeps it for later: the archive's own passwd knows them.
func (m *meta) addACL(acl textACL) error {
	value, err := acl.encode(func(string, string) (uint32, error) { return 0, errNamedACL })
	if errors.Is(err, errNamedACL) {
		m.named = append(m.named, acl)
		return nil
	}
	if err != nil {
		return err
	}
	m.addXattr(acl.attr, value)
	return nil
}

// Tags of entries (linux/posix_acl.h, linux/posix_acl_xattr.h).
const (
	aclVersion  = 2
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = math.MaxUint32
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// encode makes the attribute's value. number finds the number of a "user" or
// "group".
func (a textACL) encode(number func(kind, name string) (uint32, error)) ([]byte, error) {
	var list []aclEntry
	for line := range strings.FieldsFuncSeq(a.text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#") // "#effective:r-x"
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, err := parseACLEntry(line, number)
		if err != nil {
			return nil, fmt.Errorf("ACL entry %s: %w", quote(line), err)
		}
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(x, y aclEntry) int {
		return cmp.Or(cmp.Compare(x.tag, y.tag), cmp.Compare(x.id, y.id))
	})
	value := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range list {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.perm)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return value, nil
}

func parseACLEntry(line string, number func(kind, name string) (uint32, error)) (aclEntry, error) {
	bad := errors.New("it is not like user:NAME:rwx")
	f := strings.Split(line, ":")
	if len(f) == 2 {
		f = []string{f[0], "", f[1]} // "mask:rwx", as Solaris writes it
	}
	if len(f) < 3 || len(f) > 4 {
		return aclEntry{}, bad
	}
	e := aclEntry{id: aclNoID}
	for _, c := range f[2] {
		switch c {
		case 'r':
			e.perm |= 4
		case 'w':
			e.perm |= 2
		case 'x':
			e.perm |= 1
		case '-':
		default:
			return aclEntry{}, bad
		}
	}
	kinds := map[string][2]uint16{"user": {aclUserObj, aclUser}, "group": {aclGroupObj, aclGroup},
		"mask": {aclMask, 0}, "other": {aclOther, 0}}
	tags, ok := kinds[f[0]]
	if !ok {
		return aclEntry{}, bad
	}
	e.tag = tags[0]
	if f[1] == "" {
		return e, nil
	}
	if e.tag = tags[1]; e.tag == 0 {
		return aclEntry{}, bad
	}
	digits := f[1]
	if len(f) == 4 {
		digits = f[3]
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err == nil {
		e.id = uint32(n)
		return e, nil
	}
	e.id, err = number(f[0], f[1])
	return e, err
}

// finishACLs sets the ACLs that have names in them.
func (u *unpacker) finishACLs() error {
	db := map[string]map[string]uint32{}
	number := func(kind, name string) (uint32, error) {
		file := map[string]string{"user": "etc/passwd", "group": "etc/group"}[kind]
		if db[kind] == nil {
			var err error
			if db[kind], err = u.tree.accounts(file); err != nil {
				return 0, fmt.Errorf("find number of %s %s: %w", kind, quote(name), err)
			}
		}
		id, ok := db[kind][name]
		if !ok {
			return 0, fmt.Errorf("there is no %s %s in the archive's %s", kind, quote(name), file)
		}
		return id, nil
	}
	for _, name := range slices.Sorted(maps.Keys(u.acls)) {
		for _, acl := range u.acls[name] {
			if err := u.setACL(name, acl, number); err != nil {
				return fmt.Errorf("unpack %s: %w", quote(name), err)
			}
		}
	}
	return nil
}

func (u *unpacker) setACL(name string, acl textACL, number func(kind, name string) (uint32, error)) error {
	value, err := acl.encode(number)
	if err != nil {
		return err
	}
	dir, base := u.tree.root, "."
	if name != "." {
		if dir, base, err = u.tree.enter(name); err != nil {
			return err
		}
	}
	if err := setXattrAt(dir, base, xattr{acl.attr, value}); err != nil {
		return fmt.Errorf("set attribute %s: %w", acl.attr, err)
	}
	return nil
}

// maxAccounts is more than any passwd has.
const maxAccounts = 16 << 20

// accounts reads names and numbers of a passwd or group file in the tree.
func (t *tree) accounts(name string) (map[string]uint32, error) {
	// O_NONBLOCK: it may be a FIFO.
	fd, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: it is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	ids := map[string]uint32{}
	for line := range bytes.Lines(data) {
		fields := strings.SplitN(string(line), ":", 4)
		if len(fields) < 4 {
			continue
		}
		if n, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			ids[fields[0]] = uint32(n)
		}
	}
	return ids, nil
}
