package machine

import (
	"context"
	"time"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/machine/vmmproc"
)

// restTime is how long nothing must have needed the machine before its guest is
// asked to give memory back.
const restTime = 5 * time.Second

// watchRest has the guest give memory back, once each time that the machine has
// come to rest: no session, and no process that one left behind and would miss
// its cache.
func (s *supervisor) watchRest(ctx context.Context) {
	var done time.Time // the quiet that has been used
	for {
		s.mu.Lock()
		quiet := s.quiet
		wait := time.Until(quiet.Add(s.rest))
		resting := s.sessions == 0 && wait <= 0
		s.mu.Unlock()
		if resting && !quiet.Equal(done) && s.isReady() {
			done = quiet
			if len(s.look(ctx)) == 0 {
				s.reclaim(ctx)
			}
		}
		if wait <= 0 {
			wait = s.rest
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// reclaim asks the guest. One that does not answer, or can't, keeps its memory.
func (s *supervisor) reclaim(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, guestLimit)
	defer cancel()
	var r guest.Reclaimed
	if s.vm.calls.Do(ctx, vmmproc.CallReclaim, nil, &r) == nil {
		s.mu.Lock()
		s.reclaimed += r.Bytes
		s.mu.Unlock()
	}
}
