package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// testCase is one promise of the patch. mode is what TIOCPKT is set to.
type testCase struct {
	name string
	mode int
	do   func(*pty) error
}

// steps runs what must all go well, and names the first that does not.
func steps(all ...func() error) error {
	for i, do := range all {
		if err := do(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// on starts the roles on the pty and gives the program to the steps.
func on(p *pty, roles []string, do func(g *program) error) error {
	g, err := p.start(roles...)
	if err != nil {
		return err
	}
	return do(g)
}

func roles(words ...string) []string { return words }

var cases = []testCase{
	{"a blocked read is reported with its count", modeWant, func(p *pty) error {
		return on(p, roles("r7", "r4000"), func(g *program) error {
			return steps(
				func() error { return p.want(7) },
				func() error { return p.write("abc") },
				func() error { return g.expect(`read "abc"`) },
				func() error { return p.want(4000) },
			)
		})
	}},
	{"what a read leaves is read without a report", modeWant, func(p *pty) error {
		return on(p, roles("r2", "r2", "r9"), func(g *program) error {
			return steps(
				func() error { return p.want(2) },
				func() error { return p.write("abcd") },
				func() error { return g.expect(`read "ab"`) },
				func() error { return g.expect(`read "cd"`) },
				func() error { return p.want(9) },
			)
		})
	}},
	{"a long read is counted and read in one", modeWant, func(p *pty) error {
		// The line discipline is asked for 64 bytes at a time.
		keys := strings.Repeat("0123456789", 15)
		return on(p, roles("r100", "r100", "r1"), func(g *program) error {
			return steps(
				func() error { return p.want(100) },
				func() error { return p.write(keys) },
				func() error { return g.expect(fmt.Sprintf("read %q", keys[:100])) },
				func() error { return g.expect(fmt.Sprintf("read %q", keys[100:])) },
				func() error { return p.want(1) },
			)
		})
	}},
	{"a poll is reported as 0", modeWant, func(p *pty) error {
		return on(p, roles("p", "r5"), func(g *program) error {
			return steps(
				func() error { return p.want(0) },
				func() error { return p.write("x") },
				func() error { return g.expect("poll true") },
				func() error { return g.expect(`read "x"`) },
				p.quiet,
			)
		})
	}},
	{"a poll for output is not reported", modeWant, func(p *pty) error {
		return on(p, roles("o"), func(g *program) error {
			return steps(func() error { return g.expect("poll true") }, p.quiet)
		})
	}},
	{"a read that does not wait is reported", modeWant, func(p *pty) error {
		return on(p, roles("n3"), func(g *program) error {
			return steps(
				func() error { return g.expect("read resource temporarily unavailable") },
				func() error { return p.want(3) },
			)
		})
	}},
	{"a read with VMIN 0 is reported", modeWant, func(p *pty) error {
		return on(p, roles("t0", "r3"), func(g *program) error {
			return steps(
				func() error { return g.expect("termios <nil>") },
				func() error { return g.expect(`read ""`) },
				func() error { return p.want(3) },
			)
		})
	}},
	{"a read that waits for VMIN asks for the rest", modeWant, func(p *pty) error {
		return on(p, roles("t4", "r8"), func(g *program) error {
			return steps(
				func() error { return g.expect("termios <nil>") },
				func() error { return p.want(8) },
				func() error { return p.write("ab") },
				func() error { return p.want(6) },
				func() error { return p.write("cdef") },
				func() error { return g.expect(`read "abcdef"`) },
			)
		})
	}},
	{"an edge-triggered reader is reported again", modeWant, func(p *pty) error {
		return on(p, roles("e64"), func(g *program) error {
			return steps(
				func() error { return p.want(0) },
				func() error { return p.write("ab") },
				func() error { return p.want(0) },
				func() error { return p.write("cd") },
				func() error { return g.expect(`read "ab" read "cd" `) },
			)
		})
	}},
	{"a poll in the background counts in the foreground only", modeWant, func(p *pty) error {
		return on(p, roles("bp"), func(g *program) error {
			return steps(
				p.quiet,
				func() error { return p.want(0) },
			)
		})
	}},
	{"a read in the background counts in the foreground only", modeWant, func(p *pty) error {
		return on(p, roles("br6"), func(g *program) error {
			return steps(
				p.quiet,
				func() error { return p.want(6) },
			)
		})
	}},
	{"input is not edited, echoed or made signals of", modeWant, func(p *pty) error {
		const keys = "ab\x7fc\x03\x1a\x1c\x13\x11\x15\x16\r\n"
		return on(p, roles("r64"), func(g *program) error {
			return steps(
				func() error { return p.want(64) },
				func() error { return p.write(keys) },
				func() error { return g.expect(fmt.Sprintf("read %q", keys)) },
				p.quiet,
				p.silent,
			)
		})
	}},
	{"also after stty sane", modeWant, func(p *pty) error {
		return on(p, roles("s", "r64"), func(g *program) error {
			return steps(
				func() error { return p.packet(pktIoctl, soon) },
				func() error { return g.expect("termios <nil>") },
				func() error { return p.want(64) },
				func() error { return p.write("a\x7f\x03") },
				func() error { return g.expect(`read "a\x7f\x03"`) },
				p.silent,
			)
		})
	}},
	{"each tcsetattr is reported", modeWant, func(p *pty) error {
		return on(p, roles("t1", "t1"), func(g *program) error {
			return steps(
				func() error { return p.packet(pktIoctl, soon) },
				func() error { return g.expect("termios <nil>") },
			)
		})
	}},
	{"end of file is VEOF alone", modeWant, func(p *pty) error {
		return on(p, roles("r9", "r9", "r9"), func(g *program) error {
			return steps(
				func() error { return p.want(9) },
				func() error { return p.write("\x04") },
				func() error { return g.expect(`read ""`) },
				func() error { return p.want(9) },
				func() error { return p.write("a\x04") },
				func() error { return g.expect(`read "a\x04"`) },
				func() error { return p.want(9) },
			)
		})
	}},
	{"a canonical read returns what is there", modeWant, func(p *pty) error {
		return on(p, roles("r64"), func(g *program) error {
			return steps(
				func() error { return p.want(64) },
				func() error { return p.write("one\ntwo") },
				func() error { return g.expect(`read "one\ntwo"`) },
			)
		})
	}},
	{"output is processed", modeWant, func(p *pty) error {
		return on(p, roles("w"), func(g *program) error {
			return steps(
				func() error { return g.expect("write <nil>") },
				p.quiet,
				func() error {
					if string(p.out) != "out\r\n" {
						return fmt.Errorf("output %q", p.out)
					}
					return nil
				},
			)
		})
	}},
	{"TIOCGPKT tells the mode", modeWant, func(p *pty) error {
		var mode int32
		if err := ioctl(p.master, getPkt, &mode); err != nil || mode != modeWant {
			return fmt.Errorf("TIOCGPKT: %d, %v", mode, err)
		}
		return nil
	}},
	{"mode 1 is as ever", 1, func(p *pty) error {
		return on(p, roles("r7"), func(g *program) error {
			return steps(
				p.quiet,
				func() error { return p.write("abx\x7f\n") },
				func() error { return g.expect(`read "ab\n"`) },
				func() error { return p.echoed("abx\b \b\r\n") },
			)
		})
	}},
	{"mode 0 is as ever", 0, func(p *pty) error {
		return on(p, roles("p", "r7"), func(g *program) error {
			time.Sleep(never)
			if readable(p.master, 0) {
				return errors.New("the master is readable")
			}
			return steps(
				func() error { return p.write("ab\n") },
				func() error { return g.expect("poll true") },
				func() error { return g.expect(`read "ab\n"`) },
			)
		})
	}},
}

// silent makes sure that nothing has been echoed.
func (p *pty) silent() error {
	if len(p.out) > 0 {
		return fmt.Errorf("echo %q", p.out)
	}
	return nil
}

// echoed makes sure that just this has been echoed.
func (p *pty) echoed(s string) error {
	if err := p.quiet(); err != nil {
		return err
	}
	if string(p.out) != s {
		return fmt.Errorf("echo %q, not %q", p.out, s)
	}
	return nil
}
