package distro

import (
	"fmt"
	"time"
)

// NotFound says what happens with a command that the host lacks and a guest has.
type NotFound string

// What can happen with it.
const (
	NotFoundRun   NotFound = "run"   // it runs in the guest
	NotFoundOffer NotFound = "offer" // the shell says how to run it there
	NotFoundOff   NotFound = "off"   // nothing: it is not even asked for
)

// UnmarshalText accepts the three words only.
func (n *NotFound) UnmarshalText(text []byte) error {
	switch v := NotFound(text); v {
	case NotFoundRun, NotFoundOffer, NotFoundOff:
		*n = v
		return nil
	}
	return fmt.Errorf("command_not_found %q: choose run, offer or off", text)
}

// ShellSettings are what the user may set for the hooks in his shells, in the
// table [shell] of config.toml:
//
//	command_not_found = "offer"   # run, offer, off
//	complete_wait = "300ms"       # how long TAB waits for the guest
//	complete_start = false        # TAB may start a machine
type ShellSettings struct {
	NotFound NotFound
	// CompleteWait is how long TAB waits for the guest's candidates before file
	// names answer.
	CompleteWait time.Duration
	// CompleteStart is whether TAB may start a machine that does not run.
	CompleteStart bool
}

type shellTable struct {
	NotFound      *text[NotFound, *NotFound] `toml:"command_not_found"`
	CompleteWait  *text[Duration, *Duration] `toml:"complete_wait"`
	CompleteStart bool                       `toml:"complete_start"`
}

// Shell returns the settings of the hooks.
func (c *Config) Shell() ShellSettings {
	s := ShellSettings{NotFound: NotFoundOffer, CompleteWait: 300 * time.Millisecond, CompleteStart: c.shell.CompleteStart}
	if c.shell.NotFound != nil {
		s.NotFound = c.shell.NotFound.value
	}
	if c.shell.CompleteWait != nil {
		s.CompleteWait = time.Duration(c.shell.CompleteWait.value)
	}
	return s
}
