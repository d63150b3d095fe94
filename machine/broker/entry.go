package broker

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// pumpSize is the buffer of one direction of a stream: a pipe's capacity.
const pumpSize = 64 << 10

// An entry is one of the descriptor table that has a stream: a pipe, or a pair of
// sockets where both directions are needed, of which the command has one end.
type entry struct {
	table  wire.Descriptor
	in     *input
	out    *output
	served bool
}

// makeEntries makes what stands under the command's descriptors, and lists it in o.
// files are the command's in that order, made those of them to be closed here.
func (s *session) makeEntries(tty *os.File, o *order) (files, made []*os.File, err error) {
	s.entries = make([]*entry, len(s.run.Table))
	ends := make([]*os.File, len(s.run.Table))
	for i, d := range s.run.Table {
		switch {
		case d.SameAs > 0:
			ends[i] = ends[d.SameAs-1]
		case d.Kind == wire.KindTerminal:
			ends[i] = tty
		case d.Kind == wire.KindNull:
			if ends[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return files, made, err
			}
			made = append(made, ends[i])
		case d.Attached():
			if s.entries[i], ends[i], err = s.newEntry(d); err != nil {
				return files, made, err
			}
			made = append(made, ends[i])
		}
		if ends[i] != nil {
			files = append(files, ends[i])
			o.Files = append(o.Files, int(d.Number))
		}
	}
	return files, made, nil
}

func (s *session) newEntry(d wire.Descriptor) (e *entry, theirs *os.File, err error) {
	e = &entry{table: d}
	var fds [2]int // ours, theirs
	reads, writes := d.Access&wire.AccessRead != 0, d.Access&wire.AccessWrite != 0
	if d.Kind == wire.KindSocket || reads && writes {
		if fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return nil, nil, fmt.Errorf("create socket pair: %w", err)
		}
	} else {
		if err = unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return nil, nil, fmt.Errorf("create pipe: %w", err)
		}
		if reads {
			fds[0], fds[1] = fds[1], fds[0]
		}
	}
	unix.SetNonblock(fds[0], true)
	ours, theirs := os.NewFile(uintptr(fds[0]), "descriptor"), os.NewFile(uintptr(fds[1]), "descriptor")
	if reads {
		e.in = newInput(ours, d)
	}
	if writes {
		e.out = newOutput(s.broker, ours)
	}
	return e, theirs, nil
}

// serve moves bytes between the stream and what the command has.
func (e *entry) serve(conn *net.UnixConn) {
	defer conn.Close()
	if e.out == nil {
		e.in.pump(conn)
		<-e.in.closed // the guest may yet ask how much was read
		return
	}
	if e.in != nil {
		go e.in.pump(conn)
	} else {
		// The guest ends this half when nobody reads the other any more.
		go func() {
			conn.Read(make([]byte, 1))
			e.out.unread()
		}()
	}
	e.out.pump(conn)
}

// close lets go of our ends.
func (e *entry) close() {
	if e.in != nil {
		e.in.close()
	}
	if e.out != nil {
		e.out.release()
	}
}

// reading opens the reading end of a pipe whose writing end fd is.
func reading(fd uintptr) int {
	r, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(fd)), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return r
}
