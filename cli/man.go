package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// newManCommand prints manual pages, made of what help prints, so that the two
// agree. `make install` puts them where man finds them.
func newManCommand() *command {
	var list bool
	return &command{
		name: "man", args: "[COMMAND] [--list]", max: 1, hidden: true,
		short: "Print a manual page",
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&list, "list", false, "print the names of the commands that have a page")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if list {
				for _, c := range commands() {
					if !c.hidden {
						app.ui.say("%s", c.name)
					}
				}
				return nil
			}
			if len(args) == 0 {
				app.ui.say("%s", manual(app.version))
				return nil
			}
			c := findCommand(args[0])
			if c == nil || c.hidden {
				return app.unknown(args[0])
			}
			app.ui.say("%s", manualOf(c, app.version))
			return nil
		},
	}
}

// rules are how a linked command behaves; stile(1) tells them.
const rules = `A linked command behaves as if it were installed on the host: arguments,
environment, folder, umask and limits are the caller's; it reads and writes the
caller's descriptors; it ends with the guest command's exit status, or by the
signal that killed it; signals that it gets go to the guest command.

Folders that are shared are at the same path on both sides: the home folder and
/tmp, and what "stile share" adds. A command called in another folder is refused.

The guest's local time is the host's until somebody sets it in the guest, and the
clock is set where it is off. A locale that the distro lacks becomes C.UTF-8. The
terminfo entry of a terminal that it does not know goes along with the command;
where the host does not know the terminal either it is called xterm-256color.

What the guest command does not read of standard input stays for the next reader.
A terminal is read only when the guest command wants input.

sudo with a linked command is root in the same distro, the machine stays yours, and
what it writes into a shared folder is yours too. The links' folder is not on the
PATH that sudo uses, so that the whole path is wanted: sudo "$(command -v apt)".
"sudo stile run" and "sudo stile shell" take your distro where root has none.

The machine starts when the first command needs it, and ends when no command has
run for the idle time and none has left a process behind.`

// manual is the page of stile itself, in man(7).
func manual(version string) string {
	p := newPage("STILE", version)
	p.section("NAME")
	p.text(`stile \- commands of Linux guests in the host's shell`)
	p.section("SYNOPSIS")
	p.text(`\fBstile\fR \fICOMMAND\fR [\fIARGUMENT\fR...]`)
	p.section("DESCRIPTION")
	p.prose(rules)
	p.section("COMMANDS")
	for _, c := range commands() {
		if !c.hidden {
			p.item(`\fBstile\-`+roff(c.name)+`\fR(1)`, roff(c.short)+".")
		}
	}
	p.section("CONFIGURATION")
	p.verbatim(configHelp)
	p.section("ENVIRONMENT")
	p.item(`\fBSTILE_ENGINE\fR`, "the engine of machines that are started: auto, kvm or qemu.")
	p.section("EXIT STATUS")
	p.text("125: stile itself failed. 126: the command can't be executed. 127: it is not there. Otherwise the command's own.")
	return p.String()
}

// manualOf is the page of one command.
func manualOf(c *command, version string) string {
	p := newPage("STILE-"+strings.ToUpper(c.name), version)
	p.section("NAME")
	p.text(`stile\-` + roff(c.name) + ` \- ` + roff(c.short))
	p.section("SYNOPSIS")
	p.text(`\fB` + roff(c.usage()) + `\fR`)
	if c.long != "" {
		p.section("DESCRIPTION")
		p.prose(c.long)
	}
	first := true
	c.flagSet().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		if first {
			p.section("OPTIONS")
			first = false
		}
		name, usage := pflag.UnquoteUsage(f)
		term := `\fB\-\-` + roff(f.Name) + `\fR`
		if f.Shorthand != "" {
			term = `\fB\-` + f.Shorthand + `\fR, ` + term
		}
		if name != "" {
			term += ` \fI` + roff(name) + `\fR`
		}
		p.item(term, roff(usage)+".")
	})
	p.section("SEE ALSO")
	p.text(`\fBstile\fR(1)`)
	return p.String()
}

// A page is a manual page in the making.
type page struct{ strings.Builder }

func newPage(title, version string) *page {
	p := new(page)
	fmt.Fprintf(p, ".TH %s 1 \"\" \"stile %s\"\n", roff(title), roff(version))
	return p
}

func (p *page) section(name string) { fmt.Fprintf(p, ".SH %s\n", name) }

// text is one paragraph that is roff already.
func (p *page) text(s string) { fmt.Fprintln(p, s) }

func (p *page) item(term, text string) { fmt.Fprintf(p, ".TP\n%s\n%s\n", term, text) }

// prose is plain text: paragraphs, and lines that are set in by blanks, which
// stay as they are.
func (p *page) prose(s string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			fmt.Fprintln(p, ".PP")
		}
		if strings.HasPrefix(paragraph, " ") {
			p.verbatim(paragraph)
			continue
		}
		fmt.Fprintln(p, roff(paragraph))
	}
}

func (p *page) verbatim(s string) { fmt.Fprintf(p, ".nf\n%s\n.fi\n", roff(s)) }

// roff quotes plain text: backslashes, hyphens that are typed, and what at a
// line's start would be a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
