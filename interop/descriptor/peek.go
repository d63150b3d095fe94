package descriptor

import (
	"context"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// peeking is the state of a Descriptor that is looked at before it is taken.
type peeking struct {
	mu       sync.Mutex // held while the file is looked at or taken from
	possible bool
	base     int64 // modeFile: the offset at first
	peeked   int64 // bytes that Peek has returned
	taken    int64 // bytes of them that are gone from the file
}

// initPeeking finds out whether the file can be looked at: a pipe by tee(2), a
// file that has an offset by pread(2).
func (d *Descriptor) initPeeking(st *unix.Stat_t) {
	switch {
	case d.mode == modePipe:
		d.peek.possible = true
	case d.mode == modeFile && (st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFBLK):
		at, err := unix.Seek(d.fd, 0, unix.SEEK_CUR)
		d.peek.base, d.peek.possible = at, err == nil
	}
}

// Peeks reports whether Peek and Take can be used, instead of Read.
func (d *Descriptor) Peeks() bool { return d.peek.possible }

// quiet is how long a pipe has nothing new before Peek finds it stuck: one that
// nobody writes to looks like one that is full of small pieces.
const quiet = 20 * time.Millisecond

// Peek reads what comes after what it has read before, and waits for something if
// there is nothing. The file keeps it: another reader finds it too, until Take. The
// errors are those of Read.
//
// Of a pipe there is no more to see than what fits into it. So stuck is called, if
// it is set, when what has not been taken may be why there is nothing new. What is
// exact about it ends where there are several readers: each sees the same bytes.
func (d *Descriptor) Peek(ctx context.Context, b []byte, stuck func()) (int, error) {
	for {
		var full bool
		n, err := d.attempt(ctx, func(b []byte) (n int, err error) {
			d.peek.mu.Lock()
			defer d.peek.mu.Unlock()
			if d.mode == modeFile {
				n, err = unix.Pread(d.fd, b, d.peek.base+d.peek.peeked)
			} else {
				n, full, err = d.peekPipe(b)
			}
			d.peek.peeked += int64(max(n, 0))
			return n, err
		}, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			if err := d.waitStuck(ctx, full, stuck); err != nil {
				return 0, err
			}
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// waitStuck waits for a change of the pipe.
func (d *Descriptor) waitStuck(ctx context.Context, full bool, stuck func()) error {
	d.peek.mu.Lock()
	rest := d.peek.peeked - d.peek.taken
	d.peek.mu.Unlock()
	if stuck == nil || rest == 0 {
		return d.wait(ctx, d.in)
	}
	if !full {
		t := time.NewTimer(quiet)
		defer t.Stop()
		select {
		case <-t.C:
		case <-d.in:
			return nil
		case <-d.closed:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	stuck()
	return d.wait(ctx, d.in)
}

// peekPipe copies a pipe's pages, not their bytes, to a pipe of our own, and reads
// there what is new. EAGAIN says that nothing is, and full whether there may be no
// room for more.
func (d *Descriptor) peekPipe(b []byte) (n int, full bool, err error) {
	// Before the look: what a last writer wrote is there when it has gone.
	ended := ready(d.fd, 0)
	s, err := d.poller.staging.get()
	if err != nil {
		return 0, false, err
	}
	defer d.poller.staging.put(s)
	have, err := unix.Tee(d.fd, s.w, pipeSize, unix.SPLICE_F_NONBLOCK)
	if err != nil || have == 0 {
		return 0, false, err // 0: the end
	}
	rest := d.peek.peeked - d.peek.taken
	skip := min(rest, have)
	d.poller.discard(s.r, skip)
	want := int(have - skip)
	if want == 0 {
		if ended && have == rest {
			return 0, false, nil
		}
		size, err := unix.FcntlInt(uintptr(d.fd), unix.F_GETPIPE_SZ, 0)
		// Two pieces that follow each other fill more than a page, or they would
		// be one; spliced ones may be smaller.
		return 0, err != nil || have >= int64(min(size, pipeSize)/2-pageSize), unix.EAGAIN
	}
	got := min(want, len(b))
	for n < got {
		k, err := unix.Read(s.r, b[n:got])
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			break // cannot be: the bytes are there
		}
		n += k
	}
	d.poller.discard(s.r, int64(want-n))
	return n, false, nil
}

// pageSize is the least that a piece of a pipe takes of it.
const pageSize = 4096

// Take takes bytes that Peek has returned from the file, so that no other reader
// finds them: as many as make total, counted from the start. Less than has been
// taken, and more than has been peeked, is passed over.
func (d *Descriptor) Take(total uint64) {
	if !d.begin() {
		return
	}
	defer d.end()
	d.peek.mu.Lock()
	defer d.peek.mu.Unlock()
	n := int64(min(total, uint64(d.peek.peeked))) - d.peek.taken
	if n <= 0 {
		return
	}
	if d.mode == modeFile {
		if _, err := unix.Seek(d.fd, d.peek.base+d.peek.taken+n, unix.SEEK_SET); err == nil {
			d.peek.taken += n
		}
		return
	}
	d.poller.discard(d.fd, n) // less only if another reader was faster
	d.peek.taken += n
	signal(d.in) // there may be more to see now
}

// An Identity is what a regular file can be found and known by.
type Identity struct {
	Path   string // canonical, at the moment
	Stat   unix.Stat_t
	Offset int64
}

// Identity says which file a descriptor of a regular file is of; ok is false for
// anything else, and where Peek is not possible.
func (d *Descriptor) Identity() (id Identity, ok bool) {
	if d.mode != modeFile || !d.peek.possible || !d.begin() {
		return id, false
	}
	defer d.end()
	var err error
	if id.Path, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(d.fd)); err != nil {
		return id, false
	}
	id.Offset = d.peek.base
	if err := unix.Fstat(d.fd, &id.Stat); err != nil || id.Stat.Mode&unix.S_IFMT != unix.S_IFREG || id.Stat.Nlink == 0 {
		return id, false
	}
	return id, true
}

// SetOffset moves the offset of a file, for all who share it. The file has one, or
// nothing happens.
func (d *Descriptor) SetOffset(at int64) {
	if d.mode != modeFile || !d.begin() {
		return
	}
	defer d.end()
	unix.Seek(d.fd, at, unix.SEEK_SET)
}

// discard takes n bytes from a pipe.
func (p *Poller) discard(pipe int, n int64) {
	for n > 0 {
		k, err := unix.Splice(pipe, nil, p.null, nil, int(min(n, 1<<30)), unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k <= 0 {
			return
		}
		n -= k
	}
}
