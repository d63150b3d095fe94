package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/vmmproc"
)

// A distro's disk is a sparse file, which can outgrow the host's disk. The engine
// then holds the guest's writes back until there is room again: nothing is lost,
// and the file system stays whole. Who has a command running is told, who calls
// one meanwhile gets an error, and the machine does not end of itself.

// roomWait is how long a command waits for a machine that may just have got room.
const roomWait = 2 * time.Second

// setStalled notes that the guest waits for room, or does no more.
func (s *supervisor) setStalled(stalled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.room == nil) == !stalled {
		return
	}
	word := "the host's disk is full: the machine waits for room on it"
	if stalled {
		s.room = make(chan struct{})
		go s.tellFull()
	} else {
		word = "there is room on the host's disk: the machine goes on"
		close(s.room)
		s.room = nil
	}
	if s.spec.console != nil {
		fmt.Fprintf(s.spec.console, "stile: distro %s: %s\n", s.spec.guest.Distro, word)
	}
}

// tellFull tells those whose commands run. A guest that has not come up yet is ended
// instead: it has nothing to lose, and they who wait for it are told so.
func (s *supervisor) tellFull() {
	e := s.fullError()
	if !s.isReady() {
		e.Why, e.Hint = "the host's disk is full: the machine can't start", "make room on it, then try again"
		s.failed(e)
		s.end(true, e.Why)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), guestLimit)
	defer cancel()
	s.vm.calls.Do(ctx, vmmproc.CallNotice, e, nil) // a vmm process that does not answer has no one to tell
}

// fullError is what is said of a machine that waits for room.
func (s *supervisor) fullError() *wire.Error {
	name := s.spec.guest.Distro
	return &wire.Error{Code: 125, What: "distro " + name, Why: "the host's disk is full, and the machine waits for room on it",
		Hint: "make room and it goes on; to end it, with the loss of what is not yet written: stile stop --force " + name}
}

// stalled is closed when the guest waits for room no more, nil if it does not wait.
func (s *supervisor) stalled() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room
}

// awaitRoom waits so long for a guest that waits for room. The error says that it
// still does.
func (s *supervisor) awaitRoom(ctx context.Context, limit time.Duration) error {
	room := s.stalled()
	if room == nil {
		return nil
	}
	select {
	case <-room:
		return nil
	case <-ctx.Done():
	case <-time.After(limit):
	}
	return s.fullError()
}

// errFull is why an import whose disk has no room fails.
var errFull = fmt.Errorf("write disk: %w", unix.ENOSPC)

// watchStalled passes on, until the vmm process has ended, whether it says that its
// guest waits for room. Of all events an import has use for this one alone.
func (v *vm) watchStalled(stalled func(bool)) {
	reader := wire.NewReader(v.serve.Read)
	for {
		typ, payload, err := reader.Next()
		if err != nil {
			return
		}
		name, body, err := vmmproc.ParseEvent(payload)
		var is bool
		if typ == wire.TypeEvent && err == nil && name == vmmproc.EventStalled && json.Unmarshal(body, &is) == nil {
			stalled(is)
		}
	}
}
