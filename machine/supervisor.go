package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/broker"
	"github.com/stilehq/stile/machine/vmmproc"
	"github.com/stilehq/stile/vmm"
)

// How long the supervisor waits for others.
const (
	startLimit    = 60 * time.Second // for the guest to come up
	guestLimit    = 5 * time.Second  // for a guest's answer to a question
	reportLimit   = time.Second      // for what a status can do without: whoever asks has little patience
	shutdownLimit = 20 * time.Second // for a guest's orderly end
	recheck       = 5 * time.Second  // between looks at what keeps a machine alive
	acceptPause   = 10 * time.Millisecond
)

// A supervisor is the state of a running machine.
type supervisor struct {
	spec     *spec
	idle     time.Duration
	status   Status // the constant part
	listener *net.UnixListener
	vm       *vm
	zone     *zoneWatch

	ready    chan struct{} // closed when the guest is up, or cannot come up
	readyErr error
	kernel   string

	mu       sync.Mutex
	sessions int
	quiet    time.Time     // since when no session ran
	left     []string      // processes that outlived their command, at the last look
	room     chan struct{} // not nil while the guest waits for room on the host's disk (room.go)

	rest      time.Duration // restTime, but for tests
	reclaimed uint64        // bytes that the guest has taken out of its page cache

	ending chan struct{} // closed when the machine is to end
	why    string        // then: the first reason
	forced chan struct{} // closed when it is to end at once
}

func newSupervisor(s *spec, idle time.Duration, status Status, l *net.UnixListener) *supervisor {
	v := &supervisor{spec: s, idle: idle, status: status, listener: l, zone: watchZone(localtime), quiet: time.Now(), rest: restTime,
		ready: make(chan struct{}), ending: make(chan struct{}), forced: make(chan struct{})}
	s.stalled = v.setStalled
	return v
}

// run serves the machine until it ends, and leaves nothing running. The error
// is why it ended, if nobody wanted that.
func (s *supervisor) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	vm, err := startVM(ctx, s.spec)
	if err != nil {
		s.failed(&wire.Error{Code: 125, What: "distro " + s.spec.guest.Distro, Why: err.Error(), Hint: "see: stile doctor"})
		go s.accept(ctx) // what waits at the socket gets the reason
		time.Sleep(100 * time.Millisecond)
		s.listener.Close()
		return err
	}
	s.vm = vm
	defer vm.kill()
	if s.spec.authorize != nil {
		b := broker.New(broker.Config{Authorize: s.spec.authorize, Sitter: []string{s.spec.stile, broker.SitterCommand}})
		defer b.Close()
		go s.serveStreams(b)
	}
	go s.events()
	go s.accept(ctx)
	go s.watchStart(ctx)
	go s.watchIdle(ctx)
	go s.watchRest(ctx)

	select {
	case <-vm.guestGone():
		err = vm.ended(s.isReady())
	case <-vm.vmm.Done():
		err = vm.ended(s.isReady())
	case <-ctx.Done():
		s.end(false, fmt.Sprint(context.Cause(ctx)))
		err = s.shutdown()
	case <-s.ending:
		err = s.shutdown()
	}
	s.listener.Close()
	s.failed(s.startError(err))
	return err
}

