package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/stilehq/stile/distro"
)

// A ui is the only thing that prints: results on out, everything else on err.
type ui struct {
	out, err       io.Writer
	outTTY, errTTY bool
	colour         bool // on err
	width          int  // of the terminal; 0 if out is none
}

func newUI(out, errs *os.File) *ui {
	u := &ui{out: out, err: errs}
	u.outTTY, u.errTTY = term.IsTerminal(int(out.Fd())), term.IsTerminal(int(errs.Fd()))
	if u.outTTY {
		if w, _, err := term.GetSize(int(out.Fd())); err == nil && w > 0 {
			u.width = w
		}
	}
	// https://no-color.org: set and not empty.
	u.colour = u.errTTY && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return u
}

// fail prints an error and its hint, and returns the exit status.
func (u *ui) fail(err error) int {
	line, hint, status := explain(err)
	name := "stile:"
	if u.colour {
		name = "\x1b[1;31mstile:\x1b[0m"
	}
	fmt.Fprintf(u.err, "%s %s\n", name, line)
	if hint != "" {
		fmt.Fprintf(u.err, "stile: %s\n", hint)
	}
	return status
}

// note prints a remark that is no result and no error.
func (u *ui) note(format string, args ...any) {
	fmt.Fprintf(u.err, "stile: "+format+"\n", args...)
}

// say prints one line of a result.
func (u *ui) say(format string, args ...any) {
	fmt.Fprintf(u.out, format+"\n", args...)
}

// write copies bytes to the output.
func (u *ui) write(r io.Reader) error {
	_, err := io.Copy(u.out, r)
	return err
}

// relay passes on what another stile has said of a failure.
func (u *ui) relay(r io.Reader) {
	io.Copy(u.err, r) // where that fails nobody is left to be told
}

// json prints a value, indented. A nil list is an empty one.
func (u *ui) json(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if string(data) == "null" {
		data = []byte("[]")
	}
	u.say("%s", data)
	return nil
}

// table prints rows under a header, in columns. On a terminal that is too narrow
// the last column is cut.
func (u *ui) table(header []string, rows [][]string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range append([][]string{header}, rows...) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(printable(cell))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if r := []rune(text); u.width > 1 && len(r) > u.width {
			text = string(r[:u.width-1]) + "…"
		}
		u.say("%s", text)
	}
}

// printable keeps control characters, which a name or an argument may hold, from
// the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

// help prints what a command is for and its flags.
func (u *ui) help(c *command) {
	u.say("usage: %s\n\n%s.", c.usage(), c.short)
	if c.long != "" {
		u.say("\n%s", strings.TrimSpace(c.long))
	}
	flags := c.flagSet()
	if flags.HasAvailableFlags() {
		u.say("\nflags:\n%s", strings.TrimRight(flags.FlagUsagesWrapped(u.width), "\n"))
	}
}

// commandList prints the commands that are not hidden.
func (u *ui) commandList(list []*command) {
	u.say("stile runs commands of a Linux guest as if they were the host's own.\n\nusage: stile COMMAND [ARGUMENT...]\n")
	for _, c := range list {
		if !c.hidden {
			u.say("  %-10s %s", c.name, c.short)
		}
	}
	u.say("\nstile help COMMAND tells more of each, stile help config of the settings.")
}

// checks prints what doctor found, the cure below what lacks.
func (u *ui) checks(list []check) {
	width := 0
	for _, c := range list {
		width = max(width, len(c.Name))
	}
	for _, c := range list {
		u.say("%-8s %-*s  %s", c.Level, width, c.Name, printable(c.Detail))
		if c.Cure != "" {
			u.say("%-8s %-*s  → %s", "", width, "", c.Cure)
		}
	}
}

// scriptDone prints how a script ended, and its log where that is wanted.
func (u *ui) scriptDone(r *scriptResult, verbose bool) {
	u.say("%-4s  %6.2fs  %s", r.Outcome, r.Seconds, printable(r.Name))
	if verbose || r.Outcome == outcomeFail {
		for line := range strings.Lines(r.Log) {
			u.say("    %s", printable(strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    ")))
		}
	}
}

// A progress shows how far a long piece of work is. On a terminal it is one line
// that changes; elsewhere each step is a line, and bytes are not shown.
type progress struct {
	ui    *ui
	step  string
	total int64 // bytes; 0 if it isn't known
	done  int64
	start time.Time
	last  time.Time
	shown bool
}

func (u *ui) progress() *progress { return &progress{ui: u} }

// begin shows a new step.
func (p *progress) begin(step string) {
	p.step, p.total, p.done = step, 0, 0
	p.start, p.last = time.Now(), time.Time{}
	if !p.ui.errTTY {
		fmt.Fprintf(p.ui.err, "%s\n", step)
		return
	}
	p.draw()
}

// beginBytes shows a new step whose bytes are counted; off a terminal it is
// silent.
func (p *progress) beginBytes(step string, total int64) {
	p.step, p.total, p.done = step, total, 0
	p.start, p.last = time.Now(), time.Time{}
	p.draw()
}

// add counts bytes.
func (p *progress) add(n int) {
	p.done += int64(n)
	if now := time.Now(); now.Sub(p.last) >= 100*time.Millisecond {
		p.last = now
		p.draw()
	}
}

func (p *progress) draw() {
	if !p.ui.errTTY {
		return
	}
	p.shown = true
	text := p.step
	if p.done > 0 {
		text += ": " + distro.Size(p.done).String()
		if p.total > 0 {
			text += fmt.Sprintf(" of %v (%d %%)", distro.Size(p.total), p.done*100/p.total)
		}
		if d := time.Since(p.start).Seconds(); d > 0.5 {
			text += fmt.Sprintf(", %v/s", distro.Size(float64(p.done)/d))
		}
	}
	fmt.Fprintf(p.ui.err, "\r\x1b[K%s", text)
}

// end takes the line away.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.ui.err, "\r\x1b[K")
		p.shown = false
	}
}

// reader counts what is read through it.
func (p *progress) reader(r io.Reader) io.Reader { return &progressReader{r, p} }

type progressReader struct {
	r io.Reader
	p *progress
}

func (r *progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.add(n)
	return n, err
}
