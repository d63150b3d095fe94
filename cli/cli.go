// Package cli is the command line of stile: one file for each verb, and ui.go,
// which alone prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
)

// Exit statuses of stile's own, as env(1) and docker have them. What a guest
// command ends with is passed on as it is.
const (
	exitOK     = 0
	exitFailed = 1   // of doctor: something is missing
	exitStile  = 125 // stile itself failed
)

// A command is one verb.
type command struct {
	name    string
	args    string   // what follows the name, for the usage line
	short   string   // one line, for the list of commands
	long    string   // the rest of its help
	aliases []string // other names
	hidden  bool
	// flags defines the flags, if there are any.
	flags func(*pflag.FlagSet)
	// operands is whether flags end at the first argument that is none.
	operands bool
	min, max int // number of arguments; max < 0 is any
	run      func(ctx context.Context, app *app, args []string) error
}

// An app is what all commands work with.
type app struct {
	ui      *ui
	version string
	store   *distro.Store
}

// exitError ends the program with a status and no message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that makes no sense.
type usageError struct {
	command *command // nil for stile itself
	why     string
}

func (e *usageError) Error() string {
	if e.command == nil {
		return e.why
	}
	return e.command.name + ": " + e.why
}

// Hint is the usage line.
func (e *usageError) Hint() string {
	if e.command == nil {
		return "stile help lists the commands"
	}
	return "usage: " + e.command.usage()
}

func (c *command) usage() string {
	return strings.TrimSpace("stile " + c.name + " " + c.args)
}

func (c *command) flagSet() *pflag.FlagSet {
	flags := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	flags.SetInterspersed(!c.operands)
	flags.SortFlags = false
	flags.Usage = func() {}
	if c.flags != nil {
		c.flags(flags)
	}
	return flags
}

// commands are made anew for each use, for they hold the values of their flags.
func commands() []*command {
	return []*command{
		newInstallCommand(), newImportCommand(), newListCommand(), newRemoveCommand(), newDefaultCommand(),
		newRunCommand(), newShellCommand(),
		newLinkCommand(), newUnlinkCommand(), newLinksCommand(), newWhichCommand(),
		newInitCommand(), newPromptCommand(), newTrustCommand(), newUntrustCommand(),
		newShareCommand(), newUnshareCommand(), newSharesCommand(), newHostCommand(), newExplainCommand(),
		newStartCommand(), newStopCommand(), newStatusCommand(), newLogsCommand(),
		newTestscriptCommand(), newDoctorCommand(), newVersionCommand(), newHelpCommand(),
		newMachineCommand(), newVMMCommand(), newSitterCommand(), newManCommand(), newViewCommand(), newCompleteCommand(), newCompleterCommand(), newNotFoundCommand(),
	}
}

func findCommand(name string) *command {
	for _, c := range commands() {
		if c.name == name || slices.Contains(c.aliases, name) {
			return c
		}
	}
	return nil
}

// Main runs the command line args, without the program's name, and returns the
// exit status.
func Main(args []string, version string) int {
	ui := newUI(os.Stdout, os.Stderr)
	app := &app{ui: ui, version: version}
	err := app.main(args)
	var exit exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return int(exit)
	}
	return ui.fail(err)
}

func (a *app) main(args []string) error {
	if len(args) == 0 {
		return newHelpCommand().run(context.Background(), a, nil)
	}
	switch args[0] {
	case "-h", "--help":
		args = append([]string{"help"}, args[1:]...)
	case "-v", "--version":
		args = append([]string{"version"}, args[1:]...)
	}
	c := findCommand(args[0])
	if c == nil {
		return a.unknown(args[0])
	}
	flags := c.flagSet()
	if err := flags.Parse(args[1:]); errors.Is(err, pflag.ErrHelp) {
		a.ui.help(c)
		return nil
	} else if err != nil {
		return &usageError{c, err.Error()}
	}
	rest := flags.Args()
	switch {
	case len(rest) < c.min:
		return &usageError{c, "something is missing"}
	case c.max >= 0 && len(rest) > c.max:
		return &usageError{c, fmt.Sprintf("%q is too much", rest[c.max])}
	}
	dirs, err := distro.FindDirs()
	if err != nil {
		return err
	}
	a.store = distro.NewStore(dirs)
	ctx := context.Background()
	if !c.hidden {
		// The first signal ends what is under way in order, the second at once.
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		context.AfterFunc(ctx, stop)
		defer stop()
	}
	return c.run(ctx, a, rest)
}

// unknown is the error for a word that is no command: a guest's command, or a
// slip of the finger.
func (a *app) unknown(word string) error {
	e := &usageError{why: fmt.Sprintf("there is no command %q", word)}
	if strings.HasPrefix(word, "-") {
		e.why = fmt.Sprintf("there is no flag %s", word)
	}
	return e
}

// json defines the flag --json.
func jsonFlag(flags *pflag.FlagSet, p *bool) {
	flags.BoolVar(p, "json", false, "print JSON, for programs")
}

// distroFlag defines the flag -d.
func distroFlag(flags *pflag.FlagSet, p *string) {
	flags.StringVarP(p, "distro", "d", "", "the `distro` to use, instead of the default")
}
