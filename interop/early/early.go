// Package early knows how a process was when it was started, before Go's runtime
// changed it: the runtime opens /dev/null on closed descriptors 0 to 2, raises
// the soft limit of open files, and handles signals that the parent had ignored.
//
// The package's assembly is the program's entry point, asks the kernel, and jumps
// to the runtime's own. A program has it if it is linked with
//
//	-ldflags "-E github.com/stilehq/stile/interop/early.entry"
//
// or with early.entryBlocked, which blocks all signals too, so that each thread
// inherits that and signalfd(2) sees them. Linked without, Recorded is false and
// the rest of the package is of no use.
package early

import "unsafe"

// record is filled in by the assembly, which knows its layout.
var record struct {
	recorded uint64
	stack    uintptr // the stack pointer at entry: argc, argv, envp, auxv
	blocked  uint64
	open     uint64
	nofile   [2]uint64
	ignored  uint64
	scratch  [4]uint64
}

// Recorded reports whether the program was linked with the package's entry.
func Recorded() bool { return record.recorded != 0 }

// Open reports whether descriptor fd, 0 to 2, was open.
func Open(fd int) bool { return record.open>>fd&1 != 0 }

// Ignored is the set of signals that were ignored: bit n-1 is signal n.
func Ignored() uint64 { return record.ignored }

// Blocked is the set of signals that were blocked.
func Blocked() uint64 { return record.blocked }

// Files is the limit of open files, RLIMIT_NOFILE.
func Files() (soft, hard uint64) { return record.nofile[0], record.nofile[1] }

// word is the i-th word above the stack pointer at entry. The runtime never
// moves or frees that part of the stack.
func word(i int) uintptr {
	return *(*uintptr)(unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&record.stack)), i*8))
}

// text is the C string whose address is word i.
func text(i int) string {
	w := word(i)
	p := *(**byte)(unsafe.Pointer(&w)) // an address of the entry stack, which stays
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return unsafe.String(p, n)
}

func list(i int) []string {
	var s []string
	for ; word(i) != 0; i++ {
		s = append(s, text(i))
	}
	return s
}

// Args are the arguments, argv[0] first, as they are: there may be none.
func Args() []string { return list(1) }

// Env is the environment as it is, entries without '=' and repeated ones
// included.
func Env() []string { return list(int(word(0)) + 2) }

// Execfn is the path name that execve(2) was given (AT_EXECFN), "" if the kernel
// does not say.
func Execfn() string {
	i := int(word(0)) + 2
	for word(i) != 0 {
		i++
	}
	const atExecfn = 31
	for i++; word(i) != 0; i += 2 {
		if word(i) == atExecfn {
			return text(i + 1)
		}
	}
	return ""
}
