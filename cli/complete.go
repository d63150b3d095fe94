package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stilehq/stile/completions"
	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine"
)

// newCompleteCommand is what the shells' hooks ask at each TAB. The arguments
// after the shell's name are for bash COMP_LINE, COMP_POINT and COMP_WORDBREAKS,
// for the others the words up to the cursor, without their quotes (fish: the last
// one with them).
func newCompleteCommand() *command {
	return &command{
		name: "complete", args: "SHELL WORD...", min: 2, max: -1, operands: true, hidden: true,
		short: "Print candidates for the word at the cursor (the shells' hooks ask)",
		run: func(ctx context.Context, app *app, args []string) error {
			return runComplete(ctx, app, args[0], args[1:])
		},
	}
}

// completeNative is the exit status that has fish complete file names itself.
const completeNative = 3

// runComplete says nothing of what goes wrong: a line in the middle of what the
// user types is worse than no candidates.
func runComplete(ctx context.Context, app *app, shell string, args []string) error {
	var words []completions.Word
	breaks := completions.Breaks
	switch shell {
	case "bash":
		if len(args) != 3 {
			return exitError(exitFailed)
		}
		point, err := strconv.Atoi(args[1])
		if err != nil {
			return exitError(exitFailed)
		}
		words, breaks = completions.ParseBash(args[0], point), args[2]
	case "zsh", "fish", "pwsh":
		for i, a := range args {
			w := completions.Word{Text: a}
			if i == len(args)-1 {
				w = completions.ParseWord(shell, a)
			}
			words = append(words, w)
		}
	default:
		return exitError(exitFailed)
	}
	q, r := complete(ctx, app, words)
	if r == nil {
		r = &completions.Reply{Native: true}
	}
	var text string
	switch shell {
	case "bash":
		text = r.Bash(&q.Command, breaks)
	case "zsh":
		text = r.Zsh()
	default:
		text = r.Lines()
	}
	if err := app.ui.write(strings.NewReader(text)); err != nil {
		return err
	}
	if r.Native && shell != "bash" && shell != "zsh" {
		return exitError(completeNative)
	}
	return nil
}

// complete finds the candidates for the last of words. The Reply is nil where the
// shell is to complete file names itself.
func complete(ctx context.Context, app *app, words []completions.Word) (*completions.Request, *completions.Reply) {
	q := &completions.Request{Command: completions.NewCommand(words)}
	if q.Command.Expands || len(words) < 2 {
		return q, nil
	}
	var err error
	if q.Dir, err = os.Getwd(); err != nil {
		q.Dir = "/"
	}
	name := words[0].Text
	var d *distro.Distro
	if filepath.Base(name) == "stile" {
		var r *completions.Reply
		if words, d, r = app.completeOwn(words); words == nil {
			if r != nil {
				r.Head = "" // the texts are whole words
			}
			return q, r
		}
	} else {
		path := lookPath(os.Getenv("PATH"), name)
		record, _, err := app.linkAt(path)
		if err != nil || record == nil {
			return q, nil
		}
		if d, err = app.store.Get(record.Distro); err != nil {
			return q, nil
		}
		// The function is that of what the link runs, and its own arguments count.
		command := record.Command
		if command == "" {
			command = filepath.Base(path)
		}
		with := []completions.Word{{Text: command}}
		for _, a := range record.Args {
			with = append(with, completions.Word{Text: a})
		}
		words = append(with, words[1:]...)
	}
	q.Command = completions.NewCommand(words)
	q.HostFiles = app.isShared(d.Name, q.Command.Cur)
	return q, app.askGuest(ctx, d, q)
}

// isShared reports whether a file name that is typed in the current folder means
// a file of the host's.
func (a *app) isShared(name, file string) bool {
	if !filepath.IsAbs(file) {
		return true
	}
	list, err := a.store.ShareList(name)
	if err != nil {
		return true
	}
	file = filepath.Clean(file)
	return slices.ContainsFunc(list, func(s distro.Share) bool {
		// What leads to a share is on both sides.
		return file == s.Path || strings.HasPrefix(file, s.Path+"/") || strings.HasPrefix(s.Path, strings.TrimSuffix(file, "/")+"/")
	})
}

// askGuest asks the distro's completion server and waits as long as the user
// allows. Without an answer what is remembered, or else the host's files, answer.
func (a *app) askGuest(ctx context.Context, d *distro.Distro, q *completions.Request) *completions.Reply {
	config, err := distro.LoadConfig(a.store.Dirs)
	if err != nil {
		return completions.FilesReply(q)
	}
	shell := config.Shell()
	ctx, cancel := context.WithTimeout(ctx, shell.CompleteWait)
	defer cancel()
	if answer, err := a.askResident(ctx, d, q, shell.CompleteStart); err == nil {
		return completions.NewReply(q, answer)
	}
	if answer := newCompletionCache(d).find(q); answer != nil {
		return completions.NewReply(q, answer)
	}
	return completions.FilesReply(q)
}

// completerSocket is the name of the completion server's socket in the folder of
// a running machine.
const completerSocket = "complete"

// askResident connects to the distro's resident, which it starts if there is none.
func (a *app) askResident(ctx context.Context, d *distro.Distro, q *completions.Request, start bool) (*completions.Answer, error) {
	path := filepath.Join(a.store.Dirs.MachineDir(d.Name), completerSocket)
	var dialer net.Dialer
	for started := false; ; started = true {
		c, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return completions.AskResident(ctx, c, q)
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if !started {
			if m, err := machine.Dial(ctx, d.Dir); err == nil {
				m.Close()
			} else if !start {
				return nil, err
			}
			if err := startCompleter(d.Name); err != nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// startCompleter starts a resident apart from the shell that wants it.
func startCompleter(name string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	cmd := exec.Command(self, completerCommand, name)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start completion server: %w", err)
	}
	return cmd.Process.Release()
}