// startError is for those who wait for a guest that will not come up, as its
// machine has ended: for the reason err, or because that was asked for.
func (s *supervisor) startError(err error) error {
	e := &wire.Error{Code: 125, What: "distro " + s.spec.guest.Distro, Hint: "see: stile logs " + s.spec.guest.Distro}
	if err != nil {
		e.Why = err.Error()
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.Why = "its machine was ended before it was up: " + s.why
	return e
}

// end asks for the machine's end, in order or at once. The log tells why.
func (s *supervisor) end(force bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spec.console != nil {
		fmt.Fprintf(s.spec.console, "stile: distro %s: ends: %s\n", s.spec.guest.Distro, why)
	}
	if s.why == "" {
		s.why = why
	}
	closeOnce(s.ending)
	if force {
		closeOnce(s.forced)
	}
}

// closeOnce closes c if it is open; the caller holds the lock that everybody
// who closes c holds.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// shutdown ends the guest in order where it can, and by force where it was
// asked to or the guest does not end in time. No new command is taken. A guest
// that waits for room for what it has to write is given the time.
func (s *supervisor) shutdown() error {
	s.listener.Close()
	if !s.isReady() {
		return nil
	}
	for {
		err := s.endGuest()
		room := s.stalled()
		if err == nil || room == nil {
			return err
		}
		select {
		case <-room:
		case <-s.forced:
			return nil
		case <-s.vm.guestGone():
			return s.vm.ended(true)
		}
	}
}

// endGuest asks the guest to end, and waits for that.
func (s *supervisor) endGuest() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	go func() {
		select {
		case <-s.forced:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.vm.calls.Do(ctx, vmmproc.CallShutdown, nil, nil)
	if err == nil {
		select {
		case <-s.vm.guestGone():
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil // by force, as asked
	}
	select {
	case <-s.vm.guestGone():
		err = s.vm.ended(true) // it says more than that there was no answer
	default:
	}
	return fmt.Errorf("end in order: %w", err)
}

func (s *supervisor) isReady() bool {
	select {
	case <-s.ready:
		return s.readyErr == nil
	default:
		return false
	}
}

// failed makes everybody who waits for the guest fail with err.
func (s *supervisor) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readyErr == nil && s.kernel == "" {
		s.readyErr = err
	}
	closeOnce(s.ready)
}

// events reads what the vmm process reports.
func (s *supervisor) events() {
	reader := wire.NewReader(s.vm.serve.Read)
	for {
		typ, payload, err := reader.Next()
		if err != nil {
			return // the vmm process has ended, which run sees
		}
		if typ != wire.TypeEvent {
			continue
		}
		name, body, err := vmmproc.ParseEvent(payload)
		if err != nil {
			continue
		}
		switch name {
		case vmmproc.EventReady:
			var r vmmproc.Ready
			if json.Unmarshal(body, &r) != nil {
				continue
			}
			if r.Err != nil {
				s.failed(r.Err)
				s.end(true, r.Err.Error())
				continue
			}
			s.mu.Lock()
			s.kernel = r.Kernel
			s.quiet = time.Now()
			closeOnce(s.ready)
			s.mu.Unlock()
		case vmmproc.EventSessions:
			var n int
			if json.Unmarshal(body, &n) != nil {
				continue
			}
			s.mu.Lock()
			if n == 0 && s.sessions > 0 {
				s.quiet = time.Now()
			}
			s.sessions = n
			s.mu.Unlock()
		case vmmproc.EventStalled:
			var stalled bool
			if json.Unmarshal(body, &stalled) == nil {
				s.setStalled(stalled)
			}
		}
	}
}

// watchStart ends a machine whose guest does not come up.
func (s *supervisor) watchStart(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
	case <-time.After(startLimit):
		s.failed(&wire.Error{Code: 125, What: "distro " + s.spec.guest.Distro,
			Why:  fmt.Sprintf("the guest did not come up within %v", startLimit),
			Hint: "see: stile logs " + s.spec.guest.Distro})
		s.end(true, "it did not come up in time")
	}
}

// watchIdle ends a machine that nothing has needed for the idle time: no
// session ran, and no process that one left behind.
func (s *supervisor) watchIdle(ctx context.Context) {
	if s.idle <= 0 {
		return
	}
	for {
		s.mu.Lock()
		wait := time.Until(s.quiet.Add(s.idle))
		if s.sessions > 0 {
			wait = s.idle
		}
		if s.room != nil {
			wait = recheck
		}
		idle := wait <= 0
		s.mu.Unlock()
		if idle && s.isReady() {
			if len(s.look(ctx)) == 0 && s.endIfQuiet() {
				return
			}
			wait = recheck
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(wait, 10*time.Millisecond)):
		}
	}
}

// look asks the guest for what sessions left behind. A guest that does not
// answer has nothing that could keep it alive.
func (s *supervisor) look(ctx context.Context) []string {
	left, _ := s.processes(ctx, guestLimit)
	s.mu.Lock()
	s.left = left
	s.mu.Unlock()
	return left
}

// processes asks the guest for what sessions left behind.
func (s *supervisor) processes(ctx context.Context, limit time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var p guest.Processes
	if err := s.vm.calls.Do(ctx, vmmproc.CallProcesses, nil, &p); err != nil {
		return nil, err
	}
	var left []string
	for _, q := range p.Left {
		left = append(left, fmt.Sprintf("%d %s", q.PID, q.Command))
	}
	return left, nil
}

// endIfQuiet ends the machine unless a session began meanwhile.
func (s *supervisor) endIfQuiet() bool {
	s.mu.Lock()
	quiet := s.sessions == 0 && time.Since(s.quiet) >= s.idle && s.room == nil
	s.mu.Unlock()
	if quiet {
		s.end(false, "nothing has needed it for "+s.idle.String())
	}
	return quiet
}

// accept takes the connections of shims and of the command line.
func (s *supervisor) accept(ctx context.Context) {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// As many descriptors are open as may be: some will be closed.
			time.Sleep(acceptPause)
			continue
		}
		go s.serve(ctx, conn)
	}
}

