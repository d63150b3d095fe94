// Command shim stands behind every link: it has a guest command run in a machine
// and behaves as that command would if it ran here. It imports interop/wire and
// system calls, nothing else, since its start is part of each command's time.
//
// Build it with its entry point, without which it refuses to run:
//
//	CGO_ENABLED=0 go build -trimpath \
//		-ldflags "-s -w -E github.com/stilehq/stile/interop/early.entryBlocked" ./shim
//
// # Its life
//
// All signals are blocked from the first instruction on and read from a
// signalfd, which tells those that the terminal made (si_code). Everything
// happens on one thread around one poll(2): the machine's connection, signals,
// and the terminal, which the shim has open a second time, non-blocking. No
// descriptor of the caller's is ever made non-blocking.
//
// The record of the link (wire.Record) names the distro. If no machine answers,
// `stile start` is run. The request (wire.Run) goes out with the descriptors
// attached; once the machine has taken it (wire.TypeStarted) the shim lets go of
// its own copies, so that pipes end when the guest command ends them. Until then
// signals have their usual effect here; from then on they are the command's.
package main

import (
	"runtime"
	"syscall"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// attempts bounds how often a request is sent: a machine that ends before it has
// taken the request is replaced.
const attempts = 3

func init() {
	// Signal masks, and signals that the shim sends itself, are the thread's.
	runtime.LockOSThread()
}

func main() {
	if !early.Recorded() {
		fail(&wire.Error{Code: 125, What: "shim", Why: "built without its entry point", Hint: "build stile with make"})
	}
	c, err := newCall()
	if err != nil {
		fail(err)
	}
	s := &session{call: c, want: -1}
	s.signals.open()
	s.terminal.open()
	run, descriptors, err := s.request()
	if err != nil {
		fail(err)
	}
	s.table = run.Table
	message := wire.AppendMessage(nil, wire.TypeRun, run.Append(nil))
	if len(message)-wire.HeaderSize > wire.MaxPayload {
		fail(&wire.Error{Code: 126, What: run.Argv[0], Why: syscall.E2BIG.Error(), Hint: "pass fewer arguments at a time: xargs does"})
	}
	for i := range attempts {
		s.connect(i > 0)
		s.out, s.rights = message, descriptors
		s.relay()
	}
	fail(&wire.Error{Code: 125, What: "distro " + c.Distro, Why: "the machine ended before it had taken the command",
		Hint: "see: stile logs " + c.Distro})
}
