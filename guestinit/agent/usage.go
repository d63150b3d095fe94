package agent

import (
	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// usage is what a command has used, in the protocol's words. Until it is executed
// a command runs in guestinit's memory, and the kernel takes the peak of that for
// one of the command's (exec_mmap in fs/exec.c): what does not exceed it is only
// known not to.
func usage(r *unix.Rusage) *wire.Usage {
	var own unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &own) // it can't fail with these arguments
	return &wire.Usage{
		User: micros(r.Utime), System: micros(r.Stime), MaxRSS: uint64(r.Maxrss), AtMost: r.Maxrss <= own.Maxrss,
		MinorFaults: uint64(r.Minflt), MajorFaults: uint64(r.Majflt),
		BlocksIn: uint64(r.Inblock), BlocksOut: uint64(r.Oublock),
		Voluntary: uint64(r.Nvcsw), Involuntary: uint64(r.Nivcsw),
	}
}

func micros(t unix.Timeval) uint64 { return uint64(t.Nano() / 1000) }