// serve handles one connection: a Run goes on to the vmm process, a Call is
// answered here.
func (s *supervisor) serve(ctx context.Context, conn *net.UnixConn) {
	keep := false
	defer func() {
		if !keep {
			conn.Close()
		}
	}()
	if err := checkPeer(conn); err != nil {
		s.refuse(conn, err)
		return
	}
	first, err := session.Receive(conn)
	if err != nil {
		return // a probe, or a shim that died
	}
	defer first.Close()
	switch first.Type {
	case wire.TypeRun:
		s.mu.Lock()
		s.quiet = time.Now() // a session is on its way
		s.mu.Unlock()
		select {
		case <-s.ready:
		case <-ctx.Done():
		}
		if s.readyErr != nil {
			s.refuse(conn, s.readyErr)
			return
		}
		if err := s.awaitRoom(ctx, roomWait); err != nil {
			s.refuse(conn, err)
			return
		}
		s.followZone(ctx)
		if err := s.vm.gateway.Forward(conn, first); err != nil {
			s.refuse(conn, fmt.Errorf("hand session on: %w", err))
		}
	case wire.TypeCall:
		if call.Answer(ctx, conn, first.Payload, s.handle) != nil {
			return
		}
		call.Serve(ctx, conn, s.handle) // until the caller goes
	}
}

// refuse answers a first message with an error.
func (s *supervisor) refuse(conn net.Conn, err error) {
	e := call.AsError(err, "distro "+s.spec.guest.Distro)
	conn.SetWriteDeadline(time.Now().Add(guestLimit))
	conn.Write(wire.AppendMessage(nil, wire.TypeError, e.Append(nil)))
}

// checkPeer refuses anybody but the machine's own user: the socket's mode does
// so too, but a descriptor can be passed around.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, cerr); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return fmt.Errorf("user %d may not use this machine", cred.Uid)
	}
	return nil
}

// handle answers one call of the command line.
func (s *supervisor) handle(ctx context.Context, name string, body []byte) (any, error) {
	switch name {
	case callReady:
		select {
		case <-s.ready:
			return nil, s.readyErr
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case callStatus:
		var r statusRequest
		if len(body) > 0 { // that of an older stile has none
			if err := json.Unmarshal(body, &r); err != nil {
				return nil, err
			}
		}
		// Before the guest is asked for anything, which may not answer.
		var counts *vmm.Counts
		if r.Counts && s.vm != nil {
			counts = s.counts(ctx)
		}
		st := s.report(ctx)
		st.Counts = counts
		if counts != nil {
			st.Processes = []Process{countProcess("supervisor", os.Getpid(), runtime.NumGoroutine())}
			if s.vm.vmm != nil {
				st.Processes = append(st.Processes, countProcess("vmm process", s.vm.vmm.PID(), counts.Goroutines))
			}
		}
		return st, nil
	case callStop:
		var r stopRequest
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, err
		}
		if !r.Force {
			// It could not write out what it has.
			if err := s.awaitRoom(ctx, roomWait); err != nil {
				return nil, err
			}
		}
		s.end(r.Force, "stile stop")
		return nil, nil
	case callLinks:
		var links []string
		if err := json.Unmarshal(body, &links); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, guestLimit)
		defer cancel()
		return nil, s.vm.calls.Do(ctx, vmmproc.CallLinks, links, nil)
	case callShare, callUnshare:
		var share guest.Share
		if err := json.Unmarshal(body, &share); err != nil {
			return nil, err
		}
		to := vmmproc.CallShare
		if name == callUnshare {
			to = vmmproc.CallUnshare
		}
		ctx, cancel := context.WithTimeout(ctx, guestLimit)
		defer cancel()
		return nil, s.vm.calls.Do(ctx, to, share, nil)
	}
	return nil, fmt.Errorf("this machine knows no call of that name; it runs stile %s", s.status.Version)
}

// counts is what the machine has done; nil from a vmm process that is busy with a
// guest that does not answer.
func (s *supervisor) counts(ctx context.Context) *vmm.Counts {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	c := new(vmm.Counts)
	if s.vm.calls.Do(ctx, vmmproc.CallCounts, nil, c) != nil {
		return nil
	}
	return c
}

// report is the machine's status now. Its guest need not answer.
func (s *supervisor) report(ctx context.Context) Status {
	var left []string
	err := errors.New("not up")
	if s.isReady() {
		left, err = s.processes(ctx, reportLimit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil { // else what it was at the last look
		s.left = left
	}
	st := s.status
	st.PID = os.Getpid()
	st.Kernel = s.kernel
	st.Ready = s.kernel != ""
	st.Sessions = s.sessions
	st.Left = s.left
	st.Full = s.room != nil
	if s.sessions == 0 && len(s.left) == 0 && s.idle > 0 && s.room == nil {
		st.IdleIn = max(0, time.Until(s.quiet.Add(s.idle)).Seconds())
	}
	st.Memory = s.spec.memory
	st.Reclaimed = s.reclaimed
	if s.vm != nil {
		st.Resident = resident(os.Getpid()) + s.vm.resident()
	}
	return st
}
