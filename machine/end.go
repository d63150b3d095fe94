package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// reasonLimit is how long QEMU may take to say why it ended, after it has closed
// its connections to the vmm process.
const reasonLimit = 2 * time.Second

// ended is why the machine is no more, after one of its processes has ended
// though nobody asked it to: the words of the process that ended by itself, and
// the guest's. up is whether the guest had come up.
func (v *vm) ended(up bool) error {
	err := v.processError()
	panicked, last := lastWords(v.console)
	switch {
	case err != nil && last != "":
		return fmt.Errorf("%w; the guest's last words: %s", err, last)
	case err != nil:
		return err
	case panicked != "":
		return fmt.Errorf("the guest's kernel panicked: %s", panicked)
	}
	// Restarts that are wanted follow a call that asks for them.
	why := "the guest restarted"
	if !up {
		why = "the guest's kernel restarted before it was up"
	}
	if last != "" {
		why += "; its last words: " + last
	}
	return errors.New(why)
}

// processError is what the process that ended says of it, nil if that is a
// restart of the guest. The vmm process ends, content, when QEMU has gone: QEMU
// is asked, too.
func (v *vm) processError() error {
	var deadline <-chan time.Time
	select {
	case <-v.vmm.Done():
		if err := v.vmm.Err(); err != nil {
			return fmt.Errorf("vmm process: %w", err)
		}
		deadline = time.After(reasonLimit)
	default:
	}
	if v.qemu == nil {
		return nil
	}
	select {
	case <-v.qemu.Done():
		return v.qemu.Err()
	case <-deadline:
		return errors.New("the vmm process ended, QEMU did not")
	}
}

const (
	tailSize   = 16 << 10 // of the console, in which the last words are looked for
	wordsLimit = 200      // bytes of them
)

var (
	panicLine = regexp.MustCompile(`Kernel panic - not syncing: (.*)`)
	stamp     = regexp.MustCompile(`^\[ *\d+\.\d+\] `) // of the kernel's lines
)

// lastWords is what a guest's console says of its end: the reason of a panic, ""
// if there was none, and the last line. Both are fit to be printed, whatever the
// guest wrote.
func lastWords(console *os.File) (panicked, last string) {
	if console == nil {
		return "", ""
	}
	info, err := console.Stat()
	if err != nil {
		return "", ""
	}
	at := max(0, info.Size()-tailSize)
	tail, err := io.ReadAll(io.NewSectionReader(console, at, info.Size()-at))
	if err != nil {
		return "", ""
	}
	for line := range bytes.Lines(tail) {
		text := words(string(line))
		// The supervisor's own lines stand in the same file.
		if text == "" || strings.HasPrefix(text, "stile: ") {
			continue
		}
		last = text
		if m := panicLine.FindStringSubmatch(text); m != nil && panicked == "" {
			panicked = m[1]
		}
	}
	return panicked, last
}

// words makes a line of a guest's one that a terminal can be given.
func words(line string) string {
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return -1
		}
		return r
	}, line)
	line = strings.TrimSpace(stamp.ReplaceAllString(line, ""))
	if len(line) > wordsLimit {
		line = line[:wordsLimit] + "..."
	}
	return line
}
